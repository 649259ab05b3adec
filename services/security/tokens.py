"""Bearer tokens: from the ``authorization`` metadata to the caller they prove.

JWT access tokens (RFC 9068) under the rules of RFC 8725. PyJWT does the cryptography; taking tokens apart and judging
their claims is done here, by one strict parser, because PyJWT's defaults accept what the RFCs forbid and its errors
quote the token. Whatever is wrong, the caller gets the same :class:`~services.corpus.errors.Unauthenticated`, which
carries neither cause nor context; why goes to a callable, as an :class:`~services.security.refusal.Explanation`.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from services.corpus.errors import FailedPrecondition, Unauthenticated
from services.corpus.principal import Caller
from services.security.claims import MESH_ISSUER, Claims, Issuer, read_claims
from services.security.compact import MAX_TOKEN, Compact, check_size, parse_compact
from services.security.jwks import UNUSABLE
from services.security.keysets import Algorithm
from services.security.permissions import DEFAULT_ROLES, permissions_of
from services.security.refusal import WORDS, Explanation, Refusal, Refused, Signature

# RFC 6750 §2.1; one space, since no client sends more.
_AUTHORIZATION = re.compile(r"bearer ([A-Za-z0-9._~+/\-]+=*)", re.IGNORECASE | re.ASCII)

_LONGEST = MAX_TOKEN + len("Bearer ")


class RevocationView(Protocol):
    """What is revoked, as seen by who checks tokens."""

    @property
    def generation(self) -> int:
        """Grows with every revocation that becomes known."""

    def covers(self, claims: Claims) -> bool:
        """Whether the token that says ``claims`` is void."""

    def is_current(self) -> bool:
        """Whether what is known is recent enough to go by."""

    async def catch_up(self) -> None:
        """Try to become current, within a moment."""


@dataclass(frozen=True, slots=True)
class VerifiedToken:
    """An accepted token: the caller that it proves, and what it said."""

    caller: Caller
    claims: Claims


@dataclass(slots=True)
class _Accepted:
    verified: VerifiedToken
    issuer: Issuer
    keys_generation: int
    revocations_generation: int


class TokenVerifier:
    """Verifies tokens of a fixed set of issuers. Belongs to one event loop.

    Accepted tokens are remembered by their SHA-256, ``cache_size`` of them, the least recently used going first. A
    remembered token is accepted again without looking at its signature until it expires, its issuer's keys change, or
    a revocation covers it. Refused ones are not remembered: an attacker can make up any number of them.
    """

    def __init__(
        self,
        issuers: Iterable[Issuer],
        revocations: RevocationView,
        *,
        roles: Mapping[str, frozenset[str]] = DEFAULT_ROLES,
        on_refusal: Callable[[Explanation], None] = lambda _explanation: None,
        on_remark: Callable[[str, str], None] = lambda _issuer, _words: None,
        clock: Callable[[], float] = time.time,
        cache_size: int = 8192,
    ) -> None:
        """FailedPrecondition if two issuers have one name. ``clock`` gives Unix time in seconds.

        ``on_refusal`` is told why a credential was refused, each time; ``on_remark`` the issuer of an accepted token
        and what of it does not count, once while the token is remembered.
        """
        listed = list(issuers)
        self._issuers = {issuer.name: issuer for issuer in listed}
        if len(self._issuers) != len(listed):
            raise FailedPrecondition("each issuer can be configured once")
        self._revocations = revocations
        self._roles = roles
        self._on_refusal = on_refusal
        self._on_remark = on_remark
        self._clock = clock
        self._cache_size = cache_size
        self._accepted: OrderedDict[bytes, _Accepted] = OrderedDict()

    def remembered(self, values: Sequence[str]) -> VerifiedToken | None:
        """What :meth:`authenticate` would return at once, for a token that was accepted before; None if it might not."""
        if len(values) != 1 or len(values[0]) > _LONGEST or not self._revocations.is_current():
            return None
        try:
            return self._recall(_digest(values[0]))
        except Exception:  # noqa: BLE001 - whatever it is, authenticate says it without showing anything of a token
            return None

    async def authenticate(self, values: Sequence[str]) -> VerifiedToken:
        """The token in the values of a call's ``authorization`` metadata; Unauthenticated unless it is acceptable."""
        try:
            return await self._verify(values)
        except Refused as refused:
            explanation = refused.explanation()
        except Exception:  # noqa: BLE001 - an unforeseen error may quote the token, and must not let anybody in
            explanation = Explanation(Refusal.UNEXPECTED, WORDS[Refusal.UNEXPECTED])
        # Outside of the handlers, so that no context hangs on it; and a traceback shows no token among its locals.
        del values
        self._on_refusal(explanation)
        raise Unauthenticated

    def verify(self, token: str) -> Coroutine[Any, Any, VerifiedToken]:
        """Like :meth:`authenticate`, for a token that stands alone."""
        # Not a coroutine of its own, whose frame would show the token in an error's traceback.
        return self.authenticate((f"Bearer {token}",))

    async def confirm(self, values: Sequence[str], claims: Claims) -> None:
        """Raise Unauthenticated if the token that let a call in, and said ``claims``, has become void while it is open.

        The subject's own token counts by what :meth:`authenticate` goes by. A service's lives for a minute, so that it
        is of no use to others, and calls may take longer: it counts until what it came from expires or is revoked.
        """
        if not claims.actors:
            if self.remembered(values) is None:
                await self.authenticate(values)
            return
        if not self._revocations.is_current():
            await self._revocations.catch_up()
        if reason := self._void(claims):
            self._on_refusal(Explanation(reason, WORDS[reason]))
            raise Unauthenticated

    def _void(self, claims: Claims) -> Refusal | None:
        if not self._revocations.is_current():
            return Refusal.REVOCATIONS_UNKNOWN
        derived = claims.origin.issuer != claims.issuer
        if derived and self._clock() >= claims.origin.valid_until:
            return Refusal.EXPIRED
        return Refusal.REVOKED if self._revocations.covers(claims) else None

    async def _verify(self, values: Sequence[str]) -> VerifiedToken:
        if not self._revocations.is_current():
            # What is malformed is refused for that, and waits for nothing.
            _bearer(values)
            await self._revocations.catch_up()
            if not self._revocations.is_current():
                raise Refused(Refusal.REVOCATIONS_UNKNOWN)
        if len(values) != 1 or len(values[0]) > _LONGEST:
            raise Refused(_why_not(values))
        # Of the whole value: one that was accepted before is so without being taken apart again.
        digest = _digest(values[0])
        return self._recall(digest) or await self._examine(_bearer(values), digest)

    def _recall(self, digest: bytes) -> VerifiedToken | None:
        entry = self._accepted.get(digest)
        if entry is None:
            return None
        claims = entry.verified.claims
        if entry.keys_generation != entry.issuer.keys.generation or self._clock() >= claims.valid_until:
            del self._accepted[digest]
            return None
        generation = self._revocations.generation
        if entry.revocations_generation != generation:
            if self._revocations.covers(claims):
                del self._accepted[digest]
                raise Refused(Refusal.REVOKED)
            entry.revocations_generation = generation
        self._accepted.move_to_end(digest)
        return entry.verified

    async def _examine(self, token: str, digest: bytes) -> VerifiedToken:
        compact = parse_compact(token)
        issuer = self._issuer(compact.claims.get("iss"))
        try:
            if not issuer.mesh:
                check_size(token)
            return await self._judge(compact, issuer, digest)
        except Refused as refused:
            refused.issuer = issuer.name
            if refused.signature is Signature.UNKNOWN:
                refused.signature = _signature_by_known_keys(compact, issuer)
            raise

    async def _judge(self, compact: Compact, issuer: Issuer, digest: bytes) -> VerifiedToken:
        if compact.algorithm != issuer.algorithm.value:
            raise Refused(Refusal.ALGORITHM, _other_algorithm(compact.algorithm, issuer))
        # Before the signature: a token that expired together with its key must not cause a fetch of keys.
        claims = read_claims(compact.claims, issuer, self._clock(), compact.token_type)
        keys_generation = await self._check_signature(compact, issuer)
        # Nothing is awaited from here on, so that what is checked now still holds when it is remembered.
        if self._clock() >= claims.valid_until:
            raise Refused(Refusal.EXPIRED)
        if self._revocations.covers(claims):
            raise Refused(Refusal.REVOKED)
        verified = VerifiedToken(self._caller(claims), claims)
        self._accepted[digest] = _Accepted(verified, issuer, keys_generation, self._revocations.generation)
        while len(self._accepted) > self._cache_size:
            self._accepted.popitem(last=False)
        if not issuer.mesh:
            self._remark_on(verified)
        return verified

    def _remark_on(self, verified: VerifiedToken) -> None:
        claims = verified.claims
        if claims.groups_left_out:
            self._on_remark(
                claims.issuer,
                f"{claims.groups_left_out} groups of a token do not count: a name is empty, too long, or has control "
                "characters",
            )
        if not verified.caller.permissions:
            self._on_remark(
                claims.issuer,
                "a token permits nothing: it has no role that is known here; the issuer's `claims.roles` and "
                "`claims.scopes` say where its roles stand, and `roles` what they are called here",
            )

    def _issuer(self, name: object) -> Issuer:
        issuer = self._issuers.get(name) if isinstance(name, str) else None
        if issuer is None:
            raise Refused(Refusal.ISSUER, self._no_issuer(name))
        return issuer

    def _no_issuer(self, name: object) -> str:
        if not isinstance(name, str):
            return "the token has no `iss`"
        # What a person would take for the same name.
        similar = {_roughly(known): known for known in self._issuers}.get(_roughly(name))
        if similar is None or similar == MESH_ISSUER:
            return ""
        return f"the token's `iss` is almost {similar}: they differ in the scheme, a slash at the end, or capitals"

    async def _check_signature(self, compact: Compact, issuer: Issuer) -> int:
        key = issuer.keys.find(compact.key_id) or await issuer.keys.look_again(compact.key_id)
        # The generation that the key belongs to: nothing was awaited since it was found.
        generation = issuer.keys.generation
        if key is None or key.algorithm is not issuer.algorithm:
            raise Refused(Refusal.KEY, _no_key(compact, issuer))
        if not key.verifies(compact.signing_input, compact.signature):
            raise Refused(Refusal.SIGNATURE)
        return generation

    def _caller(self, claims: Claims) -> Caller:
        return Caller(
            tenant=claims.tenant,
            subject=claims.subject,
            groups=claims.groups,
            permissions=permissions_of(claims.roles, self._roles),
            acting_service=claims.actors[0] if claims.actors else "",
        )


