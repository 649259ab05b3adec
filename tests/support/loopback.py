"""A channel that leads straight to servicers: real messages and real serialisation, no sockets.

Everything that crosses it is kept as bytes, so that tests can look for what must not be in there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any


class Loopback:
    """Stands in for a ``grpc.aio.Channel``; ``sent`` is told the bytes of every response as it leaves a service."""

    def __init__(self, *servicers: Any, sent: Callable[[str, bytes], None]) -> None:
        self._servicers = servicers
        self._sent = sent

    def unary_unary(
        self, path: str, request_serializer: Any, response_deserializer: Any, **_options: Any
    ) -> Callable[..., Any]:
        method = self._find(path)

        async def call(request: Any) -> Any:
            response = await method(type(request).FromString(request_serializer(request)), None)
            return response_deserializer(self._send(path, response))

        return call

    def unary_stream(
        self, path: str, request_serializer: Any, response_deserializer: Any, **_options: Any
    ) -> Callable[..., Any]:
        method = self._find(path)

        def call(request: Any) -> _Stream:
            return _Stream(
                self._events(
                    path, method(type(request).FromString(request_serializer(request)), None), response_deserializer
                )
            )

        return call

    def __getattr__(self, name: str) -> Callable[..., Any]:
        # Kinds of methods that nobody here calls: a stub asks for all of them.
        return lambda *_arguments, **_options: None

    async def close(self) -> None:
        """Nothing to release."""

    def _find(self, path: str) -> Any:
        name = path.rpartition("/")[2]
        return next((getattr(it, name) for it in self._servicers if hasattr(it, name)), None)

    def _send(self, path: str, response: Any) -> bytes:
        data: bytes = response.SerializeToString()
        self._sent(path, data)
        return data

    async def _events(self, path: str, responses: Any, deserializer: Any) -> AsyncIterator[Any]:
        async with aclosing(responses) as events:
            async for event in events:
                yield deserializer(self._send(path, event))


class _Stream:
    """A running call."""

    def __init__(self, events: AsyncIterator[Any]) -> None:
        self._events = events

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._events

    def cancel(self) -> None:
        """Its user closes the events instead."""
