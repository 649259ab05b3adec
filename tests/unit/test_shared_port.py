"""One port for several processes, held for them so that nobody else gets it by accident."""

from __future__ import annotations

import asyncio
import socket
from contextlib import closing
from pathlib import Path

import grpc
import pytest

from interceptors._shapes import Context
from services.runtime import shared_port
from services.runtime.options import DrainOptions, WorkerOptions
from services.runtime.server import Server, Service
from services.runtime.settings import ConfigurationError, Settings
from services.runtime.shared_port import connections, options, reserve, stop_listening
from tests.support.serving import Serving, call, echo_service, until

LOOPBACK = "127.0.0.1"


def listener(port: int, *, reuse_port: bool, host: str = LOOPBACK) -> socket.socket:
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, reuse_port)
    try:
        made.bind((host, port))
        made.listen()
    except OSError:
        made.close()
        raise
    return made


@pytest.fixture
def shared(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path, drain=DrainOptions(delay=0, grace=5), workers=WorkerOptions(connection_age=0.5))


# --- holding a port -------------------------------------------------------------------------------------------------


def test_a_held_port_is_for_those_who_share_it() -> None:
    with closing(reserve(LOOPBACK, 0)) as held:
        for host in (LOOPBACK, "0.0.0.0"):
            with pytest.raises(OSError, match="in use"):
                listener(held.port, reuse_port=False, host=host)
        with (
            closing(listener(held.port, reuse_port=True)),
            closing(listener(held.port, reuse_port=True)),
            pytest.raises(OSError, match="in use"),
        ):
            listener(held.port, reuse_port=False)


def test_a_port_is_held_once() -> None:
    with closing(reserve(LOOPBACK, 0)) as held:
        with pytest.raises(OSError, match="in use"):
            reserve(LOOPBACK, held.port)
        with closing(listener(held.port, reuse_port=True)), pytest.raises(OSError, match="in use"):
            reserve(LOOPBACK, held.port)
    reserve(LOOPBACK, held.port).close()


@pytest.mark.parametrize("reuse_port", [False, True])
def test_a_port_on_which_somebody_listens_cannot_be_held(reuse_port: bool) -> None:
    with closing(listener(0, reuse_port=reuse_port)) as theirs, pytest.raises(OSError, match="in use"):
        reserve(LOOPBACK, theirs.getsockname()[1])


def test_nobody_is_answered_by_a_port_that_is_only_held() -> None:
    with closing(reserve(LOOPBACK, 0)) as held, closing(socket.socket()) as client:
        assert client.connect_ex((LOOPBACK, held.port)) != 0


def test_connections_that_have_just_ended_do_not_keep_a_port() -> None:
    with closing(listener(0, reuse_port=True)) as theirs:
        port = theirs.getsockname()[1]
        with closing(socket.create_connection((LOOPBACK, port))) as client:
            theirs.accept()[0].close()  # the side that closes first is the one that waits (TIME_WAIT)
            assert client.recv(1) == b""
    reserve(LOOPBACK, port).close()


@pytest.mark.parametrize("host", ["localhost", "0.0.0.0", "::1", "::"])
async def test_servers_share_a_held_port_of_any_kind(host: str, serving: Serving, shared: Settings) -> None:
    if ":" in host and not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    with closing(reserve(host, 0)) as held:
        address = f"[{host}]:{held.port}" if ":" in host else f"{host}:{held.port}"
        settings = shared.replace(tls=shared.tls.model_copy(update={"insecure": True}))
        for _ in range(2):
            server = serving.make(settings=settings)
            server.shared, server.development_secrets = True, False
            await server.start(address)
            serving.servers.append(server)
        where = "[::1]" if host == "::1" else LOOPBACK
        assert (await call(serving.connect(f"{where}:{held.port}"), "Unary", "x")).responses == ["x"]
        with pytest.raises(ConfigurationError, match="in use"):
            await serving.make(settings=shared).start(f"{where}:{held.port}")


