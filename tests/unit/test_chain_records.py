"""A call's record is durable before its caller may believe in success, and however the call ends."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest

from groundwire.policy.v1 import policy_pb2
from interceptors._shapes import Context
from interceptors.audit import Audit
from interceptors.chain import Position
from services.corpus.errors import NotFound, Unavailable
from services.runtime import server as server_module
from services.runtime.auditing.record import Policy
from services.runtime.server import Server, Service
from services.runtime.status import to_status
from tests.support.recording import MemoryKeeper, memory_recorder
from tests.support.serving import (
    ECHO,
    PATIENT,
    SHAPES,
    RawClient,
    Serving,
    Text,
    begin,
    call,
    echo_service,
    ended,
    path,
    until,
)

each_shape = pytest.mark.parametrize("method", SHAPES)
ALWAYS = Policy(policy_pb2.AUDIT_ALWAYS, "echoes:read", "v1")


def codes(keeper: MemoryKeeper) -> list[tuple[str, str]]:
    names = {code.value[0]: code.name for code in grpc.StatusCode}
    return [(event.method, names[event.code]) for event in keeper.events]


@pytest.fixture
def keeper() -> MemoryKeeper:
    return MemoryKeeper()


@pytest.fixture
def audited(serving: Serving, monkeypatch: pytest.MonkeyPatch, keeper: MemoryKeeper) -> Callable[..., Any]:
    """Serves the echo as if each of its methods were to be recorded always."""
    layers = Server.layers

    def with_audit(server: Server, address: str) -> Any:
        recorder = server.service.recorder
        audit = Audit(lambda call: recorder.open(call, ALWAYS), to_status)
        return [(at, audit if at is Position.AUDIT else layer) for at, layer in layers(server, address)]

    monkeypatch.setattr(Server, "layers", with_audit)

    async def serve(body: Any = None) -> Server:
        recorder = memory_recorder("echo", keeper)[0]
        return await serving.serve(echo_service(body, recorder=recorder) if body else echo_service(recorder=recorder))

    return serve


@each_shape
async def test_ok_waits_for_the_record(audited: Any, serving: Serving, keeper: MemoryKeeper, method: str) -> None:
    server = await audited()
    channel = serving.connect(server)
    keeper.hold = True
    running = asyncio.ensure_future(call(channel, method, "hello"))
    await until(lambda: keeper.held == 1)
    # What stands outside of the record needs no more than a turn of the loop to see the end of a call.
    for _ in range(100):
        await asyncio.sleep(0)
    assert not server.metrics.by_method
    assert not running.done()
    keeper.release()
    outcome = await running
    assert (outcome.code, outcome.responses) == (grpc.StatusCode.OK, ["hello"])
    assert codes(keeper) == [(path(method), "OK")]


@each_shape
async def test_no_record_no_ok(audited: Any, serving: Serving, keeper: MemoryKeeper, method: str) -> None:
    server = await audited()
    keeper.failure = Unavailable("the disk is full")
    outcome = await call(serving.connect(server), method, "hello", metadata=[("x-request-id", "abc")])
    assert (outcome.code, outcome.reason) == (grpc.StatusCode.UNAVAILABLE, "AUDIT_UNAVAILABLE")
    assert outcome.trailing["x-request-id"] == "abc"
    if not SHAPES[method][1]:
        assert outcome.responses == []
    await until(lambda: set(server.metrics.by_method) == {(f"{ECHO}/{method}", "UNAVAILABLE")})
    # What the caller was told is what is recorded as soon as that is possible again.
    assert server.service.recorder.failure is not None
    keeper.failure = None
    await until(lambda: server.service.recorder.failure is None)
    assert codes(keeper) == [(path(method), "UNAVAILABLE")]
    assert keeper.events[0].reason == "AUDIT_UNAVAILABLE"
    assert keeper.events[0].event_id.endswith(".refused")


@each_shape
@pytest.mark.parametrize("while_writing", [False, True])
async def test_a_cancelled_call_is_recorded_whatever_its_caller_does(
    audited: Any, serving: Serving, keeper: MemoryKeeper, method: str, while_writing: bool
) -> None:
    started = asyncio.Event()

    async def body(text: str, context: Context) -> str:
        started.set()
        if not while_writing:
            await asyncio.Event().wait()
        return text

    server = await audited(body)
    keeper.hold = True
    running = begin(serving.connect(server), method, "x")
    ending = asyncio.ensure_future(ended(running))
    await started.wait()
    if while_writing:
        await until(lambda: keeper.held == 1)
    running.cancel()
    await until(lambda: keeper.held == 1)
    await until(lambda: server.metrics.by_method)
    keeper.release()
    await asyncio.wait([ending])
    assert codes(keeper) == [(path(method), "OK" if while_writing else "CANCELLED")]
    await until(lambda: set(server.metrics.by_method) == {(f"{ECHO}/{method}", "CANCELLED")})


async def test_denials_and_unknown_paths_are_recorded_once(
    audited: Any, serving: Serving, keeper: MemoryKeeper
) -> None:
    async def body(text: str, context: Context) -> str:
        raise NotFound("no such thing")

    channel = serving.connect(await audited(body))
    await call(channel, "Unary", "x")
    multicallable: Any = channel.unary_unary("/made.up/Method")
    await ended(multicallable(b""))
    await until(lambda: len(keeper.events) == 2)
    assert codes(keeper) == [(path("Unary"), "NOT_FOUND"), ("/made.up/Method", "NOT_FOUND")]


# --- a caller's own deadline, which only gRPC watches ---


def flood(closed: asyncio.Event) -> tuple[Service, Callable[[grpc.aio.Server], None]]:
    async def endless(request: Text, context: Context) -> AsyncIterator[Text]:
        try:
            while True:
                yield Text(value="x" * 100_000)
        finally:
            closed.set()

    def register(server: grpc.aio.Server) -> None:
        handler = grpc.unary_stream_rpc_method_handler(endless, Text.FromString, Text.SerializeToString)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(ECHO, {"ServerStream": handler}),))

    return echo_service(), register


async def read_one(running: Any) -> bool:
    """Whether a message came before the call's time was up."""
    try:
        await anext(running.__aiter__())
    except grpc.aio.AioRpcError:
        return False
    return True


