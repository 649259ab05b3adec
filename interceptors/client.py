"""What goes out with every call to another service: trace context, request id, identity and the time that is left."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from interceptors import current
from interceptors._shapes import REQUEST_ID_KEY

_PROPAGATOR = TraceContextTextMapPropagator()

# What this process calls on its own account, such as its readiness checks, is nobody's trace: the flags say that it
# is not sampled, so that the callee does not begin a trace for it either (W3C Trace Context, section 3.2.2.5).
_UNSAMPLED = "00-" + "1" * 32 + "-" + "1" * 16 + "-00"

Credentials = Callable[[], Awaitable[list[tuple[str, str]]]]
"""Gives the metadata that proves for whom this process calls."""


def outgoing(
    *, tracer: Tracer | None, margin: float, credentials: Credentials | None = None
) -> list[grpc.aio.ClientInterceptor]:
    """The interceptors that carry the current call's context on to the next service, in all four RPC shapes.

    ``margin`` seconds of the remaining time are kept back, so that this process can still answer its own caller
    after the callee gave up. There are four objects because grpc.aio files an interceptor under the first shape that
    it finds, and under no other.
    """
    send = _Sender(tracer, margin, credentials).send
    return [_UnaryUnary(send), _UnaryStream(send), _StreamUnary(send), _StreamStream(send)]


class _Sender:
    def __init__(self, tracer: Tracer | None, margin: float, credentials: Credentials | None) -> None:
        self._tracer = tracer
        self._margin = margin
        self._credentials = credentials

    async def send(self, continuation: Any, details: Any, payload: Any) -> Any:
        metadata = list(details.metadata or ())
        span = self._start_span(details.method) if _in_trace() else None
        try:
            if request_id := current.request_id.get():
                metadata.append((REQUEST_ID_KEY, request_id))
            if span is not None:
                carrier: dict[str, str] = {}
                _PROPAGATOR.inject(carrier, context=trace.set_span_in_context(span))
                metadata.extend(carrier.items())
            elif self._tracer is not None:
                metadata.append(("traceparent", _UNSAMPLED))
            if self._credentials is not None:
                metadata.extend(await self._credentials())
            timeout = self._timeout(details.timeout)
            call = await continuation(details._replace(metadata=grpc.aio.Metadata(*metadata), timeout=timeout), payload)
        except BaseException:
            # No call was begun: nothing else would ever end the span.
            if span is not None:
                span.set_status(Status(StatusCode.ERROR))
                span.end()
            raise
        if span is not None:
            call.add_done_callback(lambda done: _end_span(span, done))
        return call

    def _timeout(self, wanted: float | None) -> float | None:
        remaining = current.remaining()
        if remaining is None:
            return wanted
        # At least a millisecond: gRPC reads zero as "expired" before it has even tried.
        kept = max(0.001, remaining - self._margin)
        return kept if wanted is None else min(wanted, kept)

    def _start_span(self, method: str | bytes) -> Span | None:
        if self._tracer is None:
            return None
        name = (method.decode() if isinstance(method, bytes) else method).lstrip("/")
        attributes = {"rpc.system.name": "grpc", "rpc.method": name}
        return self._tracer.start_span(name, kind=SpanKind.CLIENT, attributes=attributes)


class _Shape:
    def __init__(self, send: Callable[[Any, Any, Any], Awaitable[Any]]) -> None:
        self._send = send


class _UnaryUnary(_Shape, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await self._send(continuation, client_call_details, request)


class _UnaryStream(_Shape, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await self._send(continuation, client_call_details, request)


class _StreamUnary(_Shape, grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await self._send(continuation, client_call_details, request_iterator)


class _StreamStream(_Shape, grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await self._send(continuation, client_call_details, request_iterator)


def _in_trace() -> bool:
    return trace.get_current_span().get_span_context().is_valid


def _end_span(span: Span, call: Any) -> None:
    async def end() -> None:
        try:
            code = (await call.code()).name
        except asyncio.CancelledError:  # so gRPC tells that we cancelled the call ourselves
            code = grpc.StatusCode.CANCELLED.name
        span.set_attribute("rpc.response.status_code", code)
        if code != grpc.StatusCode.OK.name:
            span.set_attribute("error.type", code)
            span.set_status(Status(StatusCode.ERROR))
        span.end()

    # A done call knows its code already, but tells it only to a coroutine.
    _ending.add(task := asyncio.ensure_future(end()))
    task.add_done_callback(_ending.discard)


_ending: set[asyncio.Future[None]] = set()
