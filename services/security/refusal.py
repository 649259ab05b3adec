"""Why a credential was refused: for metrics and the audit trail, never for the caller.

The caller of a refused call learns nothing but :class:`~services.corpus.errors.Unauthenticated`.
"""

from __future__ import annotations

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


class Refused(Exception):
    """A credential is not acceptable. Carries the reason alone: no part of the credential, no cause, no context."""

    def __init__(self, reason: Refusal) -> None:
        super().__init__(reason.value)
        self.reason = reason
