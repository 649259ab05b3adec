"""Domain errors: what can go wrong, in the language of the domain.

Every error that a domain raises on purpose is one of these; ``services.runtime.status`` maps each class to
exactly one gRPC status (a test proves the table total). The message is shown to callers, so it never holds a
query, a document's text, a path of this machine or a secret.

    GroundwireError
    ├── InvalidRequest        one or more fields are wrong; carries every violation
    ├── NotFound              the thing does not exist, or the caller may not know that it does
    ├── AlreadyExists
    ├── FailedPrecondition    the system is not in the state that the call needs; names the remedy
    │   └── KeysDestroyed     it was encrypted, and its keys were destroyed on purpose; there is no remedy
    ├── PermissionDenied
    ├── Unauthenticated       one identical message, whatever was wrong
    ├── ResourceExhausted     a limit or quota; carries when to come back
    ├── Unavailable           a dependency did not answer; carries when to come back
    │   ├── DiskFull          it has no space left; an operator has to free some
    │   └── CredentialsRefused    it refused who we say calls
    ├── DeadlineExceeded      the time that the caller gave ran out
    ├── NotYetImplemented     the contract promises it, this release does not have it yet
    └── DataLoss              stored data is damaged or fails its verification
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One wrong field of a request.

    ``field`` is the path in the request as the contract spells it, such as ``documents[2].media_type``.
    """

    field: str
    description: str


class GroundwireError(Exception):
    """Base of all domain errors.

    ``reason`` names a value of ``common.v1.ErrorReason`` without its prefix; ``metadata`` adds safe facts
    (a collection's name, a limit) for programs to read.
    """

    reason: str = "INTERNAL"

    def __init__(self, message: str, *, reason: str | None = None, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        if reason is not None:
            self.reason = reason
        self.metadata: dict[str, str] = dict(metadata or {})


class InvalidRequest(GroundwireError):
    """One or more fields of the request are wrong; all of them are named, not only the first."""

    reason = "INVALID_FIELD"

    def __init__(self, violations: Sequence[FieldViolation]) -> None:
        listed = "; ".join(f"{violation.field}: {violation.description}" for violation in violations[:5])
        more = f" (and {len(violations) - 5} more)" if len(violations) > 5 else ""
        super().__init__(f"invalid request: {listed}{more}")
        self.violations = tuple(violations)


class NotFound(GroundwireError):
    """The named thing does not exist for this caller."""

    reason = "NOT_FOUND"


class AlreadyExists(GroundwireError):
    """A thing of that name exists already."""

    reason = "ALREADY_EXISTS"


class FailedPrecondition(GroundwireError):
    """The call is right but the system's state forbids it; the message names the remedy."""

    reason = "FAILED_PRECONDITION"


class KeysDestroyed(FailedPrecondition):
    """The keys of this tenant's data were destroyed on purpose: nothing of it can be read, and nothing new is kept."""

    reason = "KEYS_DESTROYED"


class PermissionDenied(GroundwireError):
    """The caller is known but may not do this."""

    reason = "PERMISSION_DENIED"


class Unauthenticated(GroundwireError):
    """The caller is not known. Always the same message, so that it teaches an attacker nothing."""

    reason = "UNAUTHENTICATED"

    def __init__(self) -> None:
        super().__init__("valid credentials are required")


class ResourceExhausted(GroundwireError):
    """A limit was reached; ``retry_after`` seconds is when another try makes sense."""

    reason = "RATE_LIMITED"

    def __init__(
        self,
        message: str,
        *,
        retry_after: float = 1.0,
        reason: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, reason=reason, metadata=metadata)
        self.retry_after = retry_after


class Unavailable(GroundwireError):
    """A dependency did not answer; ``retry_after`` seconds is when another try makes sense."""

    reason = "DEPENDENCY_UNAVAILABLE"

    def __init__(
        self,
        message: str,
        *,
        retry_after: float = 1.0,
        reason: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, reason=reason, metadata=metadata)
        self.retry_after = retry_after


class DiskFull(Unavailable):
    """A dependency has no space left. Trying again helps once an operator has freed some."""

    def __init__(self, whose: str, *, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(f"the disk of {whose} is full: free some space there", retry_after=10.0, metadata=metadata)
        self.whose = whose


class CredentialsRefused(Unavailable):
    """A dependency refused the credentials that came with a call to it.

    Either those with which the caller was let in have become void meanwhile, which the service that let it in can find
    out, or the two services do not trust each other.
    """


class DeadlineExceeded(GroundwireError):
    """The time that the caller gave was not enough."""

    reason = "DEADLINE_EXCEEDED"


class NotYetImplemented(GroundwireError):
    """The contract promises this RPC; this release does not offer it yet."""

    reason = "NOT_IMPLEMENTED"


class DataLoss(GroundwireError):
    """Stored data is damaged or does not verify."""

    reason = "DATA_LOSS"


class InvalidField(ValueError):
    """One wrong field, raised while parsing; :class:`Violations` collects them into one InvalidRequest."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"{path}: {why}")
        self.path = path
        self.why = why


class Violations:
    """Collects wrong fields so that a caller learns all of them at once.

    >>> violations = Violations()
    >>> violations.require(False, "top_k", "must not be negative")
    >>> violations.raise_if_any()
    Traceback (most recent call last):
    ...
    services.corpus.errors.InvalidRequest: invalid request: top_k: must not be negative
    """

    def __init__(self) -> None:
        self._found: list[FieldViolation] = []

    def add(self, field: str, description: str) -> None:
        """Record one wrong field."""
        self._found.append(FieldViolation(field, description))

    def extend(self, others: Iterable[FieldViolation]) -> None:
        """Record violations found elsewhere."""
        self._found.extend(others)

    def require(self, condition: bool, field: str, description: str) -> None:
        """Record ``field`` as wrong unless ``condition`` holds."""
        if not condition:
            self.add(field, description)

    def __bool__(self) -> bool:
        return bool(self._found)

    @property
    def found(self) -> tuple[FieldViolation, ...]:
        """What was recorded so far, in order."""
        return tuple(self._found)

    def raise_if_any(self) -> None:
        """Raise InvalidRequest with everything recorded; do nothing when all was well."""
        if self._found:
            raise InvalidRequest(self._found)
