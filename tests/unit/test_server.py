"""Starting, limiting and draining the one server that everything is served by."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import stat
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2

from interceptors._shapes import Context
from services.runtime.metadata_logs import hide_metadata
from services.runtime.reflection import SERVICES as REFLECTION_SERVICES
from services.runtime.server import Server
from services.runtime.settings import ConfigurationError, Settings
from services.security.permissions import UnmappedMethodError
from tests.support.hostile import Connection, message
from tests.support.serving import (
    ECHO,
    RULE,
    SHAPES,
    Outcome,
    Serving,
    begin,
    call,
    echo_service,
    ended,
    make_service,
    path,
    until,
)

UNRULED = make_service("groundwire.test.v1.UnruledService", SHAPES, rule=None)
INCOMPLETE = make_service(
    "groundwire.test.v1.IncompleteService", SHAPES, rule=type(RULE)(resource="echoes", action="read")
)


# --- what is logged -------------------------------------------------------------------------------------------------


async def test_a_header_that_is_no_text_is_never_in_a_log(serving: Serving, caplog: pytest.LogCaptureFixture) -> None:
    """Python's gRPC would log the whole value (C1)."""
    server = await serving.serve()
    hide_metadata()
    hide_metadata()
    connection = await Connection.open(f"127.0.0.1:{server.port}", Counter())
    caplog.handler.setFormatter(logging.Formatter("%(name)s %(message)s"))
    await connection.begin(1, path("Unary"), ("authorization", "Bearer hush-hush\udcff"), ("x-y", "hush-hush\udcfe"))
    await connection.body(1, message(b""), end=True)
    await until(lambda: 1 in connection.ended)
    connection.pump.cancel()
    connection.writer.close()
    assert "Invalid encoding on (17 bytes)" in caplog.text
    assert "hush" not in caplog.text


# --- starting -------------------------------------------------------------------------------------------------------


async def test_a_port_in_use_is_a_configuration_error(serving: Serving) -> None:
    first = await serving.serve()
    second = serving.make()
    with pytest.raises(ConfigurationError, match=rf"echo: cannot listen on 127.0.0.1:{first.port}: .*in use"):
        await second.start(f"127.0.0.1:{first.port}")
    await second.drain()
    assert (await call(serving.connect(first), "Unary", "x")).responses == ["x"]


@pytest.mark.parametrize(
    "address", ["0.0.0.0:0", "[::]:0", "10.1.2.3:0", "example.org:0", ":0", "8080", "unix-abstract:x", "127.0.0.1"]
)
async def test_only_loopback_is_served_without_authentication(serving: Serving, address: str) -> None:
    with pytest.raises(ConfigurationError, match="will not listen"):
        await serving.make().start(address)


@pytest.mark.parametrize("address", ["127.0.0.1:0", "localhost:0", "127.9.9.9:0"])
async def test_loopback_is_served(serving: Serving, address: str) -> None:
    server = await serving.serve(address=address)
    host = address.rpartition(":")[0]
    assert (await call(serving.connect(f"{host}:{server.port}"), "Unary", "x")).responses == ["x"]


@pytest.mark.parametrize("descriptor", [UNRULED, INCOMPLETE], ids=["no rule", "incomplete rule"])
async def test_a_method_without_an_access_rule_is_never_served(serving: Serving, descriptor: Any) -> None:
    server = serving.make(echo_service(descriptor=descriptor))
    with pytest.raises(UnmappedMethodError, match=f"{descriptor.full_name}.Unary"):
        await server.start("127.0.0.1:0")


async def test_one_server_can_drain_before_it_ever_started(serving: Serving) -> None:
    await serving.make().drain()


# --- unix sockets ---------------------------------------------------------------------------------------------------


async def test_a_unix_socket_is_private_and_removed_in_the_end(serving: Serving, tmp_path: Path) -> None:
    place = tmp_path / "run" / "echo.sock"
    server = await serving.serve(address=f"unix:{place}")
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    assert stat.S_IMODE(place.parent.stat().st_mode) == 0o700
    assert (await call(serving.connect(f"unix:{place}"), "Unary", "x")).responses == ["x"]
    await server.drain(delay=0, grace=0)
    assert not place.exists()


async def test_a_socket_left_behind_is_replaced(serving: Serving, tmp_path: Path) -> None:
    place = tmp_path / "echo.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(os.fspath(place))
    assert place.is_socket()
    await serving.serve(address=f"unix:{place}")
    assert (await call(serving.connect(f"unix:{place}"), "Unary", "x")).responses == ["x"]


