"""Gives each call its request id and a span: the outermost layer, so that everything inside can name both."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from interceptors import current
from interceptors._shapes import REQUEST_ID_KEY, Call

_PROPAGATOR = TraceContextTextMapPropagator()
# Status codes that mean that the server, not the caller, was at fault (OpenTelemetry semantic conventions for gRPC).
_SERVER_FAULTS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})


class Tracing:
    """Starts a server span per call, as a child of the caller's span when it sent a ``traceparent``.

    Attributes follow OpenTelemetry's RPC conventions; texts of requests and answers never become attributes.
    Without a tracer, and for the methods that ``untraced`` names (health checks), only the request id is set.
    """

    def __init__(self, tracer: Tracer | None, untraced: Callable[[str], bool] = lambda _: False) -> None:
        self._tracer = tracer
        self._untraced = untraced

    def around(self, call: Call) -> AbstractAsyncContextManager[None]:
        """Set the request id, echo it to the caller, and hold the span open while the call lasts."""
        if self._tracer is None or self._untraced(call.method):
            return _identified(call)
        return self._span(call, self._tracer)

    @asynccontextmanager
    async def _span(self, call: Call, tracer: Tracer) -> AsyncIterator[None]:
        _identify(call)
        # Paths that nobody serves share one span name, because callers can make up any number of them.
        name = call.method.lstrip("/") if call.known else "unknown"
        carrier: Mapping[str, str] = {"traceparent": (call.metadata("traceparent") or [""])[0]}
        span = tracer.start_span(
            name,
            context=_PROPAGATOR.extract(carrier),
            kind=SpanKind.SERVER,
            attributes={
                "rpc.system.name": "grpc",
                "rpc.method": name,
                "groundwire.request_id": call.request_id,
            },
        )
        otel_context.attach(trace.set_span_in_context(span))
        call.facts["trace_id"] = f"{span.get_span_context().trace_id:032x}"
        error: BaseException | None = None
        try:
            yield
        except BaseException as raised:
            error = raised
            raise
        finally:
            code = call.outcome(error).name
            span.set_attribute("rpc.response.status_code", code)
            if code in _SERVER_FAULTS:
                span.set_attribute("error.type", code)
                span.set_status(Status(StatusCode.ERROR))
            span.end()


@asynccontextmanager
async def _identified(call: Call) -> AsyncIterator[None]:
    _identify(call)
    yield


def _identify(call: Call) -> None:
    current.request_id.set(call.request_id)
    call.context.set_trailing_metadata(((REQUEST_ID_KEY, call.request_id),))
