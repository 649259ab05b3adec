"""The client for calls to servers outside of the mesh, against real servers that do harm (G1)."""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest

from services.http.blocking import BlockingHttpClient
from services.http.client import HttpClient
from services.http.json_values import BadJson, read_json
from services.http.limits import KIB, MIB, Allowance, Broken, HttpProblem, Limits, NotConnected, TooMuch, TooSlow
from tests.support.certificate_authority import CertificateAuthority
from tests.support.hostile_http import HostileServer, Mode
from tests.support.serving import PATIENT

LIMITS = Limits(body=64 * KIB, total=60, idle=60, connect=60)
SLOW = {Mode.DRIP, Mode.DRIP_HEAD, Mode.SILENT}
TOO_LARGE = (TooMuch, "sent more than 64 KiB")
TOO_LONG_A_HEAD = (TooMuch, "sent more than 32 KiB before its answer")
COMPRESSED = (TooMuch, "sent a compressed answer, which was not asked for")
LATE = (TooSlow, "did not answer in time")
BROKEN = (Broken, "broke off the connection, or did not answer in HTTP")
HARM: dict[Mode, tuple[type[HttpProblem], str]] = {
    Mode.BOMB: COMPRESSED,
    Mode.ENDLESS: TOO_LARGE,
    Mode.ENDLESS_CHUNKS: (TooMuch, "sent its answer in too many small pieces"),
    Mode.HEARTBEAT: TOO_LARGE,
    Mode.BLANK_LINES: TOO_LARGE,
    Mode.HEADERS: TOO_LONG_A_HEAD,
    Mode.HEADER_LINE: TOO_LONG_A_HEAD,
    Mode.CONTINUE: TOO_LONG_A_HEAD,
    Mode.EARLY_HINTS: TOO_LONG_A_HEAD,
    Mode.TRAILERS: TOO_LARGE,
    Mode.DRIP: LATE,
    Mode.DRIP_HEAD: LATE,
    Mode.SILENT: LATE,
    Mode.DEEP: TOO_LARGE,
    Mode.MANY: TOO_LARGE,
    Mode.ANNOUNCED: TOO_LARGE,
    Mode.SHORT: BROKEN,
    Mode.GIBBERISH: BROKEN,
}
# The socket buffers of both sides take some megabytes before anybody has read a byte.
BUFFERS = 16 * MIB


def right(_path: str) -> bytes:
    return b'{"right": true}'


async def fetched(
    url: str, limits: Limits = LIMITS, tls: ssl.SSLContext | None = None, content: bytes = b"{}"
) -> bytes:
    client = HttpClient(limits, tls=tls)
    try:
        async with client.call("POST", url, content=content) as answer:
            return await answer.read()
    finally:
        await client.close()


async def fetched_in_a_thread(
    url: str, limits: Limits = LIMITS, tls: ssl.SSLContext | None = None, content: bytes = b"{}"
) -> bytes:
    client = BlockingHttpClient(limits, tls=tls)
    try:
        return (await asyncio.to_thread(client.call, "POST", url, {}, content)).body
    finally:
        client.close()


async def too_slow(call: Callable[[Limits], Awaitable[object]]) -> HttpProblem:
    """What ``call`` raises with as little time as it takes to connect here and now."""
    for total in PATIENT:
        try:
            await call(Limits(body=64 * KIB, total=total, idle=total, connect=60))
        except NotConnected:
            continue
        except HttpProblem as problem:
            return problem
    raise AssertionError("no connection, or an answer")


@pytest.mark.parametrize("fetch", [fetched, fetched_in_a_thread])
@pytest.mark.parametrize("mode", HARM, ids=lambda mode: mode.name.lower())
async def test_a_server_that_does_harm_is_given_up_for_a_reason(
    mode: Mode, fetch: Callable[[str, Limits], Awaitable[bytes]]
) -> None:
    async with HostileServer(mode, right) as server:
        if mode in SLOW:
            problem = await too_slow(partial(fetch, server.url))
        else:
            with pytest.raises(HttpProblem) as caught:
                await fetch(server.url, LIMITS)
            problem = caught.value
        assert (type(problem), problem.words) == HARM[mode]
        assert server.sent < BUFFERS
        assert "accept-encoding: identity\r\n" in server.requests[0].lower()


async def test_a_redirect_is_an_answer_and_not_followed() -> None:
    async with HostileServer(Mode.BOMB, right) as elsewhere:
        async with HostileServer(Mode.REDIRECT, right, elsewhere.url) as server:
            assert await fetched(server.url) == await fetched_in_a_thread(server.url) == b""
            assert len(server.requests) == 2
        assert elsewhere.requests == []


