"""A layer that must finish something durable before its caller may believe in success: what an audit layer is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest

from interceptors._shapes import Call, Context, Proceed
from interceptors.chain import Position
from services.corpus.errors import NotFound, Unavailable
from services.runtime import server as server_module
from services.runtime.server import Server, Service
from services.runtime.status import to_status
from tests.support.serving import ECHO, SHAPES, RawClient, Serving, Text, begin, call, echo_service, ended, path, until

each_shape = pytest.mark.parametrize("method", SHAPES)


class Journal:
    """Writes when it is let to; fails when it is told to."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.failing = False
        self.waiting = 0
        self.written: list[tuple[str, bool, str]] = []

    async def write(self, record: tuple[str, bool, str]) -> None:
        self.waiting += 1
        await self.open.wait()
        if self.failing:
            raise OSError("the disk is full")
        self.written.append(record)


class AuditLike:
    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._tasks: set[asyncio.Task[None]] = set()

    async def around(self, call: Call, proceed: Proceed) -> Any:
        try:
            response = await proceed(call)
        except BaseException as error:
            await self._record(call, call.outcome(error))
            raise
        try:
            await self._record(call, call.outcome(None))
        except asyncio.CancelledError:
            raise
        except Exception:  # noqa: BLE001 - whatever it is, there is no record
            await call.context.abort_with_status(to_status(Unavailable("no record could be written"), call))
        return response

    async def _record(self, call: Call, code: grpc.StatusCode) -> None:
        task = asyncio.create_task(self._journal.write((call.method, call.known, code.name)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.shield(task)


@pytest.fixture
def journal() -> Journal:
    return Journal()


@pytest.fixture
def audited(serving: Serving, monkeypatch: pytest.MonkeyPatch, journal: Journal) -> Callable[..., Any]:
    layers = Server.layers

    def with_audit(server: Server, address: str) -> Any:
        return sorted([*layers(server, address), (Position.AUDIT, AuditLike(journal))], key=lambda found: found[0])

    monkeypatch.setattr(Server, "layers", with_audit)
    return serving.serve


@each_shape
async def test_ok_waits_for_the_record(audited: Any, serving: Serving, journal: Journal, method: str) -> None:
    server = await audited()
    channel = serving.connect(server)
    journal.open.clear()
    running = asyncio.ensure_future(call(channel, method, "hello"))
    await until(lambda: journal.waiting == 1)
    # What stands outside of the record needs no more than a turn of the loop to see the end of a call.
    for _ in range(100):
        await asyncio.sleep(0)
    assert not server.metrics.by_method
    assert not running.done()
    journal.open.set()
    outcome = await running
    assert (outcome.code, outcome.responses) == (grpc.StatusCode.OK, ["hello"])
    assert journal.written == [(path(method), True, "OK")]


@each_shape
async def test_no_record_no_ok(audited: Any, serving: Serving, journal: Journal, method: str) -> None:
    server = await audited()
    journal.failing = True
    outcome = await call(serving.connect(server), method, "hello", metadata=[("x-request-id", "abc")])
    assert (outcome.code, outcome.reason) == (grpc.StatusCode.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE")
    assert outcome.trailing["x-request-id"] == "abc"
    if not SHAPES[method][1]:
        assert outcome.responses == []
    await until(lambda: set(server.metrics.by_method) == {(f"{ECHO}/{method}", "UNAVAILABLE")})


@each_shape
@pytest.mark.parametrize("while_writing", [False, True])
async def test_a_cancelled_call_is_recorded_whatever_its_caller_does(
    audited: Any, serving: Serving, journal: Journal, method: str, while_writing: bool
) -> None:
    started = asyncio.Event()

    async def body(text: str, context: Context) -> str:
        started.set()
        if not while_writing:
            await asyncio.Event().wait()
        return text

    server = await audited(echo_service(body))
    journal.open.clear()
    running = begin(serving.connect(server), method, "x")
    ending = asyncio.ensure_future(ended(running))
    await started.wait()
    if while_writing:
        await until(lambda: journal.waiting == 1)
    running.cancel()
    await until(lambda: journal.waiting == 1)
    await until(lambda: server.metrics.by_method or not while_writing)
    journal.open.set()
    await until(lambda: journal.written)
    await asyncio.wait([ending])
    assert journal.written == [(path(method), True, "OK" if while_writing else "CANCELLED")]
    await until(lambda: set(server.metrics.by_method) == {(f"{ECHO}/{method}", "CANCELLED")})


async def test_denials_and_unknown_paths_are_recorded_once(audited: Any, serving: Serving, journal: Journal) -> None:
    async def body(text: str, context: Context) -> str:
        raise NotFound("no such thing")

    channel = serving.connect(await audited(echo_service(body)))
    await call(channel, "Unary", "x")
    multicallable: Any = channel.unary_unary("/made.up/Method")
    await ended(multicallable(b""))
    await until(lambda: len(journal.written) == 2)
    assert journal.written == [(path("Unary"), True, "NOT_FOUND"), ("/made.up/Method", False, "NOT_FOUND")]


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


async def test_a_callers_deadline_ends_a_stream_that_it_does_not_read(serving: Serving) -> None:
    closed = asyncio.Event()
    service, register = flood(closed)
    server = await serving.serve(
        server_module.Service("echo", service.descriptors, register, service.ready, service.close)
    )
    running = begin(serving.connect(server), "ServerStream", "x", timeout=0.3)
    await anext(running.__aiter__())
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
        server_module.Service("echo", service.descriptors, register, service.ready, service.close)
    )
    plain = RawClient._headers

    def with_timeout(client: RawClient, method_path: str) -> bytes:
        name, value = b"grpc-timeout", b"300m"
        return plain(client, method_path) + b"\0" + bytes((len(name),)) + name + bytes((len(value),)) + value

    monkeypatch.setattr(RawClient, "_headers", with_timeout)
    client = await RawClient.connect(server.port)
    try:
        await client.call(path("ServerStream"), Text(value="x").SerializeToString())
        await closed.wait()
        await until(lambda: set(server.metrics.by_method) == {(f"{ECHO}/ServerStream", "DEADLINE_EXCEEDED")})
    finally:
        await client.close()
