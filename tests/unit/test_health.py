"""grpc.health.v1 as every server offers it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from interceptors._shapes import Context
from services.resilience.health import HealthBoard, ServingStatus
from services.runtime import health as health_module
from services.runtime.channels import open_channel
from services.runtime.server import READINESS, Server
from tests.support.serving import ECHO, RawClient, Serving, begin, call, echo_service, ended, until

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
WATCH = "/grpc.health.v1.Health/Watch"


def stub(channel: grpc.aio.Channel) -> Any:
    return health_pb2_grpc.HealthStub(channel)


def asking(service: str) -> health_pb2.HealthCheckRequest:
    return health_pb2.HealthCheckRequest(service=service)


async def ready(server: Server) -> None:
    await until(lambda: server.board.status(READINESS) is ServingStatus.SERVING)


# --- Check and List -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", READINESS, ECHO])
async def test_check(serving: Serving, name: str) -> None:
    server = await serving.serve()
    await ready(server)
    assert (await stub(serving.connect(server)).Check(asking(name))).status == SERVING


@pytest.mark.parametrize("name", ["nobody", "grpc.health.v1.Health", " ", ECHO.lower()])
async def test_check_of_an_unknown_service_is_not_found(serving: Serving, name: str) -> None:
    health = stub(serving.connect(await serving.serve()))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await health.Check(asking(name))
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    assert dict(refused.value.trailing_metadata() or ())["x-request-id"]


# What every server offers beside its own service.
DEPENDENCIES = "groundwire.monitoring.v1.DependencyService"


async def test_list(serving: Serving) -> None:
    server = await serving.serve()
    await ready(server)
    listed = await stub(serving.connect(server)).List(health_pb2.HealthListRequest())
    assert {name: found.status for name, found in listed.statuses.items()} == {
        "": SERVING,
        READINESS: SERVING,
        ECHO: SERVING,
        DEPENDENCIES: SERVING,
    }


async def test_nothing_serves_before_the_start(tmp_path: Path) -> None:
    server = Serving(tmp_path).make()
    assert server.board.statuses() == dict.fromkeys(("", READINESS, ECHO, DEPENDENCIES), ServingStatus.NOT_SERVING)


# --- readiness ------------------------------------------------------------------------------------------------------


async def test_readiness_follows_the_service(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.runtime.server._READINESS_INTERVAL", 0.01)
    missing = asyncio.Event()

    async def check() -> None:
        if missing.is_set():
            raise RuntimeError("the index is not there")

    server = await serving.serve(echo_service(ready=check))
    channel = serving.connect(server)
    watch = stub(channel).Watch(asking(READINESS)).__aiter__()
    seen = [(await anext(watch)).status]
    if seen == [NOT_SERVING]:  # the watch may begin before the first look
        seen = [(await anext(watch)).status]
    missing.set()
    seen.append((await anext(watch)).status)
    # A service that is not ready is alive all the same: restarting it would not help.
    assert (await stub(channel).Check(asking(""))).status == SERVING
    assert (await stub(channel).Check(asking(ECHO))).status == SERVING
    missing.clear()
    seen.append((await anext(watch)).status)
    assert seen == [SERVING, NOT_SERVING, SERVING]


async def test_a_check_that_hangs_is_not_ready(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.runtime.server._READINESS_INTERVAL", 0.01)
    monkeypatch.setattr("services.runtime.server._READINESS_TIMEOUT", 0.01)
    looks = 0

    async def check() -> None:
        nonlocal looks
        looks += 1
        if looks > 1:
            await asyncio.Event().wait()

    server = await serving.serve(echo_service(ready=check))
    await until(lambda: looks > 2)
    assert server.board.status(READINESS) is ServingStatus.NOT_SERVING


# --- Watch ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", READINESS, ECHO])
async def test_watch_tells_the_state_and_every_lasting_change(serving: Serving, name: str) -> None:
    server = await serving.serve()
    await ready(server)
    assert server._readiness is not None
    server._readiness.cancel()  # this test sets the states itself
    watch = stub(serving.connect(server)).Watch(asking(name)).__aiter__()
    assert (await anext(watch)).status == SERVING
    for state, sent in [(ServingStatus.NOT_SERVING, NOT_SERVING), (ServingStatus.SERVING, SERVING)] * 3:
        server.board.set(name, state)
        assert (await anext(watch)).status == sent


async def test_watch_of_an_unknown_service_says_so_and_stays(serving: Serving) -> None:
    server = await serving.serve()
    running = stub(serving.connect(server)).Watch(asking("nobody"))
    assert (await anext(running.__aiter__())).status == SERVICE_UNKNOWN
    assert not running.done()
    assert server.board._watching == 1
    running.cancel()
    await until(lambda: server.board._watching == 0)


async def test_a_watch_whose_caller_left_is_forgotten(serving: Serving) -> None:
    server = await serving.serve()
    channel = serving.connect(server)
    for _ in range(5):
        running = stub(channel).Watch(asking(""))
        await anext(running.__aiter__())
        running.cancel()
    await until(lambda: server.board._watching == 0)
    assert server.board._watchers == {}


async def test_the_number_of_watchers_is_bounded(serving: Serving) -> None:
    server = await serving.serve()
    server.board._max_watchers = 3
    channel = serving.connect(server)
    watches = [stub(channel).Watch(asking(name)) for name in ("", ECHO, "nobody")]
    for watch in watches:
        await anext(watch.__aiter__())
    refused = await ended(stub(channel).Watch(asking("")))
    assert refused.code is grpc.StatusCode.UNIMPLEMENTED
    assert "use Check" in refused.details
    # Looking once is not watching.
    assert (await stub(channel).Check(asking(""))).status == SERVING
    watches[0].cancel()
    await until(lambda: server.board._watching == 2)
    again = stub(channel).Watch(asking(""))
    assert (await anext(again.__aiter__())).status == SERVING


async def test_whoever_may_not_watch_calls_all_the_same(serving: Serving) -> None:
    server = await serving.serve()
    server.board._max_watchers = 1
    watch = stub(serving.connect(server)).Watch(asking("")).__aiter__()
    await anext(watch)
    # A client that sends calls only where a watch says that they are served.
    async with open_channel(f"127.0.0.1:{server.port}") as careful:
        assert (await call(careful, "Unary", "x", timeout=30)).responses == ["x"]
    assert server.board._watching == 1


async def test_a_displaced_watch_ends_and_its_client_goes_on(
    serving: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await serving.serve()
    server.board._max_watchers = 3
    greedy = []
    for _ in range(3):  # one after another: the last one is the first to go
        greedy.append(watch := stub(serving.connect(server)).Watch(asking("")))
        await anext(watch.__aiter__())
    monkeypatch.setattr("services.runtime.health._peer", lambda _peer: "somebody else")
    modest = stub(serving.connect(server)).Watch(asking(ECHO)).__aiter__()
    assert (await anext(modest)).status == SERVING
    displaced = await ended(greedy[2])
    assert displaced.code is grpc.StatusCode.UNIMPLEMENTED
    server.board.set("", ServingStatus.NOT_SERVING)
    assert [(await anext(watch.__aiter__())).status for watch in greedy[:2]] == [NOT_SERVING] * 2


@pytest.mark.parametrize(
    ("peer", "counts_for"),
    [
        ("ipv4:127.0.0.1:1234", "127.0.0.1"),
        ("ipv6:%5B::1%5D:1234", "::/64"),
        ("ipv6:%5B2001:db8:1:2:3:4:5:6%5D:1", "2001:db8:1:2::/64"),
        ("ipv6:[::ffff:1.2.3.4]:1", "1.2.3.4"),
        ("unix:", "unix"),
        ("unix:/run/x.sock", "unix"),
        ("ipv4:strange", "strange"),
    ],
)
def test_whom_a_connection_counts_for(peer: str, counts_for: str) -> None:
    assert health_module._peer(peer) == counts_for


async def test_a_watcher_that_never_reads_holds_up_nobody(serving: Serving) -> None:
    server = await serving.serve()
    await ready(server)
    frozen = await RawClient.connect(server.port)
    for stream in (1, 3, 5):
        await frozen.call(WATCH, asking("").SerializeToString(), stream=stream)
    await until(lambda: server.board._watching == 3)

    health = stub(serving.connect(server))
    watch = health.Watch(asking("")).__aiter__()
    assert (await anext(watch)).status == SERVING
    for state, sent in [(ServingStatus.NOT_SERVING, NOT_SERVING), (ServingStatus.SERVING, SERVING)] * 10:
        server.board.set("", state)
        assert (await anext(watch)).status == sent
        assert (await health.Check(asking(""))).status == sent
    await frozen.close()
    await until(lambda: server.board._watching == 1)


# --- drain ----------------------------------------------------------------------------------------------------------


async def test_drain_tells_watchers_and_ends_their_watches(serving: Serving) -> None:
    server = await serving.serve()
    await ready(server)
    channel = serving.connect(server)
    watches = [stub(channel).Watch(asking(name)) for name in ("", READINESS, ECHO)]
    iterators = [watch.__aiter__() for watch in watches]
    assert [(await anext(iterator)).status for iterator in iterators] == [SERVING] * 3
    # A grace far beyond the test's own time: a watch that would have to be waited for shows.
    await server.drain(delay=0, grace=600)
    assert [(await anext(iterator)).status for iterator in iterators] == [NOT_SERVING] * 3
    assert [await watch.code() for watch in watches] == [grpc.StatusCode.OK] * 3


async def test_clients_that_watch_again_do_not_hold_up_a_drain(serving: Serving) -> None:
    begun, finish = asyncio.Event(), asyncio.Event()

    async def body(text: str, context: Context) -> str:
        begun.set()
        await finish.wait()
        return text

    server = await serving.serve(echo_service(body))
    channel = serving.connect(server)
    refusals = 0

    async def watch_for_ever() -> None:
        nonlocal refusals
        while True:
            outcome = await ended_watch(channel)
            if outcome is grpc.StatusCode.UNAVAILABLE:
                refusals += 1
                await asyncio.sleep(0)

    watching = asyncio.create_task(watch_for_ever())
    await until(lambda: server.board._watching == 1)
    running = begin(channel, "Unary", "x")
    answer = asyncio.ensure_future(ended(running))
    await begun.wait()
    draining = asyncio.create_task(server.drain(delay=0, grace=600))
    await until(lambda: refusals > 0)
    finish.set()
    await draining
    assert (await answer).responses == ["x"]
    watching.cancel()


async def ended_watch(channel: grpc.aio.Channel) -> grpc.StatusCode:
    running = stub(channel).Watch(asking(""))
    try:
        async for _ in running:
            pass
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def test_a_frozen_watcher_holds_up_a_drain_for_its_grace_at_most(serving: Serving) -> None:
    closed = asyncio.Event()

    async def close() -> None:
        closed.set()

    server = await serving.serve(echo_service(close=close))
    frozen = await RawClient.connect(server.port)
    await frozen.call(WATCH, asking("").SerializeToString())
    await until(lambda: server.board._watching == 1)
    await server.drain(delay=0, grace=0.05)
    assert closed.is_set()
    await frozen.close()


async def test_a_frozen_caller_of_a_method_is_cut_after_the_grace(serving: Serving) -> None:
    started = asyncio.Event()

    async def body(text: str, context: Context) -> str:
        started.set()
        return "x" * 1_000_000

    server = await serving.serve(echo_service(body))
    frozen = await RawClient.connect(server.port)
    await frozen.call(f"/{ECHO}/ServerStream", b"")
    await started.wait()
    await server.drain(delay=0, grace=0.05)
    await until(lambda: server.metrics.by_method)
    assert set(server.metrics.by_method) == {(f"{ECHO}/ServerStream", "CANCELLED")}
    await frozen.close()


# --- the board ------------------------------------------------------------------------------------------------------


async def test_a_watcher_skips_what_it_did_not_read_in_time() -> None:
    board = HealthBoard(("a",))
    watcher = board.watch("a")
    assert watcher is not None
    for state in (ServingStatus.SERVING, ServingStatus.NOT_SERVING, ServingStatus.SERVING):
        board.set("a", state)
    assert await watcher.next() is ServingStatus.SERVING
    board.close_watchers()
    assert await watcher.next() is None
    assert await watcher.next() is None


async def test_the_last_value_is_read_before_the_end() -> None:
    board = HealthBoard(("a",))
    board.set("a", ServingStatus.SERVING)
    watcher = board.watch("a")
    assert watcher is not None
    board.end()
    board.close_watchers()
    assert await watcher.next() is ServingStatus.NOT_SERVING
    assert await watcher.next() is None


def test_whoever_holds_most_makes_room_until_all_hold_as_many() -> None:
    board = HealthBoard(("a",), max_watchers=6)
    greedy = [board.watch("a", "greedy") for _ in range(6)]
    assert board.watch("a", "greedy") is None
    first, second, third = (board.watch("a", "modest") for _ in range(3))
    assert None not in (first, second, third)
    assert [watcher.displaced for watcher in greedy if watcher] == [False] * 3 + [True] * 3
    # As many as the other: from here on nobody can take a place away.
    assert board.watch("a", "modest") is None
    assert board.watch("a", "greedy") is None
    newcomer = board.watch("a", "third")
    assert newcomer is not None
    assert board._watching == 6


def test_an_end_is_final() -> None:
    board = HealthBoard(("a", "b"))
    board.set_all(ServingStatus.SERVING)
    board.end()
    board.set("a", ServingStatus.SERVING)
    assert set(board.statuses().values()) == {ServingStatus.NOT_SERVING}
    assert board.watch("a") is not None
    board.close_watchers()
    assert board.watch("a") is None


async def test_calls_are_answered_while_others_watch(serving: Serving) -> None:
    channel = serving.connect(await serving.serve())
    watch = stub(channel).Watch(asking("")).__aiter__()
    await anext(watch)
    assert (await call(channel, "Unary", "x")).responses == ["x"]
