"""A small HTTP server that speaks streaming chat completions, for the tests of generation."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from services.generation.grounding import SENTINEL

_SOURCE = re.compile(r'<source number="(\d+)" title="[^"]*">\n(.*?)\n</source>', re.DOTALL)
_QUESTION = re.compile(r"Question: (.*)\Z", re.DOTALL)


@dataclass
class Reply:
    """How the server answers: a status, headers, raw pieces of the body (one write each), and how it ends."""

    pieces: Sequence[bytes] = ()
    status: int = 200
    headers: Sequence[tuple[str, str]] = ()
    hold: asyncio.Event | None = None  # waited for behind the last piece
    rest: Sequence[bytes] = ()  # more pieces, behind what is waited for
    cut: bool = False  # the connection is dropped in the middle of the body


@dataclass
class ChatServer:
    """What the server was asked, and what it saw; ``reply`` makes the answer to a request."""

    base_url: str
    reply: Callable[[dict[str, Any]], Reply]
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    gone: asyncio.Event = field(default_factory=asyncio.Event)  # a client left before the end


def chunk(text: str | None = None, *, finish: str | None = None, usage: tuple[int, int] | None = None) -> bytes:
    """One event of a completion."""
    body: dict[str, Any] = {"choices": []}
    if text is not None or finish is not None:
        body["choices"] = [{"index": 0, "delta": {"content": text} if text else {}, "finish_reason": finish}]
    if usage is not None:
        body["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
    return b"data: " + json.dumps(body, ensure_ascii=False).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


def completion(*texts: str) -> list[bytes]:
    """A whole completion in as many chunks as there are texts."""
    return [*(chunk(text) for text in texts), chunk(finish="stop"), chunk(usage=(100, 20)), DONE]


def quoting(body: dict[str, Any]) -> Reply:
    """A model that quotes the first source sharing a word with the question, or says that none does."""
    prompt = body["messages"][-1]["content"]
    asked = _QUESTION.search(prompt)
    words = set(re.findall(r"[^\W_]{4,}", asked[1].lower())) if asked else set()
    for number, text in _SOURCE.findall(prompt):
        for sentence in re.split(r"(?<=[.])\s+", text):
            if words & set(re.findall(r"[^\W_]{4,}", sentence.lower())):
                return Reply(completion(*re.findall(r"\s*\S+", f"{sentence} [{number}]")))
    return Reply(completion(*SENTINEL.partition("_ANSWER")))


@asynccontextmanager
async def chat_server(reply: Callable[[dict[str, Any]], Reply] = quoting) -> AsyncIterator[ChatServer]:
    """Run a server on a free loopback port."""
    state = ChatServer("", reply)
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await _serve(state, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            state.gone.set()
        finally:
            writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    state.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield state
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _serve(state: ChatServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    body = json.loads(await reader.readexactly(int(headers["content-length"])))
    state.headers.append(headers)
    state.requests.append(body)
    reply = state.reply(body)
    lines = [f"HTTP/1.1 {reply.status} Status", "connection: close", "transfer-encoding: chunked"]
    lines += [f"{name}: {value}" for name, value in (("content-type", "text/event-stream"), *reply.headers)]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    await _write(writer, reply.pieces)
    if reply.hold is not None:
        await _until_released(state, reply.hold, reader)
    await _write(writer, reply.rest)
    if reply.cut:
        writer.transport.abort()
        return
    writer.write(b"0\r\n\r\n")
    await writer.drain()


async def _write(writer: asyncio.StreamWriter, pieces: Sequence[bytes]) -> None:
    for piece in pieces:
        writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        await writer.drain()


async def _until_released(state: ChatServer, hold: asyncio.Event, reader: asyncio.StreamReader) -> None:
    """Wait for ``hold``, or for the client to leave."""
    released = asyncio.ensure_future(hold.wait())
    left = asyncio.ensure_future(reader.read(1))
    try:
        await asyncio.wait({released, left}, return_when=asyncio.FIRST_COMPLETED)
        if left.done():
            state.gone.set()
    finally:
        released.cancel()
        left.cancel()
