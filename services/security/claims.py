"""What a token must say (RFC 9068 §2.2, RFC 8725 §3) to be believed by this system.

Pure: the time is an argument. Times are whole seconds since 1970 (NumericDate without fractions).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from services.corpus.document import parse_identifier
from services.corpus.errors import FailedPrecondition, InvalidField
from services.corpus.principal import parse_principal
from services.security.keysets import Algorithm, KeySource
from services.security.mesh_identity import SpiffeId
from services.security.refusal import Refusal, Refused

LONGEST_LIFETIME = 86_400
"""Seconds that no token may outlive, whatever its issuer's settings: revocations are forgotten after that."""
MAX_LEEWAY = 30
MESH_ISSUER = "groundwire-mesh"
MESH_AUDIENCE = "groundwire-mesh"
MAX_ACTORS = 8
_MAX_GROUPS = 256
_MAX_ROLES = 64
_MAX_AUDIENCES = 16
_ROLE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+:\-]{0,127}")
_TOKEN_ID = re.compile(r"[\x21-\x7e]{1,256}")
_SERVICE = re.compile(r"[a-z][a-z0-9\-]{0,62}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """One party whose tokens are accepted, and how far it is trusted.

    Issuers that may speak for the same tenant share its names: ``alice`` of one is ``alice`` of the other.
    FailedPrecondition from the constructor if the limits are wider than allowed.
    """

    name: str
    """Exactly the ``iss`` claim."""
    audiences: frozenset[str]
    """A token must be meant for at least one of these."""
    algorithm: Algorithm
    keys: KeySource = field(repr=False)
    tenants: frozenset[str] = frozenset()
    """The only tenants that it may speak for; empty: any."""
    tenant_claim: str = "tenant"
    groups_claim: str = "groups"
    roles_claim: str = "roles"
    max_lifetime: int = 3600
    """The longest accepted ``exp - iat``, in seconds."""
    leeway: int = 10
    """How far the issuer's clock may be off, in seconds."""
    mesh: bool = False
    """Whether this is the mesh itself, whose tokens (and no others) name the services that act for the subject."""

    def __post_init__(self) -> None:
        if not self.name or not self.audiences or "" in self.audiences:
            raise FailedPrecondition("an issuer needs a name and at least one audience")
        if not 0 <= self.leeway <= MAX_LEEWAY:
            raise FailedPrecondition(f"the leeway must be 0 to {MAX_LEEWAY} seconds")
        if not 0 < self.max_lifetime <= LONGEST_LIFETIME:
            raise FailedPrecondition(f"the longest lifetime must be 1 to {LONGEST_LIFETIME} seconds")
        if self.mesh != (self.name == MESH_ISSUER):
            raise FailedPrecondition(f"the name {MESH_ISSUER} is for the mesh itself")
        for claim in (self.tenant_claim, self.groups_claim, self.roles_claim):
            if not claim or claim in _REGISTERED:
                raise FailedPrecondition("tenant, groups and roles need claims of their own")


@dataclass(frozen=True, slots=True)
class Origin:
    """The credential that a chain of calls began with. A derived token is void as soon as this is."""

    issuer: str
    token_id: str
    """Its ``jti``; empty if it has none: it can then be revoked with its subject only."""
    issued_at: int
    valid_until: int
    """When it stops being accepted: its ``exp`` and the leeway."""


@dataclass(frozen=True, slots=True)
class Claims:
    """What an acceptable token says. Only believe it once the signature is verified."""

    issuer: str
    subject: str
    tenant: str
    groups: frozenset[str]
    roles: frozenset[str]
    token_id: str
    issued_at: int
    expires_at: int
    valid_until: int
    actors: tuple[str, ...]
    """The services that act for the subject, the nearest first; empty for the subject's own token."""
    origin: Origin


_REGISTERED = frozenset({"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "act", "origin"})


def read_claims(claims: Mapping[str, Any], issuer: Issuer, now: float) -> Claims:
    """Check everything that ``claims`` of ``issuer`` must hold at ``now``; Refused with the first thing that is wrong."""
    if claims.get("iss") != issuer.name:
        raise Refused(Refusal.ISSUER)
    issued_at, expires_at = _times(claims, issuer, now)
    _check_audience(claims.get("aud"), issuer.audiences)
    token_id = claims.get("jti", "")
    if "jti" in claims and not is_token_id(token_id):
        raise Refused(Refusal.TOKEN_ID)
    tenant = claims.get(issuer.tenant_claim)
    if not isinstance(tenant, str) or not is_tenant(tenant) or (issuer.tenants and tenant not in issuer.tenants):
        raise Refused(Refusal.TENANT)
    if not is_subject(claims.get("sub")):
        raise Refused(Refusal.SUBJECT)
    groups = _strings(claims, issuer.groups_claim, _MAX_GROUPS)
    roles = _strings(claims, issuer.roles_claim, _MAX_ROLES)
    if not all(map(is_group, groups)) or not all(map(is_role, roles)):
        raise Refused(Refusal.MEMBERSHIP)
    valid_until = expires_at + issuer.leeway
    own = Origin(issuer.name, token_id, issued_at, valid_until)
    return Claims(
        issuer=issuer.name,
        subject=claims["sub"],
        tenant=tenant,
        groups=groups,
        roles=roles,
        token_id=token_id,
        issued_at=issued_at,
        expires_at=expires_at,
        valid_until=valid_until,
        actors=_actors(claims, issuer),
        origin=_origin(claims, own) if issuer.mesh else own,
    )


def is_tenant(value: object) -> bool:
    """Whether ``value`` may name a tenant: an identifier, so that it is safe in every key, path and cache."""
    try:
        return isinstance(value, str) and bool(parse_identifier(value, "tenant"))
    except InvalidField:
        return False


def is_subject(value: object) -> bool:
    """Whether ``user:value`` is a principal."""
    return _is_principal("user", value)


def is_group(value: object) -> bool:
    """Whether ``group:value`` is a principal."""
    return _is_principal("group", value)


def is_role(value: object) -> bool:
    """Whether ``value`` may name a role."""
    return _matches(_ROLE, value)


def is_token_id(value: object) -> bool:
    """Whether ``value`` may be a ``jti``: 1 to 256 printable ASCII characters without spaces."""
    return _matches(_TOKEN_ID, value)


def is_actor(value: object) -> bool:
    """Whether ``value`` names a service: a short name such as ``retrieval``, or a SPIFFE ID."""
    if _matches(_SERVICE, value):
        return True
    try:
        return isinstance(value, str) and bool(SpiffeId.parse(value))
    except InvalidField:
        return False


def _is_principal(kind: str, value: object) -> bool:
    try:
        return isinstance(value, str) and bool(parse_principal(f"{kind}:{value}"))
    except InvalidField:
        return False


def _matches(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _time(claims: Mapping[str, Any], name: str) -> int:
    value = claims.get(name)
    # A bool is an int in Python; a float would lose whole seconds where it is large.
    if type(value) is not int or value < 0:
        raise Refused(Refusal.TIME)
    return value


def _times(claims: Mapping[str, Any], issuer: Issuer, now: float) -> tuple[int, int]:
    issued_at, expires_at = _time(claims, "iat"), _time(claims, "exp")
    if not 0 < expires_at - issued_at <= issuer.max_lifetime:
        raise Refused(Refusal.LIFETIME)
    if issued_at > now + issuer.leeway:
        raise Refused(Refusal.NOT_YET_VALID)
    if "nbf" in claims and _time(claims, "nbf") > now + issuer.leeway:
        raise Refused(Refusal.NOT_YET_VALID)
    if now >= expires_at + issuer.leeway:
        raise Refused(Refusal.EXPIRED)
    return issued_at, expires_at


def _check_audience(value: object, wanted: frozenset[str]) -> None:
    audiences = [value] if isinstance(value, str) else value
    if not isinstance(audiences, list) or len(audiences) > _MAX_AUDIENCES:
        raise Refused(Refusal.AUDIENCE)
    if not all(isinstance(audience, str) for audience in audiences) or wanted.isdisjoint(audiences):
        raise Refused(Refusal.AUDIENCE)


def _strings(claims: Mapping[str, Any], name: str, limit: int) -> frozenset[str]:
    value = claims.get(name, [])
    if not isinstance(value, list) or len(value) > limit or not all(isinstance(item, str) for item in value):
        raise Refused(Refusal.MEMBERSHIP)
    return frozenset(value)


def _actors(claims: Mapping[str, Any], issuer: Issuer) -> tuple[str, ...]:
    if not issuer.mesh:
        if "act" in claims or "may_act" in claims:
            raise Refused(Refusal.ACTOR)
        return ()
    actors: list[str] = []
    holder: Mapping[str, Any] = claims
    while "act" in holder:
        actor = holder["act"]
        if not isinstance(actor, dict) or not actor.keys() <= {"sub", "act"} or not is_actor(actor.get("sub")):
            raise Refused(Refusal.ACTOR)
        actors.append(actor["sub"])
        holder = actor
    if not 0 < len(actors) <= MAX_ACTORS:
        raise Refused(Refusal.ACTOR)
    return tuple(actors)


def _origin(claims: Mapping[str, Any], own: Origin) -> Origin:
    if "origin" not in claims:
        return own  # a service began this itself, for instance to run a stored job for its owner
    value = claims["origin"]
    if not isinstance(value, dict) or value.keys() != {"iss", "jti", "iat", "exp"}:
        raise Refused(Refusal.TOKEN_ID)
    issuer, token_id = value["iss"], value["jti"]
    if not isinstance(issuer, str) or not (token_id == "" or is_token_id(token_id)):
        raise Refused(Refusal.TOKEN_ID)
    return Origin(issuer, token_id, _time(value, "iat"), _time(value, "exp"))