async def test_a_body_of_the_most_bytes_is_read_however_it_is_cut() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for letter in b"letters":
            writer.write(b"1\r\n%c\r\n" % letter)
            await writer.drain()
        writer.write(b"4e20\r\n" + b"x" * 20_000 + b"\r\n0\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    limits = Limits(body=7 * 6 + 20_000 + 15, total=20, idle=20)
    assert await fetched(url, limits) == await fetched_in_a_thread(url, limits) == b"letters" + b"x" * 20_000
    with pytest.raises(TooMuch):
        await fetched(url, Limits(body=limits.body - 4 * KIB, total=20, idle=20))
    server.close()


async def test_nothing_is_kept_of_an_answer_but_the_connection() -> None:
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(b"HTTP/1.1 200 OK\r\nSet-Cookie: session=abc\r\nContent-Length: 2\r\n\r\nok")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    client = HttpClient(Limits(body=KIB, total=20, idle=20))
    for _ in range(2):
        async with client.call("GET", url) as answer:
            assert await answer.read() == b"ok"
    await client.close()
    server.close()
    assert len(heads) == 2
    assert b"cookie" not in heads[1].lower()


async def test_a_server_that_is_not_there_is_not_connected() -> None:
    async with HostileServer(Mode.SILENT, right) as server:
        url = server.url
    with pytest.raises(NotConnected, match="could not be reached"):
        await fetched(url)


async def test_a_request_that_nobody_takes_is_given_up() -> None:
    """By a server that reads, but next to nothing."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1):
            await asyncio.sleep(0.002)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    content = b"x" * 32 * MIB
    for fetch in (fetched, fetched_in_a_thread):
        assert isinstance(await too_slow(partial(fetch, url, content=content)), TooSlow)
    server.close()


@pytest.mark.parametrize("fetch", [fetched, fetched_in_a_thread])
async def test_tls_that_breaks_in_the_middle_is_a_broken_connection(
    fetch: Callable[[str, Limits, ssl.SSLContext], Awaitable[bytes]], tmp_path: Path
) -> None:
    authority, key, certificate = CertificateAuthority().write(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nbegun")
        await writer.drain()
        os.write(writer.get_extra_info("socket").fileno(), b"no record of TLS" * 100)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    tls = ssl.create_default_context(cafile=str(authority))
    with pytest.raises(Broken):
        await fetch(url, LIMITS, tls)
    server.close()


async def test_a_name_that_is_none_cannot_be_reached() -> None:
    with pytest.raises(NotConnected):
        await fetched(f"http://{'a' * 70}.invalid/")


async def test_calls_beyond_the_most_connections_wait_and_are_given_up() -> None:
    async with HostileServer(Mode.SILENT, right) as server:
        client = HttpClient(Limits(body=KIB, total=5, idle=5, connect=0.05, connections=1))

        async def call() -> None:
            async with client.call("GET", server.url):
                pass

        first = asyncio.create_task(call())
        while not server.requests:
            await asyncio.sleep(0)
            if first.done():  # it took longer to connect than the limit
                first = asyncio.create_task(call())
        with pytest.raises(NotConnected, match="as many calls as it may have"):
            await call()
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await client.close()
        with pytest.raises(Broken, match="shut down"):
            await call()


async def test_reading_makes_way_for_other_work_on_the_loop() -> None:
    """A megabyte that is there at once, in the smallest pieces that are taken."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"8\r\n01234567\r\n" * 20_000 + b"0\r\n\r\n"
        )
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    client = HttpClient(Limits(body=MIB, total=60, idle=60))
    turns = 0
    read = 0
    longest = 0
    async with client.call("GET", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/") as answer:

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(others())
        since, seen = 0, turns
        async for piece in answer.pieces():
            read += len(piece)
            since = 0 if turns != seen else since + 1
            seen = turns
            longest = max(longest, since)
        task.cancel()
    await client.close()
    server.close()
    assert read == 160_000
    # 2 ms are a few hundred pieces: by far not all of those that one read of the network holds.
    assert longest < 2_000


def test_pieces_may_be_small_but_not_many_of_them() -> None:
    allowance = Allowance(Limits(body=MIB, total=1, idle=1))
    for _ in range(4_000):
        allowance.piece(1)
    for _ in range(4_000):
        allowance.piece(8)
    for _ in range(4_000 // 8):
        allowance.piece(0)
    with pytest.raises(TooMuch, match="small pieces"):
        allowance.piece(1)


def test_the_time_of_a_call_is_that_of_the_network() -> None:
    now = 0.0
    allowance = Allowance(Limits(body=1, total=10, idle=4, connect=2), lambda: now)
    with allowance.spending():
        now += 7
    now += 100  # the caller takes its time
    assert (allowance.to_wait, allowance.to_connect) == (3, 2)
    with allowance.spending():
        now += 3
    with pytest.raises(TooSlow):
        _ = allowance.to_wait


@pytest.mark.parametrize(
    "text",
    ["", "{", "[" * 100_000, "{}}", '{"a": 1e}', b"\xff\xfe", "[" + "[]," * 2000 + "[]]", "[" + "0," * 2000 + "0]"],
)
def test_json_that_is_none_deep_or_has_too_many_values_is_refused(text: str | bytes) -> None:
    with pytest.raises(BadJson):
        read_json(text, values=1000)


def test_json_is_read_with_numbers_and_characters_of_any_kind() -> None:
    assert read_json(b'\xef\xbb\xbf{"a": [1, "x, y", null]}', values=10) == {"a": [1, "x, y", None]}
    found = read_json("[1" + "0" * 30 + ", 1" + "0" * 5000 + ', "\\ud83d", NaN]', values=10)
    assert found[:3] == [1e30, float("inf"), "\ud83d"]
    assert read_json(b'"a\xffb"', values=1) == "a\ufffdb"


def test_the_work_that_is_left_is_counted_before_any_is_done() -> None:
    """Refusing takes one pass over the bytes: ten times as many take about ten times as long."""

    def seconds(size: int) -> float:
        data = b"[" * size
        began = time.thread_time()
        for _ in range(20):
            with pytest.raises(BadJson):
                read_json(data, values=1000)
        return time.thread_time() - began

    assert min(seconds(1_000_000) for _ in range(3)) < 100 * max(min(seconds(100_000) for _ in range(3)), 1e-6)
