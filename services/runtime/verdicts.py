"""What a failed call to another service says about that service, and about trying again: one table."""

from __future__ import annotations

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from services.resilience.failover import Repeat, Verdict

# gRPC has no field for "no connection": its own words, which a test holds, are all that tells it from a lost answer.
_NO_CONNECTION = ("failed to connect to all addresses", "Failed to create secure client channel", "empty address list")
_NEUTRAL = Verdict(counts=False, repeat=Repeat.NEVER)
_REFUSED_BY_ITSELF = frozenset({"DRAINING"})
_DOMAIN = "groundwire"


def judge(error: Exception) -> Verdict:
    """The verdict over a call's exception."""
    if not isinstance(error, grpc.aio.AioRpcError):
        return _NEUTRAL
    match error.code():
        case grpc.StatusCode.UNAVAILABLE:
            return _unavailable(error)
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            reason, retry_after = _details(error)
            if reason and retry_after is not None:
                return Verdict(counts=True, repeat=Repeat.SAFE, pushback=retry_after)
            return _NEUTRAL  # a message that is too large is so everywhere
        case grpc.StatusCode.INTERNAL:
            reason, _ = _details(error)
            # Without details it comes from the transport.
            return Verdict(counts=True, repeat=Repeat.ELSEWHERE if reason else Repeat.SAFE)
        case grpc.StatusCode.CANCELLED:
            # Nobody here did: a server of gRPC's that stops, or has too many calls waiting, answers so.
            return Verdict(counts=False, repeat=Repeat.SAFE)
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return Verdict(counts=True, repeat=Repeat.NEVER)
        case _:
            return _NEUTRAL


def _unavailable(error: grpc.aio.AioRpcError) -> Verdict:
    reason, retry_after = _details(error)
    if reason in _REFUSED_BY_ITSELF:
        # It goes away in good order, and said so before it did anything.
        return Verdict(counts=False, repeat=Repeat.ALWAYS, unreached=True)
    if reason:
        # It works, and what it needs does not, after it tried all that it could.
        return Verdict(counts=True, repeat=Repeat.ELSEWHERE, pushback=retry_after)
    if (error.details() or "").startswith(_NO_CONNECTION):
        return Verdict(counts=True, repeat=Repeat.ALWAYS, unreached=True)
    return Verdict(counts=True, repeat=Repeat.SAFE)


def _details(error: grpc.aio.AioRpcError) -> tuple[str, float | None]:
    """The reason that a service of ours gave ("" if none did), and after how many seconds to come back."""
    reason, retry_after = "", None
    found = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin")
    if not isinstance(found, bytes):
        return reason, retry_after
    try:
        details = status_pb2.Status.FromString(found).details
    except DecodeError:
        return reason, retry_after
    for detail in details:
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        if detail.Is(info.DESCRIPTOR) and detail.Unpack(info) and info.domain == _DOMAIN:
            reason = info.reason
        elif detail.Is(retry.DESCRIPTOR) and detail.Unpack(retry):
            retry_after = retry.retry_delay.ToMilliseconds() / 1000
    return reason, retry_after
