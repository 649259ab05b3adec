"""Domain errors to gRPC statuses and back: one table, which a test proves total.

Every status carries google.rpc details: ErrorInfo always, BadRequest with each violated field (as many as fit into
a client's limit, and how many more), RetryInfo where trying again makes sense. Nothing of an unexpected exception leaves the process except a request id.
"""

from __future__ import annotations

from collections.abc import Sequence

import grpc
import structlog
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from groundwire.common.v1 import error_reason_pb2
from interceptors._shapes import REQUEST_ID_KEY, Call, MalformedRequestError, RequestTimeoutError
from services.corpus.errors import (
    AlreadyExists,
    CredentialsRefused,
    DataLoss,
    DeadlineExceeded,
    FailedPrecondition,
    FieldViolation,
    GroundwireError,
    InvalidRequest,
    NotFound,
    NotYetImplemented,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)

DOMAIN = "groundwire"
_PREFIX = "ERROR_REASON_"
# A client drops a status whose trailers are larger than 8 KiB by default, and sees RESOURCE_EXHAUSTED instead of it;
# gRPC counts the message percent-encoded and the details as base64.
_MESSAGE_BYTES = 500
_VIOLATION_BYTES = 3_000
_log = structlog.get_logger(__name__)

PUSHBACK_KEY = "grpc-retry-pushback-ms"
"""What gRPC's own retries obey (gRFC A6): how many milliseconds to wait; a negative number ends them."""
# No call lives for long enough to be tried again after that.
_MOST_PUSHBACK_MS = 60_000

CODES: dict[type[GroundwireError], grpc.StatusCode] = {
    InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    NotFound: grpc.StatusCode.NOT_FOUND,
    AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    ResourceExhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
    DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    NotYetImplemented: grpc.StatusCode.UNIMPLEMENTED,
    DataLoss: grpc.StatusCode.DATA_LOSS,
}

# What is passed on as it is: it is about the caller's request, or trying again cannot help.
_PASSED_ON: dict[grpc.StatusCode, type[GroundwireError]] = {
    CODES[kind]: kind
    for kind in (NotFound, AlreadyExists, FailedPrecondition, PermissionDenied, NotYetImplemented, DataLoss)
}


def code_of(error: GroundwireError) -> grpc.StatusCode:
    """The status code of a domain error: that of its nearest class in the table."""
    return next((CODES[kind] for kind in type(error).__mro__ if kind in CODES), grpc.StatusCode.INTERNAL)


def to_status(error: Exception, call: Call) -> grpc.Status:
    """The status that a caller gets for ``error``; unexpected ones are logged and shown as INTERNAL."""
    if isinstance(error, MalformedRequestError):
        error = InvalidRequest([FieldViolation("", "the request is not a message of the method's type")])
    elif isinstance(error, RequestTimeoutError):
        error = DeadlineExceeded("the request did not arrive in time")
    if isinstance(error, GroundwireError):
        code, message, reason, metadata = code_of(error), _shorten(error.message), error.reason, error.metadata
    else:
        _log.error("call failed unexpectedly", method=call.method, exc_info=error)
        code, message, reason = (
            grpc.StatusCode.INTERNAL,
            "internal error; the request id finds it in the logs",
            "INTERNAL",
        )
        metadata = {"request_id": call.request_id}
    details: list[AnyMessage] = [_pack(error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=metadata))]
    if isinstance(error, InvalidRequest):
        details.append(_pack(_bad_request(error.violations)))
    trailing: list[tuple[str, str | bytes]] = [(REQUEST_ID_KEY, call.request_id)]
    if isinstance(error, Unavailable | ResourceExhausted):
        delay = Duration()
        milliseconds = max(1, round(error.retry_after * 1000))
        delay.FromMilliseconds(milliseconds)
        details.append(_pack(error_details_pb2.RetryInfo(retry_delay=delay)))
        if isinstance(error, ResourceExhausted):
            # Not with UNAVAILABLE: whoever is told that may go elsewhere at once.
            trailing.append((PUSHBACK_KEY, str(milliseconds if milliseconds <= _MOST_PUSHBACK_MS else -1)))
    status: grpc.Status = rpc_status.to_status(status_pb2.Status(code=code.value[0], message=message, details=details))
    # abort_with_status replaces the trailing metadata: the request id has to be put in again.
    return _Status(status.code, status.details, (*status.trailing_metadata, *trailing))


