"""Each limit of a connection does what its name says."""

from __future__ import annotations

import asyncio
import re
import resource
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import pytest

from interceptors._shapes import Call, Context
from services.corpus.errors import Unauthenticated
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
