"""Server spans that cost less than the SDK's own: one object a call, which is filled in when the call has ended.

While a call runs only the ids of its span exist, as a context that children hang on. When it ends, the same object goes
to the tracer's processors as the finished span. The SDK's live spans take locks, check and copy each attribute, and
prepare for events and links that ours never have. benchmarks/chain.py shows what is left.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import Event, ReadableSpan, Tracer, sampling
from opentelemetry.trace import (
    INVALID_SPAN,
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_PROPAGATOR = TraceContextTextMapPropagator()
# Empty, and so told apart from none: without a parent, nobody else's span must become it.
_ROOT = Context()
_LONGEST_TRACEPARENT = 512  # characters; that of the propagator
# Under which key a context holds its span.
(_SPAN_KEY,) = trace.set_span_in_context(INVALID_SPAN, _ROOT)
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_NOT_SAMPLED = TraceFlags(TraceFlags.DEFAULT)
_UNSET, _FAULT = Status(StatusCode.UNSET), Status(StatusCode.ERROR)
# Status codes that mean that the server, not the caller, was at fault (OpenTelemetry semantic conventions for gRPC).
_SERVER_FAULTS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})


class ServerSpan(NonRecordingSpan, ReadableSpan):
    """The span of one call. While it runs it is current for the task that began it, and nobody can add to it.

    Attributes follow OpenTelemetry's RPC conventions.
    """

    # What all have in common; the SDK's own have it one by one.
    _kind = SpanKind.SERVER
    _events: Sequence[Event] = ()
    _links: Sequence[Link] = ()
    _instrumentation_info = None
    _context: SpanContext

    def __init__(self, tracer: Tracer, name: str, traceparent: str | None) -> None:
        """Begin, as a child of the remote span that ``traceparent`` (W3C Trace Context) names, if it names one."""
        above, parent = _ROOT, None
        # The propagator would log a warning for each that is longer, and callers can send any number.
        if traceparent is not None and len(traceparent) <= _LONGEST_TRACEPARENT:
            above = _PROPAGATOR.extract({"traceparent": traceparent})
            found = trace.get_current_span(above).get_span_context()
            parent = found if found.is_valid else None
        ids = tracer.id_generator
        trace_id = parent.trace_id if parent is not None else ids.generate_trace_id()
        # What nearly every installation has, without asking: everything but what the caller said not to sample.
        if tracer.sampler is sampling.DEFAULT_ON:
            self._sampled = parent is None or parent.trace_flags.sampled
        else:
            self._sampled = _is_sampled(tracer, above, trace_id, name)
        self._tracer = tracer
        self._name = name
        self._parent = parent
        self._context = SpanContext(
            trace_id,
            ids.generate_span_id(),
            is_remote=False,
            trace_flags=_SAMPLED if self._sampled else _NOT_SAMPLED,
            trace_state=parent.trace_state if parent is not None else None,
        )
        self._start_time = time.time_ns()
        otel_context.attach(Context({_SPAN_KEY: self}))

    def finish(self, request_id: str, code: str) -> None:
        """The call has ended with the status ``code``: hand the span to the processors, if it is sampled."""
        if not self._sampled:
            return
        tracer = self._tracer
        attributes = {
            "rpc.system.name": "grpc",
            "rpc.method": self._name,
            "groundwire.request_id": request_id,
            "rpc.response.status_code": code,
        }
        if code in _SERVER_FAULTS:
            attributes["error.type"] = code
            self._status = _FAULT
        else:
            self._status = _UNSET
        self._attributes = attributes
        self._resource = tracer.resource
        self._instrumentation_scope = tracer._instrumentation_scope  # noqa: SLF001 - there is no other way to it
        self._end_time = time.time_ns()
        tracer.span_processor.on_end(self)


def _is_sampled(tracer: Tracer, above: Context, trace_id: int, name: str) -> bool:
    decided = tracer.sampler.should_sample(above, trace_id, name, SpanKind.SERVER)
    return decided.decision is sampling.Decision.RECORD_AND_SAMPLE
