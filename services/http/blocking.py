"""The client for calls to HTTP servers from a thread, for libraries that call by themselves."""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import httpcore
import httpx

from services.http.limits import Allowance, Limits
from services.http.messages import check_head, explained, extensions, header, request_of, trusted
from services.http.network import BlockingNetwork, paying


@dataclass(frozen=True, slots=True)
class WholeAnswer:
    """An answer with its body."""

    status: int
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes

    def header(self, name: str) -> str:
        """The first header of that name, "" where there is none."""
        return header(self.headers, name)


class BlockingHttpClient:
    """Like :class:`services.http.client.HttpClient`, blocking; ``proxy`` is the URL of an HTTP proxy."""

    def __init__(self, limits: Limits, *, tls: ssl.SSLContext | None = None, proxy: str | None = None) -> None:
        self._limits = limits
        context, network = tls or trusted(), BlockingNetwork()
        self._pool: httpcore.ConnectionPool
        if proxy is None:
            self._pool = httpcore.ConnectionPool(
                ssl_context=context,
                max_connections=limits.connections,
                max_keepalive_connections=min(limits.connections, 20),
                keepalive_expiry=5.0,
                network_backend=network,
            )
        else:
            through = httpx.Proxy(proxy)
            self._pool = httpcore.HTTPProxy(
                httpcore.URL(
                    scheme=through.url.raw_scheme, host=through.url.raw_host, port=through.url.port, target=b"/"
                ),
                proxy_auth=through.raw_auth,
                ssl_context=context,
                max_connections=limits.connections,
                network_backend=network,
            )

    def call(
        self,
        method: str,
        url: httpx.URL | str,
        headers: Mapping[str, str],
        content: bytes | None = None,
        *,
        total: float | None = None,
        body: int | None = None,
    ) -> WholeAnswer:
        """Send a request and read the answer, whatever its status is; HttpProblem when it comes to nothing.

        ``total`` (seconds) and ``body`` (bytes) take the place of those limits, for this call.
        """
        limits = replace(
            self._limits,
            total=self._limits.total if total is None else total,
            body=self._limits.body if body is None else body,
        )
        allowance = Allowance(limits)
        request = request_of(method, httpx.URL(url), headers, content)
        request.extensions = extensions(limits)
        with explained(), paying(allowance):
            response = self._pool.handle_request(request)
            try:
                check_head(response.headers, allowance)
                received = bytearray()
                for piece in response.iter_stream():
                    allowance.piece(len(piece))
                    received += piece
            finally:
                response.close()
        return WholeAnswer(response.status, response.headers, bytes(received))

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()
