"""The one place that knows the four RPC shapes.

Interceptors are coroutines around a call (:class:`Layer`). :class:`Chain` nests them once per method, with the handler
in the middle; a call runs through them once, so that messages of a stream do not pass through every layer.

A request is read innermost, once every layer has let its call pass. gRPC takes a message in, and decompresses it, when
it is asked to: of a caller that is refused it keeps no more than what a flow-control window holds.
"""

from __future__ import annotations

import asyncio
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from contextvars import ContextVar
from dataclasses import dataclass, field
from random import getrandbits
from typing import Any, TypeAlias

import grpc

from interceptors.timeouts import Timeouts

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
# Quoted: the class is generic in its stubs alone.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

_Convert: TypeAlias = Callable[[Any], Any]

REQUEST_ID_KEY = "x-request-id"
# gRPC's timers and its remaining time stand on different clocks; in seconds.
_CLOCK_SKEW = 0.01
# What came with the call of this task, which gRPC makes once for interceptors and anew for whoever asks it later.
_metadata: ContextVar[Iterable[tuple[str, str | bytes]]] = ContextVar("groundwire_metadata", default=())
_REQUEST_ID = re.compile(r"[A-Za-z0-9._\-]{1,128}")


@dataclass(slots=True)
class Call:
    """One RPC on its way through the chain.

    ``method`` is the path exactly as it was received; ``known`` says whether this server serves it. ``requests`` are
    its messages' bytes, which nobody has read yet; ``streams_requests`` says that there may be any number of them, as on
    every path that is not served. ``trace_id`` (0: the call is not traced), ``error``, for which the call was refused,
    ``allowed`` (its caller may use the method), and ``proof``, which let its caller in, are left here by layers for
    others.
    """

    method: str
    known: bool
    context: Context
    request_id: str
    received: Iterable[tuple[str, str | bytes]] = ()
    """The metadata that the caller sent; keys in lower case."""
    requests: Any = None
    streams_requests: bool = False
    start: float = field(default_factory=time.monotonic)
    trace_id: int = 0
    error: Exception | None = None
    allowed: bool = False
    proof: Any = None
    _outcome: grpc.StatusCode | None = None

    @property
    def name(self) -> str:
        """The method's name in telemetry; one for all paths that nobody serves, because callers can make up any number."""
        return self.method.lstrip("/") if self.known else "unknown"

    def metadata(self, key: str) -> list[str]:
        """Every value that the caller sent under ``key`` (lower case), as text."""
        return [
            value.decode("latin-1") if isinstance(value, bytes) else value
            for name, value in self.received
            if name == key
        ]

    def outcome(self, error: BaseException | None) -> grpc.StatusCode:
        """The status that the caller gets, as far as ``error``, which is leaving the handler, tells.

        It is found out once: layers further out may ask again.
        """
        if self._outcome is None:
            self._outcome = self._find_outcome(error)
        return self._outcome

    def _find_outcome(self, error: BaseException | None) -> grpc.StatusCode:
        if error is None or isinstance(error, grpc.aio.AbortError):
            return _as_status_code(self.context.code())
        if isinstance(error, Exception):
            return grpc.StatusCode.UNKNOWN
        # gRPC cancels a call that its caller gave up and one whose deadline passed alike.
        remaining: float | None = self.context.time_remaining()
        late = remaining is not None and remaining < _CLOCK_SKEW
        return grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED


class MalformedRequestError(Exception):
    """The bytes of a request are not a message of its type, or there are none."""


class RequestTimeoutError(Exception):
    """The one request of a call was not there in time."""


Proceed: TypeAlias = Callable[[Call], Awaitable[Any]]
"""Runs the rest of the chain and the handler; gives a unary call's response, in bytes, and None for a stream."""


class Layer(ABC):
    """What an interceptor is: a coroutine that runs the rest of a call, once, and sees how it ends.

    The caller gets a unary call's response when the outermost layer has returned it, and a stream's OK when all have
    returned: a layer that has to finish something before the caller may believe in success awaits it after
    ``proceed``. If that fails it raises where ERRORS stands outside of it; where ERRORS stands inside, it ends the call
    with ``call.context.abort_with_status``, since gRPC shows the text of what leaves the outermost layer. A call that its caller gave up leaves ``proceed`` as CancelledError; what has
    to be done even then runs in a task of its own, and the error goes on.
    """

    def concerns(self, method: str) -> bool:
        """Whether it has anything to do for calls to ``method``: asked once, and around no other call it runs."""
        del method
        return True

    @abstractmethod
    async def around(self, call: Call, proceed: Proceed) -> Any:
        """Do what comes before, return ``await proceed(call)``, and do what comes after in ``finally`` or ``except``."""


