"""The one place that knows the four RPC shapes.

Interceptors are async context managers around a call (:class:`Around`). :class:`Chain` enters them in order, runs
the handler once, and leaves them in reverse, so that messages of a stream do not pass through every layer.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import grpc

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
# Quoted: the class is generic in its stubs alone.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

_Convert: TypeAlias = Callable[[Any], Any]

REQUEST_ID_KEY = "x-request-id"
# gRPC's timers and its remaining time stand on different clocks; in seconds.
_CLOCK_SKEW = 0.01
_REQUEST_ID = re.compile(r"[A-Za-z0-9._\-]{1,128}")


@dataclass(slots=True)
class Call:
    """One RPC on its way through the chain.

    ``method`` is the path exactly as it was received; ``known`` says whether this server serves it. ``facts`` is
    where inner layers leave what outer ones report.
    """

    method: str
    known: bool
    context: Context
    request_id: str
    start: float = field(default_factory=time.monotonic)
    facts: dict[str, Any] = field(default_factory=dict)

    def metadata(self, key: str) -> list[str]:
        """Every value that the caller sent under ``key`` (lower case), as text."""
        values = (value for name, value in self.context.invocation_metadata() or () if name == key)
        return [value.decode("latin-1") if isinstance(value, bytes) else value for value in values]

    def outcome(self, error: BaseException | None) -> grpc.StatusCode:
        """The status that the caller gets, as far as ``error``, which is leaving the handler, tells."""
        if error is None or isinstance(error, grpc.aio.AbortError):
            return _as_status_code(self.context.code())
        if isinstance(error, Exception):
            return grpc.StatusCode.UNKNOWN
        # gRPC cancels a call that its caller gave up and one whose deadline passed alike.
        remaining: float | None = self.context.time_remaining()
        late = remaining is not None and remaining < _CLOCK_SKEW
        return grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED


class MalformedRequestError(Exception):
    """The bytes of a request are not a message of its type."""


class Around(Protocol):
    """What an interceptor is: something that is entered before a call's handler and left after it."""

    def around(self, call: Call) -> AbstractAsyncContextManager[None]:
        """The context in which the rest of the chain and the handler run."""


class Chain(grpc.aio.ServerInterceptor):
    """Runs every call through a fixed list of layers, outermost first.

    The wrapped handler of a known method is made once and kept. Unknown paths get a handler that does nothing but
    ``refuse``, inside the same layers, so that they are measured and audited like all others; those are not kept,
    because a caller can make up any number of them.
    """

    def __init__(self, layers: Sequence[Around], refuse: Callable[[Call], Awaitable[None]]) -> None:
        self._layers = tuple(layers)
        self._refuse = refuse
        self._wrapped: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """Return the handler for a call; must not raise (gRPC would show the exception's text to the caller)."""
        method = handler_call_details.method
        wrapped = self._wrapped.get(method)
        if wrapped is not None:
            return wrapped
        handler = await continuation(handler_call_details)
        if handler is None:
            return self._unknown(method)
        self._wrapped[method] = wrapped = self._wrap(method, handler)
        return wrapped

    def _wrap(self, method: str, handler: Handler) -> Handler:
        # gRPC reads a unary call's request before its handler runs and shapes the answer after it, where a failure
        # would pass by every layer and show the exception's text to the caller: both are done here instead.
        parse = _parser(handler.request_deserializer)
        serialize = handler.response_serializer or _as_it_is
        request_streaming, response_streaming = handler.request_streaming, handler.response_streaming
        behaviour: Any
        if response_streaming:
            behaviour = handler.stream_stream if request_streaming else handler.unary_stream
            if request_streaming:
                handle = self._streaming(method, _as_it_is, behaviour)
                return grpc.stream_stream_rpc_method_handler(handle, parse, handler.response_serializer)
            handle = self._streaming(method, parse, behaviour)
            return grpc.unary_stream_rpc_method_handler(handle, None, handler.response_serializer)
        if request_streaming:
            handle = self._unary(method, _as_it_is, handler.stream_unary, serialize)
            return grpc.stream_unary_rpc_method_handler(handle, parse)
        return grpc.unary_unary_rpc_method_handler(self._unary(method, parse, handler.unary_unary, serialize))

    def _unary(self, method: str, parse: _Convert, behaviour: Any, serialize: _Convert) -> Any:
        layers = self._layers

        async def handle(request: Any, context: Context) -> Any:
            call = _begin(method, context, known=True)
            async with AsyncExitStack() as stack:
                for layer in layers:
                    await stack.enter_async_context(layer.around(call))
                return serialize(await behaviour(parse(request), context))

        return handle

    def _streaming(self, method: str, parse: _Convert, behaviour: Any) -> Any:
        layers = self._layers

        # Not a generator: one that is cancelled while its caller does not read is dropped between two messages, so
        # that no layer learns how the call ended, and one whose time runs out there never ends at all.
        async def handle(request: Any, context: Context) -> None:
            call = _begin(method, context, known=True)
            async with AsyncExitStack() as stack:
                for layer in layers:
                    await stack.enter_async_context(layer.around(call))
                responses = behaviour(parse(request), context)
                if not hasattr(responses, "__aiter__"):
                    await responses  # a handler that calls context.write itself
                    return
                # Closed here and now, so that a cancelled call releases what its handler holds at once.
                async with aclosing(responses):
                    async for response in responses:
                        await context.write(response)

        return handle

    def _unknown(self, method: str) -> Handler:
        async def handle(_requests: Any, context: Context) -> None:
            call = _begin(method, context, known=False)
            async with AsyncExitStack() as stack:
                for layer in self._layers:
                    await stack.enter_async_context(layer.around(call))
                await self._refuse(call)

        # The shape that any client's call fits.
        return grpc.stream_stream_rpc_method_handler(handle)


def _parser(deserialize: _Convert | None) -> _Convert:
    if deserialize is None:
        return _as_it_is

    def parse(data: Any) -> Any:
        try:
            return deserialize(data)
        except Exception as error:
            raise MalformedRequestError from error

    return parse


def _as_it_is(message: Any) -> Any:
    return message


def _begin(method: str, context: Context, *, known: bool) -> Call:
    for name, value in context.invocation_metadata() or ():
        if name == REQUEST_ID_KEY and isinstance(value, str) and _REQUEST_ID.fullmatch(value):
            return Call(method, known, context, value)
    return Call(method, known, context, uuid.uuid4().hex)


_BY_NUMBER = {code.value[0]: code for code in grpc.StatusCode}


def _as_status_code(code: Any) -> grpc.StatusCode:
    # grpc.aio gives None or 0 where nothing was set, and the bare number after an abort.
    if isinstance(code, grpc.StatusCode):
        return code
    return _BY_NUMBER.get(code or 0, grpc.StatusCode.UNKNOWN)
