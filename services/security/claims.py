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
from services.corpus.principal import MAX_NAME_BYTES, is_name
from services.security.claim_paths import MISSING, ClaimPath, find, parse_claim_path
from services.security.keysets import Algorithm, KeySource
from services.security.memberships import is_role, read_groups, read_roles
from services.security.mesh_identity import SpiffeId
from services.security.refusal import Refusal, Refused
from services.security.token_types import CONFIGURABLE, check_type

LONGEST_LIFETIME = 86_400
"""Seconds that no token may outlive, whatever its issuer's settings: revocations are forgotten after that."""
MAX_LEEWAY = 30
MESH_ISSUER = "groundwire-mesh"
MESH_AUDIENCE = "groundwire-mesh"
MAX_ACTORS = 8
_MAX_AUDIENCES = 16
_TOKEN_ID = re.compile(r"[\x21-\x7e]{1,256}")
_SERVICE = re.compile(r"[a-z][a-z0-9\-]{0,62}")
# Claims with a meaning of their own, which can name neither a tenant nor groups, roles or scopes.
_REGISTERED = frozenset({"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "act", "origin"})


@dataclass(frozen=True, slots=True)
class ClaimNames:
    """Where an issuer's tokens say what: each a claim's name or a JSON pointer (:mod:`services.security.claim_paths`).

    FailedPrecondition from the constructor if one of them is neither, or names a claim with another meaning.
    """

    user: str = "sub"
    tenant: str = "tenant"
    audience: str = "aud"
    groups: tuple[str, ...] = ()
    """Empty: ``groups``, which then is strictly a list of texts; so with ``roles``."""
    roles: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()
    """Where scopes stand that count as roles; empty: nowhere."""
    paths: Mapping[str, tuple[ClaimPath, ...]] = field(init=False, repr=False, compare=False)
    """The paths of each, by its name here."""

    def __post_init__(self) -> None:
        named = {
            "user": (self.user,),
            "tenant": (self.tenant,),
            "audience": (self.audience,),
            "groups": self.groups,
            "roles": self.roles,
            "scopes": self.scopes,
        }
        try:
            paths = {what: tuple(map(parse_claim_path, texts)) for what, texts in named.items()}
        except InvalidField as error:
            raise FailedPrecondition(f"an issuer's claim {error.why}") from None
        for what, allowed in (("user", {"sub"}), ("tenant", ()), ("groups", ()), ("roles", ()), ("scopes", ())):
            if any(path[0] in _REGISTERED.difference(allowed) for path in paths[what]):
                raise FailedPrecondition(f"an issuer's {what} need a claim of their own, not one with another meaning")
        object.__setattr__(self, "paths", paths)


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
    token_types: frozenset[str] = frozenset()
    """What is accepted beside ``at+jwt``: see :mod:`services.security.token_types`."""
    tenant: str = ""
    """The tenant of all its callers; empty: their tokens name it."""
    tenants: frozenset[str] = frozenset()
    """The only tenants that it may speak for; empty: any."""
    claims: ClaimNames = field(default_factory=ClaimNames)
    role_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Which roles a role or scope in its tokens stands for; then no other counts. Empty: each for itself."""
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
        if not self.token_types <= set(CONFIGURABLE):
            raise FailedPrecondition(f"token types are {', '.join(CONFIGURABLE)}")
        if self.tenant and not (is_tenant(self.tenant) and self.tenants <= {self.tenant}):
            raise FailedPrecondition("an issuer's tenant must be an identifier, and the only one of its tenants")
        if not all(is_role(role) for roles in self.role_names.values() for role in roles):
            raise FailedPrecondition("what an issuer's roles stand for must be names of roles")


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
    groups_left_out: int = 0
    """How many groups the token names that no principal can hold."""


def read_claims(claims: Mapping[str, Any], issuer: Issuer, now: float, token_type: str | None) -> Claims:
    """Check everything that ``claims`` of ``issuer`` must hold at ``now``; Refused with the first thing that is wrong.

    ``token_type`` is the ``typ`` of the token's header.
    """
    if claims.get("iss") != issuer.name:
        raise Refused(Refusal.ISSUER)
    check_type(token_type, claims, issuer.token_types)
    issued_at, expires_at = _times(claims, issuer, now)
    _check_audience(claims, issuer)
    token_id = claims.get("jti", "")
    if "jti" in claims and not is_token_id(token_id):
        raise Refused(Refusal.TOKEN_ID, "the token's `jti` is no text of 1 to 256 printable ASCII characters")
    tenant = _tenant(claims, issuer)
    subject = _subject(claims, issuer)
    paths = issuer.claims.paths
    groups, groups_left_out = read_groups(claims, paths["groups"])
    roles = read_roles(claims, paths["roles"], paths["scopes"], issuer.role_names)
    valid_until = expires_at + issuer.leeway
    own = Origin(issuer.name, token_id, issued_at, valid_until)
    return Claims(
        issuer=issuer.name,
        subject=subject,
        tenant=tenant,
        groups=groups,
        roles=roles,
        token_id=token_id,
        issued_at=issued_at,
        expires_at=expires_at,
        valid_until=valid_until,
        actors=_actors(claims, issuer),
        origin=_origin(claims, own) if issuer.mesh else own,
        groups_left_out=groups_left_out,
    )


def is_tenant(value: object) -> bool:
    """Whether ``value`` may name a tenant: an identifier, so that it is safe in every key, path and cache."""
    try:
        return isinstance(value, str) and bool(parse_identifier(value, "tenant"))
    except InvalidField:
        return False


def is_subject(value: object) -> bool:
    """Whether ``value`` may be a ``sub``: a user's name in ASCII (OpenID Connect Core §2)."""
    return is_user(value) and str(value).isascii()


def is_user(value: object) -> bool:
    """Whether there can be a user of the name ``value``."""
    return isinstance(value, str) and is_name("user", value)


def is_group(value: object) -> bool:
    """Whether there can be a group of the name ``value``."""
    return isinstance(value, str) and is_name("group", value)


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


def _matches(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _time(claims: Mapping[str, Any], name: str) -> int:
    value = claims.get(name)
    # A bool is an int in Python; a float would lose whole seconds where it is large.
    if type(value) is not int or value < 0:
        is_wrong = "is missing: its issuer has to say it (RFC 9068 §2.2)"
        if name in claims:
            is_wrong = "is no whole number of seconds: its issuer has to write it as one"
        raise Refused(Refusal.TIME, f"the token's `{name}` {is_wrong}")
    return value


def _times(claims: Mapping[str, Any], issuer: Issuer, now: float) -> tuple[int, int]:
    issued_at, expires_at = _time(claims, "iat"), _time(claims, "exp")
    lifetime = expires_at - issued_at
    if not 0 < lifetime <= issuer.max_lifetime:
        raise Refused(Refusal.LIFETIME, _lives_too_long(lifetime, issuer.max_lifetime))
    if issued_at > now + issuer.leeway:
        raise Refused(Refusal.NOT_YET_VALID)
    if "nbf" in claims and _time(claims, "nbf") > now + issuer.leeway:
        raise Refused(Refusal.NOT_YET_VALID)
    if now >= expires_at + issuer.leeway:
        raise Refused(Refusal.EXPIRED)
    return issued_at, expires_at


def _lives_too_long(lifetime: int, allowed: int) -> str:
    if lifetime <= 0:
        return "the token expires before it was issued"
    if lifetime > LONGEST_LIFETIME:
        return (
            f"the token lives longer than a day, which no setting allows: have its issuer make it {allowed} s or less"
        )
    return (
        f"the token lives {lifetime} s and the issuer's setting `max_lifetime` is {allowed}: "
        "have its issuer make it shorter, or set that higher"
    )


def _check_audience(claims: Mapping[str, Any], issuer: Issuer) -> None:
    value = find(claims, issuer.claims.paths["audience"][0])
    audiences = [value] if isinstance(value, str) else value
    meant = isinstance(audiences, list) and len(audiences) <= _MAX_AUDIENCES
    if (
        meant
        and all(isinstance(audience, str) for audience in audiences)
        and not issuer.audiences.isdisjoint(audiences)
    ):
        return
    named = issuer.claims.audience
    is_wrong = "is missing" if value is MISSING else "does not name any audience of the issuer's setting `audience`"
    advice = "have its issuer put the audience in"
    # Cognito's access tokens and Keycloak's without a mapper name the client that asked for them, and nothing else.
    for other in ("azp", "client_id", "cid", "appid"):
        name = claims.get(other)
        if other != named and isinstance(name, str) and name in issuer.audiences:
            advice += f', or set claims.audience = "{other}", which does name it'
            break
    else:
        advice += ", or set `audience` to what the issuer puts there for this API"
    raise Refused(Refusal.AUDIENCE, f"the token's `{named}` {is_wrong}: {advice}")


def _tenant(claims: Mapping[str, Any], issuer: Issuer) -> str:
    if issuer.tenant:
        return issuer.tenant
    named = issuer.claims.tenant
    tenant = find(claims, issuer.claims.paths["tenant"][0])
    if not isinstance(tenant, str) or not is_tenant(tenant):
        is_wrong = "is missing" if tenant is MISSING else "is no identifier"
        advice = "set `tenant` if all of the issuer's users are of one, or `claims.tenant` to the claim that names it"
        raise Refused(Refusal.TENANT, f"the token's `{named}` {is_wrong}: {advice}")
    if issuer.tenants and tenant not in issuer.tenants:
        raise Refused(Refusal.TENANT, f"the token's `{named}` is none of those in the issuer's setting `tenants`")
    return tenant


def _subject(claims: Mapping[str, Any], issuer: Issuer) -> str:
    named = issuer.claims.user
    subject = find(claims, issuer.claims.paths["user"][0])
    # What the mesh's tokens name was judged where it came from, and may stem from another claim.
    in_ascii = named == "sub" and not issuer.mesh
    if isinstance(subject, str) and (is_subject(subject) if in_ascii else is_user(subject)):
        return subject
    is_wrong = (
        "is missing"
        if subject is MISSING
        else f"is no name of 1 to {MAX_NAME_BYTES['user']} characters{' of ASCII' if in_ascii else ''} without control "
        "characters that is not itself a principal"
    )
    raise Refused(
        Refusal.SUBJECT, f"the token's `{named}` {is_wrong}: set `claims.user` to another claim that names the user"
    )


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