def from_rpc_error(error: grpc.aio.AioRpcError, dependency: str) -> GroundwireError:
    """What a failed call to another service means here.

    What that service said about the caller's own request (a wrong field, an unknown collection) is passed on as it
    is, and so is what trying again cannot help (damaged data, a missing feature). A failure of the service itself, or
    of this process's own standing with it, becomes Unavailable with the dependency's name. The authentication layer finds
    out whether CredentialsRefused is about the caller.
    """
    code = error.code()
    info, violations, retry_after = _details(error)
    reason = info.reason if info.domain == DOMAIN else ""
    message = error.details() or "" if reason else ""
    metadata = dict(info.metadata)
    match code:
        case grpc.StatusCode.INVALID_ARGUMENT if violations:
            return InvalidRequest(violations)
        case _ if reason and code in _PASSED_ON:
            return _PASSED_ON[code](message, reason=reason, metadata=metadata)
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineExceeded(f"the {dependency} service did not answer in time")
        case grpc.StatusCode.RESOURCE_EXHAUSTED if reason:
            return ResourceExhausted(message, retry_after=retry_after, reason=reason, metadata=metadata)
        case grpc.StatusCode.UNAVAILABLE if reason:
            return Unavailable(message, retry_after=retry_after, reason=reason, metadata=metadata)
        case _:
            _log.info("dependency failed", dependency=dependency, code=code.name)
            kind = CredentialsRefused if reason and code is grpc.StatusCode.UNAUTHENTICATED else Unavailable
            return kind(
                f"the {dependency} service did not answer", retry_after=retry_after, metadata={"dependency": dependency}
            )


def reasons() -> frozenset[str]:
    """Every reason that the contract knows, without its prefix."""
    return frozenset(name.removeprefix(_PREFIX) for name, _ in error_reason_pb2.ErrorReason.items())


class _Status(grpc.Status):
    """A status with trailing metadata; grpc_status has one of its own that cannot be made with more."""

    def __init__(
        self, code: grpc.StatusCode, details: str, trailing_metadata: tuple[tuple[str, str | bytes], ...]
    ) -> None:
        self.code = code
        self.details = details
        self.trailing_metadata = trailing_metadata


def _shorten(message: str) -> str:
    data = message.encode()
    return message if len(data) <= _MESSAGE_BYTES else data[:_MESSAGE_BYTES].decode(errors="ignore") + " …"


def _bad_request(violations: Sequence[FieldViolation]) -> error_details_pb2.BadRequest:
    bad_request = error_details_pb2.BadRequest()
    for i, violation in enumerate(violations):
        shown = error_details_pb2.BadRequest.FieldViolation(
            field=violation.field, description=_shorten(violation.description)
        )
        if i and bad_request.ByteSize() + shown.ByteSize() > _VIOLATION_BYTES:
            rest = f"{len(violations) - i} more fields are wrong"
            bad_request.field_violations.add(field="", description=rest)
            break
        bad_request.field_violations.append(shown)
    return bad_request


def _pack(message: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed


def _details(error: grpc.aio.AioRpcError) -> tuple[error_details_pb2.ErrorInfo, list[FieldViolation], float]:
    info = error_details_pb2.ErrorInfo()
    violations: list[FieldViolation] = []
    retry_after = 1.0
    found = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin")
    try:
        for detail in status_pb2.Status.FromString(found).details if isinstance(found, bytes) else ():
            bad_request, retry_info = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
            if detail.Unpack(bad_request):
                violations = [FieldViolation(v.field, v.description) for v in bad_request.field_violations]
            elif detail.Unpack(retry_info):
                retry_after = retry_info.retry_delay.ToMilliseconds() / 1000
            else:
                detail.Unpack(info)
    except DecodeError:
        _log.warning("the details of a status cannot be read")
    return info, violations, retry_after
