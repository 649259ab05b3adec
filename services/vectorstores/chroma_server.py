"""The connection to a Chroma server: Chroma's own client, over the bounded client for HTTP servers.

Chroma's client reads whatever comes, in any compression and charset, for as long as it takes, and parses it at one go. Here
each call says how much it expects.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import httpx
from chromadb.api.client import Client
from chromadb.config import Settings

from services.http.blocking import BlockingHttpClient
from services.http.json_values import most_values
from services.http.limits import KIB, MIB, HttpProblem, Limits

MOST_HITS = 200_000
"""That a search asks for, and gets."""
_MOST_BYTES, _MOST_VALUES = 32 * MIB, 1_000_000
_BYTES_AROUND, _VALUES_AROUND = 64 * KIB, 1024  # of any answer
_BYTES_PER_NUMBER = 32
_BYTES_PER_HIT, _VALUES_PER_HIT = 512, 4
_BYTES_PER_ROW, _VALUES_PER_ROW = 512, 8
_OWN_HEADERS = frozenset({"host", "content-length", "connection", "accept-encoding", "transfer-encoding", "user-agent"})
_expected: ContextVar[tuple[int, int]] = ContextVar("chroma_expected", default=(_BYTES_AROUND, _VALUES_AROUND))


@contextmanager
def expecting_hits(hits: int) -> Iterator[None]:
    """Expect answers with up to ``hits`` ids and distances inside; without this, answers are small."""
    with _expecting(hits * _BYTES_PER_HIT, hits * _VALUES_PER_HIT):
        yield


@contextmanager
def expecting_vectors(rows: int, dimension: int) -> Iterator[None]:
    """Expect answers with up to ``rows`` vectors inside."""
    size, values = dimension * _BYTES_PER_NUMBER + _BYTES_PER_ROW, dimension + _VALUES_PER_ROW
    with _expecting(rows * size, rows * values):
        yield


@contextmanager
def _expecting(size: int, values: int) -> Iterator[None]:
    token = _expected.set((min(size + _BYTES_AROUND, _MOST_BYTES), min(values + _VALUES_AROUND, _MOST_VALUES)))
    try:
        yield
    finally:
        _expected.reset(token)


class _Transport(httpx.BaseTransport):
    """Under Chroma's httpx session. Headers of answers are dropped: a charset could name a compression, cookies pile up."""

    def __init__(self, timeout: float) -> None:
        self._client = BlockingHttpClient(
            Limits(body=_BYTES_AROUND, total=timeout, idle=timeout, connect=timeout, connections=32)
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send ``request``; httpx.TransportError when it comes to nothing, or to more than is expected."""
        size, values = _expected.get()
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _OWN_HEADERS}
        content = request.read()
        try:
            answer = self._client.call(request.method, request.url, headers, content, body=size)
        except HttpProblem as error:
            raise httpx.TransportError(error.words) from error
        if most_values(answer.body) > values:
            raise httpx.TransportError("sent more values than were asked for")
        return httpx.Response(answer.status, content=answer.body)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


class _BoundedClient(Client):  # type: ignore[misc] # chromadb is published without type information
    """Chroma's client with another transport from its first call on, which is :meth:`get_user_identity`."""

    def __init__(self, settings: Settings, transport: _Transport) -> None:
        self._transport = transport
        super().__init__(settings=settings)

    def get_user_identity(self) -> Any:
        """See chromadb."""
        given = self._server._session  # noqa: SLF001 - Chroma offers no setting for it
        self._server._session = httpx.Client(  # noqa: SLF001
            transport=self._transport, headers=given.headers, trust_env=False
        )
        given.close()
        return super().get_user_identity()


def connect(host: str, port: int, settings: Settings, *, ssl: bool, timeout: float) -> Any:
    """A client of the Chroma server at ``host``; ``timeout`` in seconds bounds each call, this one's too.

    Raises whatever Chroma's client makes of a server that does not answer, or not as Chroma does.
    """
    settings.chroma_api_impl = "chromadb.api.fastapi.FastAPI"
    settings.chroma_server_host, settings.chroma_server_http_port = host, port
    settings.chroma_server_ssl_enabled = ssl
    transport = _Transport(timeout)
    try:
        return _BoundedClient(settings, transport)
    except BaseException:
        transport.close()
        raise
