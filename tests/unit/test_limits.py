"""Each limit of a connection does what its name says."""

from __future__ import annotations

import asyncio
import re
import resource
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from interceptors._shapes import Call, Context
from services.corpus.errors import Unauthenticated
from services.runtime.channels import KEEPALIVE
from services.runtime.identity import development_identity
from services.runtime.limits import MIB, allow_many_files, server_options
from services.runtime.options import ConnectionOptions
from services.runtime.server import Server
from services.runtime.settings import Settings
from tests.support.hostile import (
    END_HEADERS,
    HEADERS,
    PING,
    WATCH,
    Connection,
    connect,
    frame,
    header_block,
    message,
)
from tests.support.processes import ROOT
from tests.support.proxy import proxy_of
from tests.support.serving import Serving, begin, call, echo_service, ended, path, until

CHECK = "/grpc.health.v1.Health/Check"


async def limited(serving: Serving, tmp_path: Path, **limits: float) -> Server:
    """A server with these limits, and no others that a test would meet."""
    connections = ConnectionOptions.model_validate(limits)
    return await serving.serve(settings=Settings(data_dir=tmp_path, connections=connections))


async def opened(server: Server, **options: Any) -> Connection:
    return await Connection.open(f"127.0.0.1:{server.port}", Counter(), **options)


async def test_whoever_says_nothing_is_cut_after_the_handshake_time(serving: Serving, tmp_path: Path) -> None:
    server = await limited(serving, tmp_path, handshake=0.2)
    reader, writer = await connect(f"127.0.0.1:{server.port}")
    while await reader.read(1000):  # its SETTINGS
        pass
    writer.close()


async def test_whoever_calls_nothing_is_cut_after_the_idle_time(serving: Serving, tmp_path: Path) -> None:
    quiet = await opened(await limited(serving, tmp_path, idle=0.2))
    await until(lambda: quiet.closed)
    assert quiet.seen["GOAWAY"]


async def test_headers_that_never_end_are_no_call(serving: Serving, tmp_path: Path) -> None:
    slow = await opened(await limited(serving, tmp_path, idle=0.2))
    await slow.send(frame(HEADERS, 0, 1, header_block(CHECK)[:-5]))
    await until(lambda: slow.closed)


async def test_a_call_that_never_ends_is_cut_after_age_and_grace(serving: Serving, tmp_path: Path) -> None:
    server = await limited(serving, tmp_path, age=0.2, age_grace=0.2)
    frozen = await opened(server, read_window=0)
    await frozen.begin(1, WATCH)
    await frozen.body(1, message(b""), end=True)
    await until(lambda: frozen.closed)
    await until(lambda: server.board._watching == 0)


async def test_honest_calls_go_on_across_many_ages(serving: Serving, tmp_path: Path) -> None:
    peers: set[str] = set()

    async def body(text: str, context: Context) -> str:
        peers.add(context.peer())
        return text

    server = await serving.serve(
        echo_service(body),
        settings=Settings(data_dir=tmp_path, connections=ConnectionOptions(age=0.05, age_grace=60)),
    )
    channel = serving.connect(server)
    while len(peers) < 5:
        assert (await call(channel, "Unary", "x", timeout=60)).responses == ["x"]


@pytest.mark.parametrize("method", [CHECK, WATCH, path("Unary"), path("ServerStream")])
async def test_a_request_that_does_not_arrive_ends_its_call(serving: Serving, tmp_path: Path, method: str) -> None:
    slow = await opened(await limited(serving, tmp_path, request_time=0.1))
    await slow.begin(1, method)
    await slow.body(1, message(b"x", promised=1000), end=False)
    await until(lambda: 1 in slow.ended)
    assert not slow.closed


