"""An HTTP server that does harm, in as many ways as there are members of ``Mode``; no two connections are alike to it."""

from __future__ import annotations

import asyncio
import bz2
import contextlib
import gzip
from collections.abc import Callable
from enum import Enum
from functools import lru_cache
from typing import Self

KIB = 1024
_MIB = 1024 * KIB
# What an endless body is made of; the socket's buffers hold more of it than any client has asked for.
_MOST_SENT = 64 * _MIB


class Mode(Enum):
    """What the server does with each request."""

    BOMB = "a few KiB of gzip that become 4 MiB"
    CHARSET = "a charset that is a compression"
    ENDLESS = "a body without an end"
    ENDLESS_CHUNKS = "chunks without an end, one byte each"
    HEARTBEAT = "comments of server-sent events without an end"
    BLANK_LINES = "line feeds without an end"
    HEADERS = "headers without an end"
    HEADER_LINE = "a header line without an end"
    CONTINUE = "100 Continue without an end"
    EARLY_HINTS = "103 Early Hints without an end"
    TRAILERS = "trailers without an end behind a body"
    DRIP = "an answer at a byte every few milliseconds, without an end"
    DRIP_HEAD = "a head at a byte every few milliseconds, without an end"
    SILENT = "nothing"
    DEEP = "JSON that is nested 200,000 deep"
    MANY = "JSON of a million empty lists"
    REDIRECT = "a redirect to another host"
    ANNOUNCED = "a body that is announced with 2^60 bytes"
    SHORT = "a body that is shorter than announced"
    GIBBERISH = "no HTTP"


class HostileServer:
    """Does ``mode`` to requests; ``answer`` makes a right body of a request's path, to begin with or to hide in.

    ``sent`` counts the bytes that the network took, ``requests`` the requests. ``elsewhere`` is where redirects lead.
    Paths without ``only`` in them get the right answer.
    """

    def __init__(self, mode: Mode, answer: Callable[[str], bytes], elsewhere: str = "", only: str = "") -> None:
        self.mode = mode
        self.sent = 0
        self.requests: list[str] = []
        self.url = ""
        self.port = 0
        self._answer = answer
        self._elsewhere = elsewhere
        self._only = only
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                self.requests.append(head)
                fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
                await reader.readexactly(int(fields.get("content-length", "0")))
                await self._harm(head.split(" ")[1], writer)
        finally:
            writer.transport.abort()

    async def _send(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        writer.write(data)
        await writer.drain()
        self.sent += len(data)

    async def _flood(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        block = data * max(1, 16 * KIB // len(data))
        while self.sent < _MOST_SENT:
            await self._send(writer, block)

    async def _harm(self, path: str, writer: asyncio.StreamWriter) -> None:
        right = self._answer(path)
        if self._only not in path:
            await self._send(writer, _whole(right))
            writer.write_eof()
            await asyncio.sleep(0)
            return
        begun = f"{len(right):x}\r\n".encode() + right + b"\r\n0\r\n" if self.mode is Mode.TRAILERS else b""
        if self.mode in _FLOODS:
            first, again = _FLOODS[self.mode]
            await self._send(writer, first + begun)
            await self._flood(writer, again)
        elif self.mode in _DRIPS:
            await self._send(writer, _DRIPS[self.mode])
            await self._drip(writer)
        else:
            await self._send(writer, self._once(path, right))
            writer.write_eof()
            await asyncio.sleep(0)

    def _once(self, path: str, right: bytes) -> bytes:
        match self.mode:
            case Mode.BOMB:
                return _whole(_gzipped(right), "Content-Encoding: gzip")
            case Mode.CHARSET:
                return _whole(_bzipped(right), "Content-Type: application/json; charset=bz2")
            case Mode.DEEP:
                return _whole(b"[" * 200_000)
            case Mode.MANY:
                return _whole(b"[" + b"[]," * 1_000_000 + b"[]]")
            case Mode.REDIRECT:
                return f"HTTP/1.1 307 -\r\nLocation: {self._elsewhere}{path}\r\nContent-Length: 0\r\n\r\n".encode()
            case Mode.ANNOUNCED:
                return _whole(right, length=1 << 60)
            case Mode.SHORT:
                return _whole(right[:-1] or b"x", length=len(right) + 1000)
            case _:
                return b"\x16\x03\x01 SSH-2.0-hello\r\n\r\n"

    async def _drip(self, writer: asyncio.StreamWriter) -> None:
        while self.mode is Mode.SILENT:
            await asyncio.sleep(3600)
        while True:
            await self._send(writer, b" ")
            await asyncio.sleep(0.002)


@lru_cache
def _gzipped(right: bytes) -> bytes:
    return gzip.compress(b" " * (4 * _MIB) + right)


@lru_cache
def _bzipped(right: bytes) -> bytes:
    return bz2.compress(b" " * (4 * _MIB) + right)


def _head(*headers: str) -> bytes:
    return "\r\n".join(["HTTP/1.1 200 OK", "Content-Type: application/json", *headers, "", ""]).encode()


def _whole(body: bytes, *headers: str, length: int | None = None) -> bytes:
    length = len(body) if length is None else length
    return _head(f"Content-Length: {length}", "Connection: close", *headers) + body


_CHUNKED = _head("Transfer-Encoding: chunked")
_BEGUN = b"HTTP/1.1 200 OK\r\nX-Long: "
# What comes first, and then again and again.
_FLOODS = {
    Mode.ENDLESS: (_head(), b" "),
    Mode.ENDLESS_CHUNKS: (_CHUNKED, b"1\r\n \r\n"),
    Mode.HEARTBEAT: (_head(), b": ping\n\n"),
    Mode.BLANK_LINES: (_head(), b"\n"),
    Mode.HEADERS: (b"HTTP/1.1 200 OK\r\n", b"X-More: and more\r\n"),
    Mode.HEADER_LINE: (_BEGUN, b"x"),
    Mode.CONTINUE: (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    Mode.EARLY_HINTS: (b"", b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n"),
    Mode.TRAILERS: (_CHUNKED, b"X-Trailer: and more\r\n"),
}
# What comes first; then a blank every few milliseconds.
_DRIPS = {Mode.DRIP: _head(), Mode.DRIP_HEAD: _BEGUN, Mode.SILENT: b""}