async def test_a_socket_that_answers_is_refused(serving: Serving, tmp_path: Path) -> None:
    place = tmp_path / "echo.sock"
    await serving.serve(address=f"unix:{place}")
    second = serving.make()
    with pytest.raises(ConfigurationError, match="another process does"):
        await second.start(f"unix:{place}")
    await second.drain()
    assert (await call(serving.connect(f"unix:{place}"), "Unary", "x")).responses == ["x"]


async def test_a_socket_with_a_full_queue_counts_as_answering(serving: Serving, tmp_path: Path) -> None:
    place = tmp_path / "busy.sock"
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(os.fspath(place))
        busy.listen(0)
        with socket.socket(socket.AF_UNIX) as waiting:
            waiting.connect(os.fspath(place))
            with pytest.raises(ConfigurationError, match="another process does"):
                await serving.make().start(f"unix:{place}")
    assert place.exists()


async def test_another_file_is_never_removed(serving: Serving, tmp_path: Path) -> None:
    place = tmp_path / "thesis.txt"
    place.write_text("years of work")
    with pytest.raises(ConfigurationError, match="there is another file"):
        await serving.make().start(f"unix:{place}")
    assert place.read_text() == "years of work"


async def test_a_directory_of_somebody_else_is_not_trusted(
    serving: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = tmp_path.stat().st_uid
    monkeypatch.setattr("services.runtime.sockets.trusted_owners", lambda: frozenset({owner + 1}))
    with pytest.raises(ConfigurationError, match="belongs to another user"):
        await serving.make().start(f"unix:{tmp_path}/echo.sock")


# --- draining -------------------------------------------------------------------------------------------------------


class Gate:
    """A body that reports its start and waits to be let go."""

    def __init__(self) -> None:
        self.begun = 0
        self.ended = 0
        self.open = asyncio.Event()

    async def body(self, text: str, context: Context) -> str:
        self.begun += 1
        await self.open.wait()
        self.ended += 1
        return text


async def refused(serving: Serving, server: Server) -> Outcome:
    """Call on new connections until one is refused; every call that was accepted before goes on."""
    while True:
        channel = serving.connect(server)
        attempt = begin(channel, "Unary", "late")
        outcome = asyncio.ensure_future(ended(attempt))
        await asyncio.wait([outcome], timeout=0.05)
        if outcome.done():
            return await outcome


async def test_a_drain_loses_no_accepted_call(serving: Serving) -> None:
    gate = Gate()
    order: list[str] = []

    async def close() -> None:
        order.append(f"closed after {gate.ended}")

    server = await serving.serve(echo_service(gate.body, close=close))
    channels = [serving.connect(server) for _ in range(5)]
    methods = ["Unary"] * 50 + ["ServerStream", "ServerWrite", "ClientStream", "BidiStream"] * 2
    calls = [asyncio.ensure_future(call(channels[i % 5], method, f"call {i}")) for i, method in enumerate(methods)]
    await until(lambda: gate.begun == len(methods))
    draining = asyncio.create_task(server.drain(delay=0, grace=600))
    late = await refused(serving, server)
    assert (late.code, late.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
    assert order == []
    gate.open.set()
    outcomes = await asyncio.gather(*calls)
    await draining
    assert [(o.code, o.responses) for o in outcomes] == [
        (grpc.StatusCode.OK, [f"call {i}"]) for i in range(len(methods))
    ]
    assert order == [f"closed after {gate.ended}"]
    assert gate.ended >= len(methods)


async def test_a_known_connection_is_refused_as_well(serving: Serving) -> None:
    gate = Gate()
    server = await serving.serve(echo_service(gate.body))
    channel = serving.connect(server)
    first = asyncio.ensure_future(call(channel, "Unary", "accepted"))
    await until(lambda: gate.begun == 1)
    draining = asyncio.create_task(server.drain(delay=0, grace=600))
    await refused(serving, server)
    for method in SHAPES:
        late = await call(channel, method, "late")
        assert (late.code, late.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
    gate.open.set()
    assert (await first).responses == ["accepted"]
    await draining


async def test_watches_are_ended_so_that_their_callers_go_on_elsewhere(serving: Serving) -> None:
    gate = Gate()
    server = await serving.serve(echo_service(gate.body))
    channel = serving.connect(server)
    watches = [asyncio.ensure_future(call(channel, "WatchStream", "x")) for _ in range(3)]
    await until(lambda: gate.begun == 3)
    await server.drain(delay=0, grace=600)
    outcomes = await asyncio.gather(*watches)
    assert [(o.code, o.reason) for o in outcomes] == [(grpc.StatusCode.UNAVAILABLE, "DRAINING")] * 3
    assert gate.ended == 0


async def test_calls_are_accepted_while_health_tells_the_others(serving: Serving) -> None:
    server = await serving.serve()
    draining = asyncio.create_task(server.drain(delay=600, grace=600))
    await until(lambda: server.board._final)
    assert (await call(serving.connect(server), "Unary", "x")).responses == ["x"]
    draining.cancel()
    with pytest.raises(asyncio.CancelledError):
        await draining


async def test_a_call_beyond_the_grace_is_cancelled_before_anything_closes(serving: Serving) -> None:
    order: list[str] = []

    async def body(text: str, context: Context) -> str:
        order.append("begun")
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(50):  # tidying up takes its turns
                await asyncio.sleep(0)
            order.append("cancelled")
        return text

    async def close() -> None:
        order.append("closed")

    server = await serving.serve(echo_service(body, close=close))
    running = asyncio.ensure_future(call(serving.connect(server), "Unary", "x"))
    await until(lambda: order)
    await server.drain(delay=0, grace=0.05)
    assert (await running).code is not grpc.StatusCode.OK
    assert order == ["begun", "cancelled", "closed"]


async def test_the_service_is_closed_once(serving: Serving) -> None:
    closed: list[str] = []

    async def close() -> None:
        await asyncio.sleep(0)
        closed.append("x")

    server = await serving.serve(echo_service(close=close))
    await asyncio.gather(*(server.drain(delay=0, grace=0) for _ in range(3)))
    await server.drain(delay=0, grace=0)
    assert closed == ["x"]


async def test_readiness_is_not_asked_once_the_service_closes(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.runtime.server._READINESS_INTERVAL", 0)
    order: list[str] = []
    asked = asyncio.Event()

    async def ready() -> None:
        order.append("ready?")
        asked.set()
        await asyncio.sleep(0)

    async def close() -> None:
        order.append("closed")
        for _ in range(20):
            await asyncio.sleep(0)

    server = await serving.serve(echo_service(ready=ready, close=close))
    await asked.wait()
    await server.drain(delay=0, grace=0)
    assert order[-1] == "closed"


async def test_a_socket_is_removed_even_if_closing_fails(serving: Serving, tmp_path: Path) -> None:
    async def close() -> None:
        raise OSError("disk full")

    place = tmp_path / "echo.sock"
    server = await serving.serve(echo_service(close=close), address=f"unix:{place}")
    with pytest.raises(OSError, match="disk full"):
        await server.drain(delay=0, grace=0)
    assert not place.exists()


# --- reflection -----------------------------------------------------------------------------------------------------


async def listed(channel: grpc.aio.Channel, service: str) -> set[str] | grpc.StatusCode:
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    running: Any = channel.stream_stream(
        f"/{service}/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    replies = running(iter([request]))
    try:
        async for reply in replies:
            return {found.name for found in reply.list_services_response.service}
    except grpc.aio.AioRpcError as error:
        return error.code()
    return set()


@pytest.mark.parametrize("service", REFLECTION_SERVICES)
async def test_reflection_lists_what_is_served(serving: Serving, service: str) -> None:
    channel = serving.connect(await serving.serve())
    found = await listed(channel, service)
    assert isinstance(found, set)
    assert {ECHO, "grpc.health.v1.Health"} <= found


@pytest.mark.parametrize("service", REFLECTION_SERVICES)
async def test_reflection_can_be_off(serving: Serving, tmp_path: Path, service: str) -> None:
    server = await serving.serve(settings=Settings(data_dir=tmp_path, reflection=False))
    request: Any = serving.connect(server).stream_stream(f"/{service}/ServerReflectionInfo")
    assert (await ended(request(iter(())))).code is grpc.StatusCode.NOT_FOUND


# --- limits ---------------------------------------------------------------------------------------------------------


async def test_a_request_beyond_the_limit_is_refused(serving: Serving) -> None:
    server = await serving.serve(echo_service(max_request_bytes=10_000))
    channel = serving.connect(server)
    assert (await call(channel, "Unary", "x" * 9_000)).code is grpc.StatusCode.OK
    for method in ("Unary", "ClientStream", "BidiStream"):
        outcome = await call(channel, method, "x" * 11_000)
        assert outcome.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (await call(channel, "Unary", "still here")).responses == ["still here"]


async def test_metadata_beyond_the_limit_is_refused(serving: Serving) -> None:
    channel = serving.connect(await serving.serve())
    outcome = await call(channel, "Unary", "x", metadata=[("x-large", "y" * 20_000)])
    assert outcome.code is not grpc.StatusCode.OK
    assert outcome.responses == []
    assert (await call(serving.connect(serving.servers[0]), "Unary", "x")).responses == ["x"]


async def test_one_service_does_not_serve_anothers_methods(serving: Serving) -> None:
    channel = serving.connect(await serving.serve())
    multicallable: Any = channel.unary_unary(path("CountChunks", "groundwire.store.v1.StoreService"))
    assert (await ended(multicallable(b""))).code is grpc.StatusCode.NOT_FOUND