# --- sharing it -----------------------------------------------------------------------------------------------------


def test_a_server_shares_only_when_it_is_told() -> None:
    assert options(None) == [("grpc.so_reuseport", 0)]
    assert dict(options(30.0))["grpc.so_reuseport"] == 1
    assert dict(options(30.0))["grpc.max_connection_age_ms"] == 30_000


async def test_connections_begin_anew_and_no_call_notices(serving: Serving, shared: Settings) -> None:
    server = await start(serving, shared)
    channel = serving.connect(server)
    began, codes = set[str](), []
    while len(began) < 4:
        outcome = asyncio.ensure_future(call(channel, "Unary", "x"))
        codes.append((await outcome).code)
        began |= peers(server.port)
    assert set(codes) == {grpc.StatusCode.OK}
    assert len(codes) > 4


async def test_a_call_that_takes_longer_than_its_connection_ends_well(serving: Serving, shared: Settings) -> None:
    gate = asyncio.Event()
    begun = asyncio.Event()

    async def body(text: str, _context: Context) -> str:
        begun.set()
        await gate.wait()
        return text

    server = await start(serving, shared, echo_service(body))
    slow = asyncio.ensure_future(call(serving.connect(server), "Unary", "slow"))
    await begun.wait()
    await shared_port.let_go(server.port, shared.workers.connection_age)
    draining = asyncio.create_task(server.drain(announce=False))
    gate.set()
    assert (await slow).responses == ["slow"]
    await draining


async def test_who_leaves_takes_no_new_connections_and_loses_no_call(serving: Serving, shared: Settings) -> None:
    server = await start(serving, shared)
    channels = [serving.connect(server) for _ in range(20)]
    left = False
    failed: list[str] = []
    answered = 0

    async def go_on(channel: grpc.aio.Channel) -> None:
        nonlocal answered
        while True:
            outcome = await call(channel, "Unary", "x")
            if outcome.code is grpc.StatusCode.OK:
                answered += 1
                continue
            # Nobody shares this port: whoever has gone finds nobody to go to, and that is all that may happen.
            if not left or "failed to connect" not in outcome.details:
                failed.append(outcome.details)
            return

    going = [asyncio.create_task(go_on(channel)) for channel in channels]
    await until(lambda: connections(server.port) == 20)
    left = True
    await server.let_go()
    assert connections(server.port) == 0
    await asyncio.gather(*going)
    assert failed == []
    assert answered >= len(channels)
    with closing(socket.socket()) as late:
        assert late.connect_ex((LOOPBACK, server.port)) != 0
    await server.drain(announce=False)


async def test_listening_ends_and_connections_stay() -> None:
    with closing(listener(0, reuse_port=False)) as mine:
        port = mine.getsockname()[1]
        with closing(socket.create_connection((LOOPBACK, port))) as client, closing(mine.accept()[0]) as accepted:
            assert connections(port) == 1
            stop_listening(port)
            client.sendall(b"x")
            assert accepted.recv(1) == b"x"
            with closing(socket.socket()) as late:
                assert late.connect_ex((LOOPBACK, port)) != 0
        assert connections(port) == 0


async def test_health_does_not_say_that_a_shared_address_is_down(serving: Serving, shared: Settings) -> None:
    server = await start(serving, shared)
    watcher = server.board.watch("")
    assert watcher is not None
    await watcher.next()
    await server.drain(announce=False)
    assert await watcher.next() is None


async def start(serving: Serving, settings: Settings, service: Service | None = None) -> Server:
    server = serving.make(service, settings=settings)
    server.shared = True
    await server.start(f"{LOOPBACK}:0")
    serving.servers.append(server)
    return server


def peers(port: int) -> set[str]:
    """Who is connected to ``port`` of this process."""
    import psutil

    return {
        str(found.raddr)
        for found in psutil.Process().net_connections("tcp")
        if found.laddr.port == port and found.raddr
    }
