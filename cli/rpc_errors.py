"""gRPC statuses, with their google.rpc details, as errors for people."""

from __future__ import annotations

import re

import grpc
from google.rpc import error_details_pb2, status_pb2

from cli.caller import why_unknown
from cli.errors import CliError, ExitCode
from cli.text import seconds
from services.corpus.cleaning import cleaned

_FAILED = frozenset(
    {
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DATA_LOSS,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.CANCELLED,
    }
)
_DEFAULT_RETRY = 1.0
# What gRPC says of a connection that did not come about, and what that means to the person who gave the address.
_CONNECTION_PROBLEMS = (
    (
        re.compile("certificate[ _]verify[ _]failed|verification check failed", re.IGNORECASE),
        "its certificate is not of tls.authorities, has expired, or is not for this address",
    ),
    (re.compile("wrong_version_number", re.IGNORECASE), "it does not use TLS, but tls.authorities is set"),
    (
        re.compile("^failed to connect.*socket closed", re.IGNORECASE | re.DOTALL),
        "it closed the connection; it may use TLS (set tls.authorities) or want a certificate (tls.certificate)",
    ),
    (
        re.compile("failed parsing HTTP/2|http1.x server", re.IGNORECASE),
        "what answers there is no gRPC server: check the address",
    ),
    (
        re.compile("^errors resolving|(DNS|domain name|name) (resolution failed|not found)", re.IGNORECASE),
        "no address is known for this name: check it",
    ),
)
# What another service, or another server altogether, answers to a method that it does not have.
_NOT_THERE = frozenset({grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.NOT_FOUND})
NO_METHOD = "no such method"


def explain(error: grpc.aio.AioRpcError, service: str, address: str) -> CliError:
    """What a failed call to ``service`` at ``address`` means, and what to do about it."""
    code = error.code()
    info, violations, retry_after = _details(error)
    said = cleaned(error.details() or "")
    where = f"the {service} service at {address}"
    if code is grpc.StatusCode.UNAVAILABLE and info is None and (problem := connection_problem(error)):
        return CliError(f"{where}: {problem}", code=ExitCode.UNAVAILABLE)
    if code is grpc.StatusCode.UNAVAILABLE and info is None:
        return CliError(
            f"cannot reach {where}; start it with `groundwire up`, or say where it is with --address",
            code=ExitCode.UNAVAILABLE,
            retry_after=_DEFAULT_RETRY,
        )
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return CliError(
            f"{where} did not answer in time; try again, or allow it more with --timeout", code=ExitCode.UNAVAILABLE
        )
    if has_no_such_method(error):
        return CliError(
            f"{where} does not offer this; check that the address is the {service} service's", code=ExitCode.REFUSED
        )
    if code is grpc.StatusCode.UNAVAILABLE or (code is grpc.StatusCode.RESOURCE_EXHAUSTED and retry_after is not None):
        wait = retry_after if retry_after is not None else _DEFAULT_RETRY
        return CliError(f"{said}; try again in {seconds(wait)}", code=ExitCode.UNAVAILABLE, retry_after=wait)
    if code is grpc.StatusCode.UNAUTHENTICATED:
        return CliError(f"{where} does not know you: {why_unknown(address)}", code=ExitCode.REFUSED)
    if code in _FAILED:
        request_id = (info.metadata.get("request_id") if info else "") or _trailer(error, "x-request-id")
        hint = f" (request id {request_id})" if request_id else ""
        return CliError(f"{where} failed: {code.name}: {said}{hint}")
    if violations:
        return CliError(f"{where} refused the request", code=ExitCode.REFUSED, details=violations)
    return CliError(f"{said or code.name} ({service} service)", code=ExitCode.REFUSED)


def has_no_such_method(error: grpc.aio.AioRpcError) -> bool:
    """Whether the server that ended the call has no such method, and is another service then."""
    if error.code() not in _NOT_THERE:
        return False
    # A service of ours answers NOT_FOUND, with details, to what it does not serve, and UNIMPLEMENTED to what is to come.
    return error.details() == NO_METHOD if said_by_service(error) else error.code() is grpc.StatusCode.UNIMPLEMENTED


def said_by_service(error: grpc.aio.AioRpcError) -> bool:
    """Whether a service of ours ended the call, and not the connection to it."""
    return _details(error)[0] is not None


def info_of(error: grpc.aio.AioRpcError) -> error_details_pb2.ErrorInfo | None:
    """The reason that a service of ours gave, with its metadata."""
    return _details(error)[0]


def connection_problem(error: grpc.aio.AioRpcError) -> str:
    """Why there is no connection, if that is more than that nothing answers there; else empty."""
    said = error.details() or ""
    return next((meaning for pattern, meaning in _CONNECTION_PROBLEMS if pattern.search(said)), "")


def _details(
    error: grpc.aio.AioRpcError,
) -> tuple[error_details_pb2.ErrorInfo | None, list[str], float | None]:
    found: error_details_pb2.ErrorInfo | None = None
    violations: list[str] = []
    retry_after: float | None = None
    for key, value in error.trailing_metadata() or ():
        if key != "grpc-status-details-bin" or not isinstance(value, bytes):
            continue
        for detail in status_pb2.Status.FromString(value).details:
            info = error_details_pb2.ErrorInfo()
            bad_request = error_details_pb2.BadRequest()
            retry = error_details_pb2.RetryInfo()
            if detail.Unpack(info):
                found = info
            elif detail.Unpack(bad_request):
                violations = [f"{cleaned(v.field)}: {cleaned(v.description)}" for v in bad_request.field_violations]
            elif detail.Unpack(retry):
                retry_after = retry.retry_delay.ToMilliseconds() / 1000
    return found, violations, retry_after


def _trailer(error: grpc.aio.AioRpcError, name: str) -> str:
    values = (value for key, value in error.trailing_metadata() or () if key == name)
    value = next(values, "")
    return cleaned(value.decode("latin-1") if isinstance(value, bytes) else value)
