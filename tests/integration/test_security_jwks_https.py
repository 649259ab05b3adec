"""Signing keys from a real server over HTTPS."""

from __future__ import annotations

import asyncio
import gzip
import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.corpus.errors import Unauthenticated
from services.security.claims import Issuer
from services.security.jwks import KeyFetchError, RefreshingKeys
from services.security.jwks_fetch import HttpsFetcher
from services.security.keysets import Algorithm
from services.security.refusal import Refusal
from tests.support.certificate_authority import CertificateAuthority
from tests.support.token_forge import Gate, asymmetric
from tests.unit.test_security_keysets import jwk

DOCUMENT = json.dumps({"keys": [jwk(Algorithm.ES256)]}).encode()


class KeyServer:
    """Answers every request with the bytes that a test sets, and remembers the requests."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.answer(DOCUMENT)
        self.hang = False
        self.port = 0

    def answer(self, body: bytes, status: str = "200 OK", *headers: str) -> None:
        """Set the answer."""
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers, "", ""]
        self.response = "\r\n".join(lines).encode() + body

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, one request."""
        try:
            self.requests.append((await reader.readuntil(b"\r\n\r\n")).decode())
            writer.write(self.response)
            await writer.drain()
            if self.hang:
                await reader.read()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # a client that turned away, as it should at times
        finally:
            writer.close()


@pytest.fixture
def certificates(tmp_path: Path) -> tuple[Path, Path, Path]:
    return CertificateAuthority().write(tmp_path)


@pytest.fixture
async def server(certificates: tuple[Path, Path, Path]) -> AsyncIterator[KeyServer]:
    _, key, certificate = certificates
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    keys = KeyServer()
    listening = await asyncio.start_server(keys.handle, "127.0.0.1", 0, ssl=context)
    keys.port = listening.sockets[0].getsockname()[1]
    yield keys
    listening.close()
    await listening.wait_closed()


@pytest.fixture
async def fetcher(server: KeyServer, certificates: tuple[Path, Path, Path]) -> AsyncIterator[HttpsFetcher]:
    fetcher = HttpsFetcher(f"https://127.0.0.1:{server.port}/jwks", ca_file=certificates[0])
    yield fetcher
    await fetcher.close()


async def test_tokens_are_verified_with_keys_from_the_server(server: KeyServer, fetcher: HttpsFetcher) -> None:
    keys = RefreshingKeys(fetcher, Algorithm.ES256)
    name = "https://idp.example"
    gate = Gate(Issuer(name=name, audiences=frozenset({"groundwire"}), algorithm=Algorithm.ES256, keys=keys))
    await keys.start()
    assert (await gate.verifier.verify(asymmetric(Algorithm.ES256, iss=name))).caller.subject == "alice"
    server.answer(b'{"keys": []}')
    await keys.refresh()
    with pytest.raises(Unauthenticated):
        await gate.verifier.verify(asymmetric(Algorithm.ES256, iss=name))
    assert gate.refusals == [Refusal.KEY]
    assert len(server.requests) == 2
    assert server.requests[0].startswith("GET /jwks HTTP/1.1\r\n")
    assert "accept-encoding: identity" in server.requests[0].lower()
    await keys.stop()


async def test_a_server_that_cannot_prove_who_it_is_gets_no_request(server: KeyServer, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger.pem"
    stranger.write_bytes(CertificateAuthority().pem)
    for fetcher in (
        HttpsFetcher(f"https://127.0.0.1:{server.port}/"),
        HttpsFetcher(f"https://127.0.0.1:{server.port}/", ca_file=stranger),
    ):
        with pytest.raises(KeyFetchError):
            await fetcher.fetch(None)
        await fetcher.close()
    assert server.requests == []


async def test_the_environment_names_no_proxy(
    server: KeyServer, fetcher: HttpsFetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    fetched = await fetcher.fetch(None)
    assert fetched is not None
    assert fetched.document == DOCUMENT


async def test_redirects_are_not_followed(server: KeyServer, fetcher: HttpsFetcher) -> None:
    server.answer(b"", "302 Found", f"Location: https://127.0.0.1:{server.port}/elsewhere")
    with pytest.raises(KeyFetchError):
        await fetcher.fetch(None)
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified", "404 Not Found", "500 Internal Server Error"])
async def test_other_answers_are_failures(server: KeyServer, fetcher: HttpsFetcher, status: str) -> None:
    server.answer(b"", status)
    with pytest.raises(KeyFetchError):
        await fetcher.fetch(None)


async def test_answers_that_are_too_large_or_compressed_are_refused(server: KeyServer, fetcher: HttpsFetcher) -> None:
    server.answer(b" " * 300_000)
    with pytest.raises(KeyFetchError):
        await fetcher.fetch(None)
    server.answer(gzip.compress(DOCUMENT), "200 OK", "Content-Encoding: gzip")
    with pytest.raises(KeyFetchError):
        await fetcher.fetch(None)


async def test_a_server_that_stops_in_the_middle_of_its_answer_is_given_up(
    server: KeyServer, certificates: tuple[Path, Path, Path]
) -> None:
    server.response = server.response[:-10]
    server.hang = True
    fetcher = HttpsFetcher(f"https://127.0.0.1:{server.port}/", ca_file=certificates[0], timeout=0.2)
    with pytest.raises(KeyFetchError):
        await fetcher.fetch(None)
    await fetcher.close()


async def test_nobody_listening(certificates: tuple[Path, Path, Path]) -> None:
    fetcher = HttpsFetcher("https://127.0.0.1:9/", ca_file=certificates[0])
    with pytest.raises(KeyFetchError) as caught:
        await fetcher.fetch(None)
    assert caught.value.__context__ is None
    await fetcher.close()
