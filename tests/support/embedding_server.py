"""A small HTTP server that speaks OpenAI's embeddings API, for tests: real sockets, scripted failures."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from services.embedding.memory import HashingEmbedder

DIMENSION = 64


@dataclass(frozen=True)
class Reply:
    """One scripted HTTP answer; ``body`` is sent as it is when it is bytes, as JSON otherwise."""

    status: int = 200
    body: Any = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


class EmbeddingServer:
    """Answers ``POST /v1/embeddings`` with hashed vectors that are not normalised, in an order turned round.

    ``script`` is answered first, one reply per request; None hangs up without a word. While ``held`` is an event that
    is not set, answers wait for it.
    """

    def __init__(self, *script: Reply | None) -> None:
        self._script = list(script)
        self._embedder = HashingEmbedder(DIMENSION)
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.held: asyncio.Event | None = None
        self.seconds = 0.0
        """What each text takes; one request is computed at a time."""
        self.most = 1 << 30
        """The most texts that a request may have; more get HTTP 413, or with ``by_half`` this many vectors."""
        self.by_half = False
        self._computing = asyncio.Lock()
        self.url = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
            request = json.loads(await reader.readexactly(int(headers["content-length"])))
            self.headers.append(headers)
            self.requests.append(request)
            if self.held is not None:
                await self.held.wait()
            if self.seconds:
                async with self._computing:
                    await asyncio.sleep(self.seconds * len(request["input"]))
            reply = self._script.pop(0) if self._script else await self._embed(head[0], request)
            if reply is not None:
                writer.write(_http(reply))
                await writer.drain()
        finally:
            writer.close()

    async def _embed(self, line: str, request: Mapping[str, Any]) -> Reply:
        if line != "POST /v1/embeddings HTTP/1.1":
            return Reply(404)
        if not all(request["input"]):
            return Reply(400)
        if len(request["input"]) > self.most and not self.by_half:
            return Reply(413)
        vectors = 3.0 * await self._embedder.embed_passages(request["input"])
        rows = [self._encode(vector, request["encoding_format"]) for vector in vectors]
        data = [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)][
            : self.most
        ]
        return Reply(body={"object": "list", "data": data[::-1], "model": request["model"]})

    @staticmethod
    def _encode(vector: np.ndarray, encoding: str) -> str | list[float]:
        if encoding == "base64":
            return base64.b64encode(vector.astype("<f4").tobytes()).decode()
        return [float(value) for value in vector]


def _http(reply: Reply) -> bytes:
    body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
    extra = "".join(f"{name}: {value}\r\n" for name, value in reply.headers.items())
    head = f"HTTP/1.1 {reply.status} -\r\nContent-Length: {len(body)}\r\nConnection: close\r\n{extra}\r\n"
    return head.encode() + body
