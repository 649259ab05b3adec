"""The caller's identity, carried from service to service.

A service that calls another one presents a token of the mesh: the same tenant, subject, groups and roles, and an
``act`` claim (RFC 8693 §4.1) that names the service, with those that called before it nested inside. So the last one
still knows for whom it works and through whom. Such a token lives a minute at most and never longer than the one it
came from, whose issuer, id and time it carries on: revoking that one voids it at once.

Everybody who holds the mesh's secret can mint for anybody, so it belongs to services alone, and mutual TLS says which
of them is calling (mesh_identity.py).
"""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

from services.corpus.errors import FailedPrecondition, Unauthenticated
from services.security.claims import MAX_ACTORS, MESH_AUDIENCE, MESH_ISSUER, Claims, Issuer, Origin, is_actor
from services.security.keysets import Algorithm, StaticKeys, shared_secret
from services.security.minting import TokenMinter

LIFETIME = 60
MESH_TENANT = "mesh"
"""The tenant of services that call for nobody."""


def mesh_issuer(signing_secrets: Iterable[bytes], *, leeway: int = 10) -> Issuer:
    """The mesh as an issuer: tokens under any of ``signing_secrets`` (the present one, and those being replaced) count."""
    return Issuer(
        name=MESH_ISSUER,
        audiences=frozenset({MESH_AUDIENCE}),
        algorithm=Algorithm.HS256,
        keys=StaticKeys(shared_secret(secret) for secret in signing_secrets),
        max_lifetime=LIFETIME,
        leeway=leeway,
        mesh=True,
    )


@dataclass(frozen=True, slots=True)
class _Bearer:
    """For whom a token is, which is also what it is cached by."""

    tenant: str
    subject: str
    groups: frozenset[str]
    roles: frozenset[str]
    actors: tuple[str, ...]
    origin: Origin | None


@dataclass(frozen=True, slots=True)
class _Minted:
    token: str
    fresh_until: float


class MeshTokens:
    """Mints one service's tokens for its calls to others; each is used again until half of its life is over."""

    def __init__(
        self, secret: bytes, service: str, *, clock: Callable[[], float] = time.time, cache_size: int = 4096
    ) -> None:
        """``service`` is a short name or a SPIFFE ID; FailedPrecondition if it is neither, or the secret is weak."""
        if not is_actor(service):
            raise FailedPrecondition("a service of the mesh is named by a short name or a SPIFFE ID")
        self._minter = TokenMinter(secret, issuer=MESH_ISSUER, audience=MESH_AUDIENCE, clock=clock)
        self._service = service
        self._clock = clock
        self._cache_size = cache_size
        self._minted: OrderedDict[_Bearer, _Minted] = OrderedDict()

    def on_behalf_of(self, claims: Claims) -> str:
        """A token to call another service with, for the caller whose verified token says ``claims``.

        Raises Unauthenticated if that caller's own credential has expired meanwhile, and FailedPrecondition if the
        call has come through too many services already.
        """
        if len(claims.actors) >= MAX_ACTORS:
            raise FailedPrecondition(f"a call may pass through at most {MAX_ACTORS} services")
        actors = (self._service, *claims.actors)
        return self._token(_Bearer(claims.tenant, claims.subject, claims.groups, claims.roles, actors, claims.origin))

    def for_subject(
        self, *, tenant: str, subject: str, groups: Collection[str] = (), roles: Collection[str] = ()
    ) -> str:
        """A token for work that no caller waits for, such as a stored job; it begins with this service."""
        return self._token(_Bearer(tenant, subject, frozenset(groups), frozenset(roles), (self._service,), None))

    def _token(self, bearer: _Bearer) -> str:
        now = self._clock()
        minted = self._minted.get(bearer)
        if minted is None or now >= minted.fresh_until:
            minted = self._minted[bearer] = self._mint(bearer, now)
            while len(self._minted) > self._cache_size:
                self._minted.popitem(last=False)
        self._minted.move_to_end(bearer)
        return minted.token

    def _mint(self, bearer: _Bearer, now: float) -> _Minted:
        issued_at = int(now)
        expires_at = issued_at + LIFETIME
        claims: dict[str, Any] = {}
        if bearer.origin is not None:
            expires_at = min(expires_at, bearer.origin.valid_until)
            claims["origin"] = {
                "iss": bearer.origin.issuer,
                "jti": bearer.origin.token_id,
                "iat": bearer.origin.issued_at,
                "exp": bearer.origin.valid_until,
            }
        if expires_at <= now:
            raise Unauthenticated
        token = self._minter.sign(
            {
                "iat": issued_at,
                "exp": expires_at,
                "jti": secrets.token_hex(16),
                "sub": bearer.subject,
                "tenant": bearer.tenant,
                "groups": sorted(bearer.groups),
                "roles": sorted(bearer.roles),
                "act": _nested(bearer.actors),
                **claims,
            }
        )
        return _Minted(token, now + (expires_at - now) / 2)


def _nested(actors: tuple[str, ...]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for actor in reversed(actors):
        nested = {"sub": actor, "act": nested} if nested else {"sub": actor}
    return nested
