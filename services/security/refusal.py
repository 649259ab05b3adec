"""Why a credential was refused: for the operator's log, never for the caller.

The caller of a refused call learns nothing but :class:`~services.corpus.errors.Unauthenticated`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Refusal(StrEnum):
    """The internal reason of a refusal; its values are stable and safe as a metric's label."""

    MISSING = "missing"
    SEVERAL = "several"
    SCHEME = "scheme"
    MALFORMED = "malformed"
    HEADER = "header"
    TYPE = "type"
    ALGORITHM = "algorithm"
    ISSUER = "issuer"
    KEY = "key"
    SIGNATURE = "signature"
    TIME = "time"
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    LIFETIME = "lifetime"
    AUDIENCE = "audience"
    SUBJECT = "subject"
    TENANT = "tenant"
    MEMBERSHIP = "membership"
    TOKEN_ID = "token_id"  # noqa: S105 - the name of a reason, not a secret
    ACTOR = "actor"
    REVOKED = "revoked"
    REVOCATIONS_UNKNOWN = "revocations_unknown"
    PEER = "peer"
    UNEXPECTED = "unexpected"


WORDS: Mapping[Refusal, str] = {
    Refusal.MISSING: "the call has no authorization metadata: `authorization: Bearer TOKEN` is expected",
    Refusal.SEVERAL: "the call has several values of authorization metadata; one is expected",
    Refusal.SCHEME: "the authorization metadata is not `Bearer`, one space and a token",
    Refusal.MALFORMED: "the token is no JWT in its compact form, or is longer than tokens may be",
    Refusal.HEADER: "the token's header has a parameter that is never accepted: crit, b64, zip, jku, jwk, x5u or x5c",
    Refusal.TYPE: "the token's header says another `typ` than at+jwt",
    Refusal.ALGORITHM: "the token is signed with another algorithm than the issuer's setting `algorithm` says",
    Refusal.ISSUER: "the token's `iss` is no `name` of authentication.issuers; it must be equal in every character",
    Refusal.KEY: "the issuer's key set has no key for the token",
    Refusal.SIGNATURE: "the token's signature is wrong: it was altered, or signed with a key that is not the issuer's",
    Refusal.TIME: "the token's `iat` or `exp` is missing, or a time in it is no whole number of seconds",
    Refusal.EXPIRED: "the token has expired",
    Refusal.NOT_YET_VALID: "the token's `iat` or `nbf` is in the future: compare the clocks; `leeway` allows up to 30 s",
    Refusal.LIFETIME: "the token lives longer than the issuer's setting `max_lifetime` allows",
    Refusal.AUDIENCE: "the token is meant for another audience than the issuer's setting `audience` says",
    Refusal.SUBJECT: "the claim that names the user cannot name one",
    Refusal.TENANT: "the claim that names the tenant is missing, no identifier, or not in the setting `tenants`",
    Refusal.MEMBERSHIP: "a claim with groups or roles has a shape that cannot be read",
    Refusal.TOKEN_ID: "the token's `jti` or `origin` is malformed",
    Refusal.ACTOR: "the token says that one party acts for another (`act`), which only the mesh's own tokens may",
    Refusal.REVOKED: "the token, or every token of its user up to a moment, was revoked",
    Refusal.REVOCATIONS_UNKNOWN: "the list of revoked tokens cannot be read, so no token is accepted",
    Refusal.PEER: "the certificate of the calling service is not in tls.allowed_peers, or names another service",
    Refusal.UNEXPECTED: "an error that was not foreseen",
}
"""What each reason means, where there is nothing more exact to say."""


class Signature(StrEnum):
    """What is known of the signature of a refused token: what an unsigned one says is no reason to change settings."""

    VALID = "valid"
    INVALID = "invalid"
    UNKNOWN = "unknown"
    """Not looked at: there is no token, no issuer of that name, or no key."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """A refusal for the operator. Its words come from the settings and from this program, never from the token."""

    reason: Refusal
    words: str
    issuer: str = ""
    """The configured issuer that the token names; empty if it names none of those."""
    signature: Signature = Signature.UNKNOWN


class Refused(Exception):
    """A credential is not acceptable. Carries why: no part of the credential, no cause, no context."""

    def __init__(self, reason: Refusal, words: str = "") -> None:
        """``words`` say more exactly what is wrong and which setting to look at; without any part of the token."""
        super().__init__(reason.value)
        self.reason = reason
        self.words = words or WORDS[reason]
        self.issuer = ""
        self.signature = Signature.INVALID if reason is Refusal.SIGNATURE else Signature.UNKNOWN

    def explanation(self) -> Explanation:
        """What the operator is told."""
        return Explanation(self.reason, self.words, self.issuer, self.signature)
