"""Gives each call its request id and a span: the outermost layer, so that everything inside can name both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from opentelemetry.sdk.trace import Tracer
from opentelemetry.trace import Status, StatusCode

from interceptors import current
from interceptors._shapes import REQUEST_ID_KEY, Call, Proceed
from interceptors.spans import ServerSpan

# Status codes that mean that the server, not the caller, was at fault (OpenTelemetry semantic conventions for gRPC).
_SERVER_FAULTS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
_UNSET, _FAULT = Status(StatusCode.UNSET), Status(StatusCode.ERROR)


class Tracing:
    """Starts a server span per call, as a child of the caller's span when it sent a ``traceparent``.

    Attributes follow OpenTelemetry's RPC conventions; texts of requests and answers never become attributes.
    Without a tracer, and for the methods that ``untraced`` names (health checks), only the request id is set.
    """

    def __init__(self, tracer: Tracer | None, untraced: Callable[[str], bool] = lambda _: False) -> None:
        self._tracer = tracer
        self._untraced = untraced

    async def around(self, call: Call, proceed: Proceed) -> Any:
        """Set the request id, echo it to the caller, and hold the span open while the call lasts."""
        current.request_id.set(call.request_id)
        call.context.set_trailing_metadata(((REQUEST_ID_KEY, call.request_id),))
        if self._tracer is None or self._untraced(call.method):
            return await proceed(call)
        return await self._traced(call, proceed, self._tracer)

    async def _traced(self, call: Call, proceed: Proceed, tracer: Tracer) -> Any:
        # Paths that nobody serves share one span name, because callers can make up any number of them.
        name = call.method.lstrip("/") if call.known else "unknown"
        traceparent = call.metadata("traceparent")
        span = ServerSpan(tracer, name, traceparent[0] if traceparent else None)
        call.facts["trace_id"] = f"{span.context.trace_id:032x}"
        error: BaseException | None = None
        try:
            return await proceed(call)
        except BaseException as raised:
            error = raised
            raise
        finally:
            code = call.outcome(error).name
            attributes = {
                "rpc.system.name": "grpc",
                "rpc.method": name,
                "groundwire.request_id": call.request_id,
                "rpc.response.status_code": code,
            }
            if code in _SERVER_FAULTS:
                attributes["error.type"] = code
                span.end(name, attributes, _FAULT)
            else:
                span.end(name, attributes, _UNSET)
