"""The one client for calls to HTTP servers from an event loop.

Answers are bounded in bytes and time, redirects are not followed, cookies are not kept, and nothing of the environment is
used. Reading makes way for other work on the loop.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import httpcore
import httpx

from services.http.limits import Allowance, Broken, Limits
from services.http.messages import check_head, explained, extensions, header, request_of, trusted
from services.http.network import Network, paying
from services.http.pauses import Pauses


class Answer:
    """An answer whose body is still to be read."""

    def __init__(
        self,
        status: int,
        headers: Sequence[tuple[bytes, bytes]],
        body: AsyncIterator[bytes],
        allowance: Allowance,
    ) -> None:
        self.status = status
        self._headers = headers
        self._body = body
        self._allowance = allowance

    def header(self, name: str) -> str:
        """The first header of that name, "" where there is none."""
        return header(self._headers, name)

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """The body as it comes; HttpProblem when it breaks off or is more than it may be."""
        pauses = Pauses()
        with explained():
            while True:
                with paying(self._allowance):
                    piece = await anext(self._body, None)
                if piece is None:
                    return
                self._allowance.piece(len(piece))
                yield piece
                await pauses.pause()

    async def read(self) -> bytes:
        """The whole body; HttpProblem as above."""
        body = bytearray()
        async for piece in self.pieces():
            body += piece
        return bytes(body)


class HttpClient:
    """Calls servers within ``limits``; ``headers`` go with every request, ``tls`` says whom to trust.

    Headers are never shown. Without ``tls`` the certificates of the system and of certifi count.
    """

    def __init__(
        self, limits: Limits, *, headers: Mapping[str, str] | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self.closed = False
        self._limits = limits
        self._headers = httpx.Headers(headers)  # which hides credentials when it is printed
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=tls or trusted(),
            max_connections=limits.connections,
            max_keepalive_connections=min(limits.connections, 20),
            keepalive_expiry=5.0,
            network_backend=Network(),
        )

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
        """Send a request; the answer may have any status, redirects included. Its body is read inside.

        ``total`` (seconds) and ``body`` (bytes) take the place of those limits, for this call.

        Raises:
            HttpProblem: It came to nothing, and why; NotConnected where the server has done nothing.
        """
        limits = replace(
            self._limits,
            total=self._limits.total if total is None else total,
            idle=self._limits.idle if total is None else min(self._limits.idle, total),
            body=self._limits.body if body is None else body,
        )
        allowance = Allowance(limits)
        headers = dict(self._headers) | ({} if content is None else {"Content-Type": content_type})
        request = request_of(method, httpx.URL(url), headers, content)
        request.extensions = extensions(limits)
        with explained():
            if self.closed:
                raise Broken("is not called any more: the connection is shut down")
            with paying(allowance):
                response = await self._pool.handle_async_request(request)
        stream = response.aiter_stream()
        try:
            check_head(response.headers, allowance)
            yield Answer(response.status, response.headers, stream, allowance)
        finally:
            with suppress(Exception):  # a connection that fails while it is closed is closed
                await response.aclose()

    async def close(self) -> None:
        """Close the connections."""
        self.closed = True
        await self._pool.aclose()