class Chain(grpc.aio.ServerInterceptor):
    """Runs every call through a fixed list of layers, outermost first.

    The wrapped handler of a known method is made once and kept. Unknown paths get a handler that does nothing but
    ``refuse``, inside the same layers, so that they are measured and audited like all others; those are not kept,
    because a caller can make up any number of them.
    """

    def __init__(
        self, layers: Sequence[Layer], refuse: Callable[[Call], Awaitable[None]], *, request_time: float | None = None
    ) -> None:
        """``request_time`` is how long the one request of a call may take to arrive, in seconds."""
        self._layers = tuple(layers)
        self._refuse = refuse
        self._patience = Timeouts(request_time) if request_time is not None else None
        self._wrapped: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """Return the handler for a call; must not raise (gRPC would show the exception's text to the caller)."""
        _metadata.set(handler_call_details.invocation_metadata)
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
        # gRPC shapes a unary call's answer after its handler, where a failure would pass by every layer and show the
        # exception's text to the caller: that is done here instead. And it reads the request of a call that is not
        # known to stream before its handler, from strangers as well: so every call is told to it as one that streams.
        serialize = handler.response_serializer or _as_it_is
        request_streaming, response_streaming = handler.request_streaming, handler.response_streaming
        parse = None if request_streaming else _parser(handler.request_deserializer)
        # Whatever streams its requests is given them parsed by gRPC.
        given = _parser(handler.request_deserializer) if request_streaming else None
        behaviour: Any
        if response_streaming:
            behaviour = handler.stream_stream if request_streaming else handler.unary_stream
            handle = self._streaming(method, parse, behaviour)
            return grpc.stream_stream_rpc_method_handler(handle, given, handler.response_serializer)
        behaviour = handler.stream_unary if request_streaming else handler.unary_unary
        return grpc.stream_unary_rpc_method_handler(self._unary(method, parse, behaviour, serialize), given)

    def _unary(self, method: str, parse: _Convert | None, behaviour: Any, serialize: _Convert) -> Any:
        async def run(call: Call) -> Any:
            request = call.requests if parse is None else parse(await self._reading(call))
            return serialize(await behaviour(request, call.context))

        through = self._nest(method, run)

        async def handle(requests: Any, context: Context) -> Any:
            return await through(_begin(method, context, requests, known=True, streams=parse is None))

        return handle

    def _streaming(self, method: str, parse: _Convert | None, behaviour: Any) -> Any:
        async def run(call: Call) -> None:
            request = call.requests if parse is None else parse(await self._reading(call))
            responses = behaviour(request, call.context)
            if not hasattr(responses, "__aiter__"):
                await responses  # a handler that calls context.write itself
                return
            write = call.context.write
            # Closed here and now, so that a cancelled call releases what its handler holds at once.
            async with aclosing(responses):
                async for response in responses:
                    try:
                        await write(response)
                    except grpc.aio.InternalError as error:
                        # The connection is gone, and with it whoever would have learned of a failure.
                        raise asyncio.CancelledError from error

        through = self._nest(method, run)

        # Not a generator: one that is cancelled while its caller does not read is dropped between two messages, so
        # that no layer learns how the call ended, and one whose time runs out there never ends at all.
        async def handle(requests: Any, context: Context) -> None:
            await through(_begin(method, context, requests, known=True, streams=parse is None))

        return handle

    def _reading(self, call: Call) -> Awaitable[Any]:
        """Gives the bytes of the one request that the handler gets, or EOF."""
        reading: Awaitable[Any] = call.context.read()
        return reading if self._patience is None else self._patience.limit(reading, RequestTimeoutError)

    def _unknown(self, method: str) -> Handler:
        through = self._nest(method, self._refuse)

        async def handle(requests: Any, context: Context) -> None:
            await through(_begin(method, context, requests, known=False, streams=True))

        # The shape that any client's call fits.
        return grpc.stream_stream_rpc_method_handler(handle)

    def _nest(self, method: str, innermost: Proceed) -> Proceed:
        through = innermost
        for layer in reversed(self._layers):
            if layer.concerns(method):
                through = _put_around(layer, through)
        return through


def _put_around(layer: Layer, proceed: Proceed) -> Proceed:
    around = layer.around

    # A partial with a keyword makes a dictionary for every call.
    def through(call: Call) -> Awaitable[Any]:
        return around(call, proceed)

    return through


def _parser(deserialize: _Convert | None) -> _Convert:
    def parse(data: Any) -> Any:
        if data is grpc.aio.EOF:
            raise MalformedRequestError
        if deserialize is None:
            return data
        try:
            return deserialize(data)
        except Exception as error:
            raise MalformedRequestError from error

    return parse


def _as_it_is(message: Any) -> Any:
    return message


def _begin(method: str, context: Context, requests: Any, *, known: bool, streams: bool) -> Call:
    received = _metadata.get()
    for name, value in received:
        if name == REQUEST_ID_KEY and isinstance(value, str) and _REQUEST_ID.fullmatch(value):
            return Call(method, known, context, value, received, requests, streams)
    return Call(method, known, context, f"{getrandbits(128):032x}", received, requests, streams)


_BY_NUMBER = {code.value[0]: code for code in grpc.StatusCode}


def _as_status_code(code: Any) -> grpc.StatusCode:
    # grpc.aio gives None or 0 where nothing was set, and the bare number after an abort.
    if isinstance(code, grpc.StatusCode):
        return code
    return _BY_NUMBER.get(code or 0, grpc.StatusCode.UNKNOWN)
