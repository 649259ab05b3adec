"""Requests and answers of HTTP as httpcore has them, for both clients."""

from __future__ import annotations

import base64
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache

import certifi
import httpcore
import httpx

from services.http.limits import Allowance, Broken, Limits, NotConnected, TooMuch, TooSlow

Headers = Mapping[str, str]


@lru_cache(maxsize=1)
def trusted() -> ssl.SSLContext:
    """TLS that trusts the certificates of the system and those of certifi."""
    context = ssl.create_default_context()
    context.load_verify_locations(cafile=certifi.where())
    return context


def request_of(method: str, url: httpx.URL, headers: Headers, content: bytes | None) -> httpcore.Request:
    """A request that asks for an answer as it is, without compression."""
    fixed = {"Host": url.netloc.decode("ascii"), "User-Agent": "groundwire", "Accept": "*/*"}
    if url.userinfo:
        credentials = f"{url.username}:{url.password}".encode()
        fixed["Authorization"] = f"Basic {base64.b64encode(credentials).decode()}"
    if content is not None:
        fixed["Content-Length"] = str(len(content))
    given = {name.lower(): (name, value) for name, value in [*fixed.items(), *headers.items()]}
    given["accept-encoding"] = ("Accept-Encoding", "identity")
    return httpcore.Request(
        method,
        httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
        headers=[(name.encode("ascii"), value.encode("latin-1")) for name, value in given.values()],
        content=content or b"",
    )


def extensions(limits: Limits) -> dict[str, object]:
    """What else httpcore should know: how long to wait for one of its connections."""
    return {"timeout": {"pool": limits.connect}}


def check_head(headers: Sequence[tuple[bytes, bytes]], allowance: Allowance) -> None:
    """Refuse an answer that is compressed, or announces a body that is too large.

    A compressed answer's size is not known before it is unpacked, and a few bytes may become gigabytes.
    """
    for name, value in headers:
        match name.lower():
            case b"content-encoding" if value.strip().lower() not in (b"", b"identity"):
                raise TooMuch("sent a compressed answer, which was not asked for")
            case b"content-length" if value.isdigit():
                allowance.announced(int(value[:20]))
            case _:
                pass
    allowance.in_body = True


def header(headers: Sequence[tuple[bytes, bytes]], name: str) -> str:
    """The first header of that name, "" where there is none."""
    wanted = name.lower().encode("ascii")
    return next((value.decode("latin-1") for each, value in headers if each.lower() == wanted), "")


@contextmanager
def explained() -> Iterator[None]:
    """What httpcore raises, in the words of :class:`services.http.limits.HttpProblem`."""
    try:
        yield
    except httpcore.ConnectTimeout as error:
        raise NotConnected("did not answer in time") from error
    except httpcore.PoolTimeout as error:
        raise NotConnected("has as many calls as it may have at the same time") from error
    except (httpcore.ConnectError, httpcore.ProxyError, httpcore.UnsupportedProtocol) as error:
        raise NotConnected("could not be reached") from error
    except httpcore.TimeoutException as error:
        raise TooSlow("did not answer in time") from error
    except UnicodeError as error:  # a name that is none
        raise NotConnected("could not be reached") from error
    # OSError: TLS that breaks in the middle of an answer.
    except (httpcore.NetworkError, httpcore.ProtocolError, OSError) as error:
        raise Broken("broke off the connection, or did not answer in HTTP") from error
