"""The bounded client under the ``requests`` library, for exporters that bring that library along."""

from __future__ import annotations

import io
import ssl
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path

import requests
from requests.adapters import BaseAdapter
from requests.structures import CaseInsensitiveDict
from requests.utils import select_proxy

from services.http.blocking import BlockingHttpClient, WholeAnswer
from services.http.limits import KIB, Broken, HttpProblem, Limits, NotConnected, TooSlow
from services.http.messages import trusted

_LIMITS = Limits(body=64 * KIB, total=60.0, idle=60.0, connections=4)
_OWN_HEADERS = frozenset({"host", "content-length", "connection", "accept-encoding", "transfer-encoding"})
_KEPT_HEADERS = ("location", "retry-after")
_Certificate = str | tuple[str, str] | None


def bounded_session() -> requests.Session:
    """A session all of whose calls are bounded. Only a few headers of answers are kept, and no cookies."""
    session = requests.Session()
    adapter = _Adapter()
    for scheme in ("http://", "https://"):
        session.mount(scheme, adapter)
    return session


class _Adapter(BaseAdapter):
    def __init__(self) -> None:
        super().__init__()
        self._clients: dict[tuple[bool | str, _Certificate, str | None], BlockingHttpClient] = {}

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,  # noqa: ARG002 - the library's signature
        timeout: float | tuple[float | None, float | None] | None = None,
        verify: bool | str = True,
        cert: bytes | str | tuple[bytes | str, bytes | str] | None = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Send ``request`` and read the answer; one of the library's errors when it comes to nothing."""
        url = request.url or ""
        total = min(seconds for seconds in (_seconds(timeout), _LIMITS.total) if seconds is not None)
        client = self._client(verify, _certificate(cert), select_proxy(url, dict(proxies or {})))
        headers = {
            _text(name): _text(value) for name, value in request.headers.items() if name.lower() not in _OWN_HEADERS
        }
        if not isinstance(request.body, bytes | str | None):
            raise requests.exceptions.InvalidSchema("a body is sent at one go", request=request)
        content = request.body.encode() if isinstance(request.body, str) else request.body
        try:
            answer = client.call(request.method or "GET", url, headers, content, total=total)
        except (NotConnected, Broken) as error:
            raise requests.exceptions.ConnectionError(error, request=request) from error
        except TooSlow as error:
            raise requests.exceptions.ReadTimeout(error, request=request) from error
        except HttpProblem as error:
            raise requests.exceptions.RequestException(error, request=request) from error
        return _response(request, answer)

    def close(self) -> None:
        """Close the connections."""
        for client in self._clients.values():
            client.close()

    def _client(self, verify: bool | str, cert: _Certificate, proxy: str | None) -> BlockingHttpClient:
        key = (verify, cert, proxy)
        if key not in self._clients:
            self._clients[key] = BlockingHttpClient(_LIMITS, tls=_tls(verify, cert), proxy=proxy)
        return self._clients[key]


def _response(request: requests.PreparedRequest, answer: WholeAnswer) -> requests.Response:
    response = requests.Response()
    response.status_code = answer.status
    response.reason = HTTPStatus(answer.status).phrase if answer.status in set(HTTPStatus) else ""
    response.headers = CaseInsensitiveDict({name: answer.header(name) for name in _KEPT_HEADERS if answer.header(name)})
    response.encoding = "utf-8"
    response.raw = io.BytesIO(answer.body)
    response.url = request.url or ""
    response.request = request
    return response


def _tls(verify: bool | str, cert: _Certificate) -> ssl.SSLContext:
    if verify is True and cert is None:
        return trusted()
    path = verify if isinstance(verify, str) else None
    folder = path is not None and Path(path).is_dir()
    context = ssl.create_default_context(cafile=None if folder else path, capath=path if folder else None)
    if verify is False:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if cert is not None:
        context.load_cert_chain(*((cert,) if isinstance(cert, str) else cert))
    return context


def _seconds(timeout: float | tuple[float | None, float | None] | None) -> float | None:
    return timeout[1] if isinstance(timeout, tuple) else timeout


def _certificate(cert: bytes | str | tuple[bytes | str, bytes | str] | None) -> _Certificate:
    if isinstance(cert, tuple):
        return _text(cert[0]), _text(cert[1])
    return None if cert is None else _text(cert)


def _text(value: bytes | str) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value