async def test_a_callers_deadline_ends_a_stream_that_it_does_not_read(serving: Serving) -> None:
    closed = asyncio.Event()
    service, register = flood(closed)
    server = await serving.serve(
        server_module.Service("echo", service.descriptors, register, service.ready, service.close, service.recorder)
    )
    channel = serving.connect(server)
    for seconds in PATIENT:
        running = begin(channel, "ServerStream", "x", timeout=seconds)
        if await read_one(running):
            break
    await closed.wait()
    await until(lambda: set(server.metrics.by_method) == {(f"{ECHO}/ServerStream", "DEADLINE_EXCEEDED")})
    await ended(running)


async def test_a_deadline_ends_a_stream_of_a_client_that_stands_still(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No window, no reset, no reading: nothing of the client's tells the server that the time is up."""
    closed = asyncio.Event()
    service, register = flood(closed)
    server = await serving.serve(
        server_module.Service("echo", service.descriptors, register, service.ready, service.close, service.recorder)
    )
    plain = RawClient._headers

    def with_timeout(client: RawClient, method_path: str) -> bytes:
        name, value = b"grpc-timeout", b"300m"
        return plain(client, method_path) + b"\0" + bytes((len(name),)) + name + bytes((len(value),)) + value

    monkeypatch.setattr(RawClient, "_headers", with_timeout)
    client = await RawClient.connect(server.port)
    try:
        # On a busy machine the time of a call may be up before it has begun: then another does.
        streams = itertools.count(1, 2)
        while not closed.is_set():
            await client.call(path("ServerStream"), Text(value="x").SerializeToString(), stream=next(streams))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(closed.wait(), 10)
        await until(lambda: set(server.metrics.by_method) == {(f"{ECHO}/ServerStream", "DEADLINE_EXCEEDED")})
    finally:
        await client.close()
