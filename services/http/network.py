"""The network below httpcore, with an account of every byte and second of a call.

httpcore itself limits neither an answer's size nor the number of its 1xx answers, and its time limits are those of single
reads. The call that is under way in the present context pays for what is read and waited for.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import httpcore

from services.http.limits import KIB, Allowance

# An answer's head is parsed at one go: so little of it is read at once that this takes no time to speak of.
_HEAD_READ = 2 * KIB
_BODY_READ = 4 * KIB
_WRITE = 16 * KIB
_allowance: ContextVar[Allowance] = ContextVar("http_allowance")


@contextmanager
def paying(allowance: Allowance) -> Iterator[None]:
    """Have ``allowance`` pay for the network operations inside."""
    token = _allowance.set(allowance)
    try:
        yield
    finally:
        _allowance.reset(token)


@contextmanager
def _spending() -> Iterator[Allowance]:
    allowance = _allowance.get()
    with allowance.spending():
        yield allowance


def _read_size(allowance: Allowance, most: int) -> int:
    return min(most, _BODY_READ if allowance.in_body else _HEAD_READ)


class Stream(httpcore.AsyncNetworkStream):
    """A connection."""

    def __init__(self, inner: httpcore.AsyncNetworkStream) -> None:
        self._inner = inner

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002, ASYNC109 - httpcore's
        """What has come, b"" at the end."""
        with _spending() as allowance:
            size, seconds = _read_size(allowance, max_bytes), allowance.to_wait
            data = await self._inner.read(size, seconds)
        allowance.received(len(data))
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002, ASYNC109
        """Send ``buffer``."""
        with _spending() as allowance:
            await self._inner.write(buffer, allowance.to_wait)

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002, ASYNC109
    ) -> httpcore.AsyncNetworkStream:
        """The same connection with TLS on it."""
        with _spending() as allowance:
            return Stream(await self._inner.start_tls(ssl_context, server_hostname, allowance.to_connect))

    async def aclose(self) -> None:
        """Close the connection."""
        await self._inner.aclose()

    def get_extra_info(self, info: str) -> Any:
        """See httpcore."""
        return self._inner.get_extra_info(info)


class Network(httpcore.AsyncNetworkBackend):
    """Connections from an event loop."""

    def __init__(self) -> None:
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002, ASYNC109
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """A connection to ``host``."""
        with _spending() as allowance:
            seconds = allowance.to_connect
            return Stream(await self._inner.connect_tcp(host, port, seconds, local_address, socket_options))


class BlockingStream(httpcore.NetworkStream):
    """A connection of a thread."""

    def __init__(self, inner: httpcore.NetworkStream) -> None:
        self._inner = inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002
        """What has come, b"" at the end."""
        with _spending() as allowance:
            data = self._inner.read(_read_size(allowance, max_bytes), allowance.to_wait)
        allowance.received(len(data))
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002
        """Send ``buffer``; a bit at a time, because httpcore waits for each part that is taken, and not for all of it."""
        for start in range(0, len(buffer), _WRITE):
            with _spending() as allowance:
                self._inner.write(buffer[start : start + _WRITE], allowance.to_wait)

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002
    ) -> httpcore.NetworkStream:
        """The same connection with TLS on it."""
        with _spending() as allowance:
            return BlockingStream(self._inner.start_tls(ssl_context, server_hostname, allowance.to_connect))

    def close(self) -> None:
        """Close the connection."""
        self._inner.close()

    def get_extra_info(self, info: str) -> Any:
        """See httpcore."""
        return self._inner.get_extra_info(info)


class BlockingNetwork(httpcore.NetworkBackend):
    """Connections from threads."""

    def __init__(self) -> None:
        self._inner = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """A connection to ``host``."""
        with _spending() as allowance:
            seconds = allowance.to_connect
            return BlockingStream(self._inner.connect_tcp(host, port, seconds, local_address, socket_options))