async def test_a_call_without_a_request_is_refused(serving: Serving) -> None:
    channel = serving.connect(await serving.serve())
    empty: Any = channel.stream_unary(path("Unary"))
    outcome = await ended(empty(iter(())))
    assert (outcome.code, outcome.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")


async def test_more_connections_than_allowed_are_closed(serving: Serving, tmp_path: Path) -> None:
    server = await limited(serving, tmp_path, max_connections=2)
    first, second = [await opened(server) for _ in range(2)]
    reader, writer = await connect(f"127.0.0.1:{server.port}")
    assert await reader.read(1000) == b""
    writer.close()
    assert not first.closed
    assert not second.closed


async def test_no_more_calls_run_on_a_connection_than_allowed(serving: Serving) -> None:
    running, most, gate = 0, 0, asyncio.Event()

    async def body(text: str, context: Context) -> str:
        nonlocal running, most
        running, most = running + 1, max(most, running + 1)
        await gate.wait()
        running -= 1
        return text

    settings = Settings(data_dir=serving.directory, connections=ConnectionOptions(max_streams=3))
    channel = serving.connect(await serving.serve(echo_service(body), settings=settings))
    calls = [asyncio.ensure_future(ended(begin(channel, "Unary", str(i)))) for i in range(9)]
    await until(lambda: running == 3)
    gate.set()
    # gRPC's client sends one more as soon as an answer has come, which may be too soon for the server.
    outcomes = {outcome.code for outcome in await asyncio.gather(*calls)}
    assert grpc.StatusCode.OK in outcomes <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
    assert most == 3


@pytest.mark.parametrize("kib", [128, 512])
async def test_nobody_may_send_far_ahead(serving: Serving, tmp_path: Path, kib: int) -> None:
    eager = await opened(await limited(serving, tmp_path, window_kib=kib))
    await until(lambda: (eager.stream_window, eager.window) == (kib * 1024, kib * 1024))


async def test_too_many_pings_end_a_connection(serving: Serving, tmp_path: Path) -> None:
    server = await limited(serving, tmp_path, min_ping_interval=60, max_ping_strikes=2)
    flood = await opened(server)
    await flood.begin(1, WATCH)
    await flood.send(*(frame(PING, 0, 0, bytes(8)) for _ in range(20)))
    await until(lambda: flood.closed)


@pytest.fixture(params=["tcp", "tcp shared by workers", "unix"])
async def listener(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """The address of a server that allows a ping every 20 ms, in each way in which servers listen."""
    connections = ConnectionOptions(min_ping_interval=_ALLOWED)
    settings = Settings(data_dir=tmp_path, connections=connections)
    server = Server(echo_service(), settings, development_identity(settings), shared="shared" in request.param)
    address = "127.0.0.1:0" if request.param != "unix" else f"unix:{tmp_path}/server.sock"
    await server.start(address)
    yield address if request.param == "unix" else f"127.0.0.1:{server.port}"
    await server.drain(delay=0, grace=0)


# What gRPC's clients are set to, in the place of 10 s, which docs/limits.md allows: a minute of Go's and Java's least
# becomes 120 ms. Each ping waits for the answer to the one before, so that no machine is slow enough to shorten it.
_ALLOWED = 0.02
_PINGS = 15


async def test_clients_that_keep_connections_alive_as_documented_stay(listener: str) -> None:
    async def keep_alive(share: float, *, watching: bool) -> Counter[str]:
        client = await Connection.open(listener, Counter())
        if watching:
            await client.begin(1, WATCH)
        for _ in range(_PINGS):
            await client.ping()
            await asyncio.sleep(_ALLOWED * share)
        client.pump.cancel()
        return client.seen

    # 10, 11, 12, 20 s, and 10 s of which the network takes away four.
    shares, calls = (1.0, 1.1, 1.2, 2.0, 0.6), (False, True)
    clients = [keep_alive(share, watching=watching) for share in shares for watching in calls]
    for seen in await asyncio.gather(*clients):
        assert seen == {"connections": 1, "pings answered": _PINGS}


async def test_a_grpc_client_that_keeps_a_quiet_connection_alive_stays(serving: Serving, tmp_path: Path) -> None:
    server = await limited(serving, tmp_path, min_ping_interval=_ALLOWED, max_ping_strikes=1)
    async with proxy_of(server.port) as proxy:
        keepalive = [
            ("grpc.keepalive_time_ms", 1000),  # gRPC sends no more
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),
        ]
        channel = serving.connect(f"127.0.0.1:{proxy.port}", options=keepalive)
        channel.get_state(try_to_connect=True)
        await channel.channel_ready()
        ready, quiet = grpc.ChannelConnectivity.READY, proxy.sent
        # A PING has 17 bytes; the third one would be the second that comes too early.
        await until(lambda: proxy.sent >= quiet + 3 * 17 or channel.get_state() is not ready)
        assert channel.get_state() is ready


async def test_too_many_pings_end_a_connection_without_a_call(serving: Serving, tmp_path: Path) -> None:
    server = await limited(serving, tmp_path, min_ping_interval=60, max_ping_strikes=2)
    flood = await opened(server)
    answered = 0
    while await flood.ping():
        answered += 1
    # The first one, as many strikes as are forgiven, and perhaps the one that was too many, just before the end.
    assert (answered in (3, 4), flood.seen["GOAWAY"]) == (True, 1)


def test_our_own_clients_ping_no_more_often_than_servers_allow() -> None:
    assert ConnectionOptions().min_ping_interval <= KEEPALIVE


async def test_a_peer_that_answers_no_ping_is_cut(serving: Serving, tmp_path: Path) -> None:
    server = await limited(serving, tmp_path, ping_interval=1, ping_timeout=0.2)
    vanished = await opened(server)
    await vanished.begin(1, WATCH)
    await vanished.body(1, message(b""), end=True)
    await until(lambda: server.board._watching == 1)
    vanished.pump.cancel()
    vanished.writer.transport.pause_reading()  # type: ignore[attr-defined] # asyncio's transports for reading have it
    await until(lambda: server.board._watching == 0)


@pytest.mark.parametrize("method", ["Unary", "BidiStream"])
async def test_no_message_of_a_refused_caller_is_taken_in(
    serving: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr("interceptors.linger._QUIET", 3600.0)

    async def nobody(_call: Call) -> Any:
        raise Unauthenticated

    server = Server(echo_service(), Settings(data_dir=tmp_path), nobody)
    await server.start("127.0.0.1:0")
    serving.servers.append(server)
    stranger = await opened(server)
    # Nothing follows the headers: an answer tells that nobody waited for the rest.
    await stranger.send(frame(HEADERS, END_HEADERS, 1, header_block(path(method))))
    await until(lambda: 1 in stranger.ended)


def test_each_limit_is_in_the_documents_with_its_default() -> None:
    rows = re.findall(
        r"^\| `connections\.(\w+)` \| (\d+)(?: s)? \|", (ROOT / "docs" / "limits.md").read_text(), re.MULTILINE
    )
    fields = ConnectionOptions.model_fields
    assert {name: float(default) for name, default in rows} == {
        name: float(found.default) for name, found in fields.items()
    }


def test_options_of_the_settings_and_of_the_assembly() -> None:
    options = dict(server_options(MIB, connections=ConnectionOptions(idle=1.5, age=7)))
    assert options["grpc.max_receive_message_length"] == MIB
    assert options["grpc.max_connection_idle_ms"] == 1500
    assert (options["grpc.max_connection_age_ms"], options["grpc.so_reuseport"]) == (7000, 0)
    workers = dict(server_options(MIB, shared_age=2.5))
    assert (workers["grpc.max_connection_age_ms"], workers["grpc.so_reuseport"]) == (2500, 1)


def test_files_are_allowed_as_far_as_they_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = (1024, 4096)

    def change(_kind: int, changed: tuple[int, int]) -> None:
        nonlocal limits
        limits = changed

    monkeypatch.setattr(resource, "getrlimit", lambda _kind: limits)
    monkeypatch.setattr(resource, "setrlimit", change)
    assert allow_many_files() == 4096
    limits = (1024, resource.RLIM_INFINITY)
    assert allow_many_files() == 65_536
    limits = (100_000, resource.RLIM_INFINITY)
    assert allow_many_files() == 100_000