def _signature_by_known_keys(compact: Compact, issuer: Issuer) -> Signature:
    # For the log alone: keys are not fetched for a token that is refused anyway.
    key = issuer.keys.find(compact.key_id)
    if key is None or not compact.algorithm == key.algorithm.value == issuer.algorithm.value:
        return Signature.UNKNOWN
    return Signature.VALID if key.verifies(compact.signing_input, compact.signature) else Signature.INVALID


def _other_algorithm(named: str, issuer: Issuer) -> str:
    if named not in {algorithm.value for algorithm in Algorithm}:
        return ""
    return f"the token is signed with {named} and the issuer's setting `algorithm` is {issuer.algorithm.value}"


def _no_key(compact: Compact, issuer: Issuer) -> str:
    if issuer.keys.generation == UNUSABLE:
        return "the issuer's keys could not be fetched: see the log, and its setting `jwks_url` or `jwks_file`"
    if compact.key_id is None:
        return f"the token has no `kid`, and the issuer has not exactly one key for {issuer.algorithm.value}"
    return (
        f"the issuer's key set has no {issuer.algorithm.value} key of the name in the token's `kid`: "
        "look at its settings `jwks_url` and `algorithm`; new keys are looked for every 30 s at most"
    )


def _roughly(name: str) -> str:
    return name.lower().rstrip("/").removeprefix("https://").removeprefix("http://")


def _digest(value: str) -> bytes:
    return hashlib.sha256(value.encode("utf-8", "surrogatepass")).digest()


def bearer_token(values: Sequence[str]) -> str:
    """The one bearer token among the values of the ``authorization`` metadata; Unauthenticated otherwise."""
    try:
        return _bearer(values)
    except Refused:
        del values
    raise Unauthenticated


def _why_not(values: Sequence[str]) -> Refusal:
    if len(values) != 1:
        return Refusal.SEVERAL if values else Refusal.MISSING
    return Refusal.MALFORMED


def _bearer(values: Sequence[str]) -> str:
    if len(values) != 1 or len(values[0]) > _LONGEST:
        raise Refused(_why_not(values))
    found = _AUTHORIZATION.fullmatch(values[0])
    if found is None:
        raise Refused(Refusal.SCHEME)
    return found[1]
