"""Server spans at a third of what the SDK's own cost: nothing is built before the call has ended.

While a call runs only the ids of its span exist, as a context that children hang on. When it ends, the finished span is
made in one piece and handed to the tracer's processors. The SDK's live spans take locks, check and copy each attribute,
and prepare for events and links that ours never have: on a server's hot path that is a tenth of a call
(benchmarks/chain.py).
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Tracer, sampling
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_PROPAGATOR = TraceContextTextMapPropagator()
# Empty, and so told apart from none: without a parent, nobody else's span must become it.
_ROOT = Context()
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_NOT_SAMPLED = TraceFlags(TraceFlags.DEFAULT)


class ServerSpan:
    """The span of one call while it runs; it is current for the task that began it."""

    __slots__ = ("_parent", "_start", "_tracer", "context")

    def __init__(self, tracer: Tracer, name: str, traceparent: str | None) -> None:
        """Begin, as a child of the remote span that ``traceparent`` (W3C Trace Context) names, if it names one."""
        above, parent = _ROOT, None
        if traceparent is not None:
            above = _PROPAGATOR.extract({"traceparent": traceparent})
            found = trace.get_current_span(above).get_span_context()
            parent = found if found.is_valid else None
        trace_id = parent.trace_id if parent is not None else tracer.id_generator.generate_trace_id()
        sampled = _is_sampled(tracer, above, parent, trace_id, name)
        self._tracer = tracer
        self._parent = parent
        self._start = time.time_ns()
        self.context = SpanContext(
            trace_id,
            tracer.id_generator.generate_span_id(),
            is_remote=False,
            trace_flags=_SAMPLED if sampled else _NOT_SAMPLED,
            trace_state=parent.trace_state if parent is not None else None,
        )
        otel_context.attach(trace.set_span_in_context(NonRecordingSpan(self.context), _ROOT))

    def end(self, name: str, attributes: Mapping[str, str], status: Status) -> None:
        """Hand the finished span to the processors, if it is sampled."""
        if not self.context.trace_flags.sampled:
            return
        tracer = self._tracer
        tracer.span_processor.on_end(
            ReadableSpan(
                name,
                context=self.context,
                parent=self._parent,
                resource=tracer.resource,
                attributes=attributes,
                kind=SpanKind.SERVER,
                status=status,
                start_time=self._start,
                end_time=time.time_ns(),
                instrumentation_scope=tracer._instrumentation_scope,  # noqa: SLF001 - there is no other way to it
            )
        )


def _is_sampled(tracer: Tracer, above: Context, parent: SpanContext | None, trace_id: int, name: str) -> bool:
    if tracer.sampler is sampling.DEFAULT_ON:
        # What nearly every installation has, without asking: everything but what the caller said not to sample.
        return parent is None or parent.trace_flags.sampled
    decided = tracer.sampler.should_sample(above, trace_id, name, SpanKind.SERVER)
    return decided.decision is sampling.Decision.RECORD_AND_SAMPLE
