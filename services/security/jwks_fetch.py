"""Where JWK Sets come from: a file, or a server over HTTPS."""

from __future__ import annotations

import asyncio
import os
import ssl
from http import HTTPStatus
from ipaddress import ip_address
from pathlib import Path

import httpx

from services.corpus.errors import FailedPrecondition
from services.http.client import HttpClient
from services.http.json_values import most_values
from services.http.limits import HttpProblem, Limits
from services.security.jwks import Fetched, KeyFetchError, RefreshPolicy

MAX_DOCUMENT = 256 * 1024
MAX_VALUES = 8192
"""Of JSON in a document from a server; reading more would hold up others."""
FILE_POLICY = RefreshPolicy(every=1.0)
"""A look at a file costs a ``stat``: changes are seen within a second."""


class FileFetcher:
    """A JWK Set in a file, read again when the file changes."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def fetch(self, known: object) -> Fetched | None:
        """The file's content, or None if the file is the same as when its version was ``known``."""
        return await asyncio.to_thread(self._read, known)

    async def close(self) -> None:
        """Nothing is held."""

    def _read(self, known: object) -> Fetched | None:
        try:
            with self._path.open("rb") as file:
                status = os.fstat(file.fileno())
                version = (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)
                if version == known:
                    return None
                document = file.read(MAX_DOCUMENT + 1)
        except OSError as error:
            problem = error.strerror or "cannot be read"
        else:
            if len(document) <= MAX_DOCUMENT:
                return Fetched(document, version)
            problem = "is too large"
        raise KeyFetchError(f"the key file: {problem}")


class HttpsFetcher:
    """A JWK Set on a server.

    Redirects are not followed, and proxies and credentials of the environment are not used: the keys decide who gets
    in, so they come from exactly where the settings say.
    """

    def __init__(self, url: str, *, ca_file: Path | None = None, timeout: float = 5.0) -> None:
        """Set up the client; no connection is made yet.

        Args:
            url: HTTPS, or HTTP to this machine alone; FailedPrecondition otherwise.
            ca_file: PEM certificates to trust instead of the system's.
            timeout: Seconds for the whole fetch.
        """
        self._url = _checked(url)
        self._client = HttpClient(
            Limits(body=MAX_DOCUMENT, total=timeout, idle=timeout, connect=timeout, connections=2),
            headers={"Accept": "application/jwk-set+json, application/json"},
            tls=ssl.create_default_context(cafile=None if ca_file is None else str(ca_file)),
        )

    async def fetch(self, known: object) -> Fetched | None:
        """The document that the server has now; never None."""
        del known
        try:
            async with self._client.call("GET", self._url) as answer:
                if answer.status != HTTPStatus.OK:
                    raise KeyFetchError(f"the key server answered with status {answer.status}")
                document = await answer.read()
                if most_values(document) > MAX_VALUES:
                    raise KeyFetchError("the key server's answer has too many values")
                return Fetched(document)
        except HttpProblem as error:
            words = error.words
        raise KeyFetchError(f"the key server {words}")

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()


def _checked(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, TypeError):
        url = httpx.URL("")
    if not url.host or url.userinfo or url.fragment or url.scheme not in {"https", "http"}:
        raise FailedPrecondition("the address of signing keys must be an https URL without credentials")
    if url.scheme == "http" and not _is_this_machine(url.host):
        raise FailedPrecondition("signing keys are only fetched over https, or from this machine")
    return url


def _is_this_machine(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
