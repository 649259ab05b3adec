"""A stand-in for the client of HTTP servers, for tests of what comes behind it: no sockets, no limits."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx

from services.http.client import Answer, HttpClient
from services.http.limits import Allowance, Broken, Limits

_LIMITS = Limits(body=1 << 40, total=1e9, idle=1e9)


@dataclass(frozen=True)
class FakeAnswer:
    """A status, a body in pieces, and whether the connection breaks behind them."""

    status: int = 200
    pieces: Sequence[bytes] = ()
    breaks: bool = False


class FakeHttpClient(HttpClient):
    """Answers by ``reply``, which is given each request's content."""

    def __init__(self, reply: Callable[[bytes], FakeAnswer]) -> None:
        self._reply = reply

    @asynccontextmanager
    async def call(
        self,
        method: str,
        url: httpx.URL | str,
        *,
        content: bytes | None = None,
        content_type: str = "application/json",
        total: float | None = None,
        body: int | None = None,
    ) -> AsyncIterator[Answer]:
        answer = self._reply(content or b"")
        allowance = _NoLimits(_LIMITS)
        yield Answer(answer.status, [], _pieces(answer), allowance)

    async def close(self) -> None:
        """Nothing is held."""


class _NoLimits(Allowance):
    """Takes pieces of any size."""

    def piece(self, size: int) -> None:
        pass


async def _pieces(answer: FakeAnswer) -> AsyncIterator[bytes]:
    for piece in answer.pieces:
        yield piece
    if answer.breaks:
        raise Broken("broke off the connection, or did not answer in HTTP")
