"""Gives each call its request id and a span: the outermost layer, so that everything inside can name both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from opentelemetry.sdk.trace import Tracer

from interceptors import current
from interceptors._shapes import REQUEST_ID_KEY, Call, Layer, Proceed
from interceptors.spans import ServerSpan


class Tracing(Layer):
    """Starts a server span per call, as a child of the caller's span when it sent a ``traceparent``.

    Texts of requests and answers never become attributes. Without a tracer, and for the methods that ``untraced`` names
    (health checks), only the request id is set.
    """

    def __init__(self, tracer: Tracer | None, untraced: Callable[[str], bool] = lambda _: False) -> None:
        self._tracer = tracer
        self._untraced = untraced

    async def around(self, call: Call, proceed: Proceed) -> Any:
        """Set the request id, echo it to the caller, and hold the span open while the call lasts."""
        current.request_id.set(call.request_id)
        call.context.set_trailing_metadata(((REQUEST_ID_KEY, call.request_id),))
        tracer = self._tracer
        if tracer is None or self._untraced(call.method):
            return await proceed(call)
        traceparent = call.metadata("traceparent")
        span = ServerSpan(tracer, call.name, traceparent[0] if traceparent else None)
        call.trace_id = span.context.trace_id
        error: BaseException | None = None
        try:
            return await proceed(call)
        except BaseException as raised:
            error = raised
            raise
        finally:
            span.finish(call.request_id, call.outcome(error).name)
