"""Admission through the production server, over every shape of RPC."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from interceptors import current
from interceptors._shapes import Call, Context
from services.corpus.principal import Caller
from services.resilience.tickets import WorkClass
from services.runtime.options import AdmissionOptions, QuotaOptions
from services.runtime.server import Server
from services.runtime.settings import Settings
from tests.support.serving import (
    SHAPES,
    Outcome,
    Serving,
    Text,
    begin,
    call,
    echo_service,
    ended,
    path,
    running_out_of_time,
    until,
)

LIMITED = [shape for shape in SHAPES if shape != "WatchStream"]
each_shape = pytest.mark.parametrize("method", LIMITED)


@dataclass
class Work:
    """Handlers that run until they are let go; ``spend`` is what each costs in tokens."""

    running: list[str] = field(default_factory=list)
    begun: list[str] = field(default_factory=list)
    spend: int = 0

    def __post_init__(self) -> None:
        self.gate = asyncio.Event()

    async def body(self, text: str, _context: Context) -> str:
        self.running.append(text)
        self.begun.append(text)
        try:
            await self.gate.wait()
        finally:
            self.running.remove(text)
        current.charge(self.spend)
        return text


class Crowd:
    """One server whose limit does not move, and its callers; each says in metadata which tenant it is of."""

    def __init__(self, server: Server, channel: grpc.aio.Channel, work: Work) -> None:
        self.server = server
        self.channel = channel
        self.work = work

    def begin(self, text: str, method: str = "Unary", *, tenant: str = "acme", **options: Any) -> asyncio.Task[Outcome]:
        """Call, and see how it goes meanwhile."""
        running = begin(self.channel, method, text, metadata=[("x-tenant", tenant)], **options)
        return asyncio.ensure_future(ended(running))

    def queued(self) -> int:
        """How many calls wait."""
        assert self.server.admissions is not None
        return self.server.admissions.snapshot()[WorkClass.INTERACTIVE].queued

    def in_flight(self) -> int:
        """How many permits are out."""
        assert self.server.admissions is not None
        return self.server.admissions.snapshot()[WorkClass.INTERACTIVE].in_flight


async def identify(call: Call) -> Caller:
    tenant, *_ = [*call.metadata("x-tenant"), "acme"]
    return Caller(tenant, "alice", permissions=frozenset({"admin:*"}))


@asynccontextmanager
async def crowded(serving: Serving, *, limit: int = 1, **options: Any) -> AsyncIterator[Crowd]:
    """A server that takes ``limit`` calls at once; whatever still waits in the end is let go."""
    work = Work()
    admission = AdmissionOptions(min_limit=limit, max_limit=limit, **options)
    settings = Settings(data_dir=serving.directory, admission=admission)
    server = Server(echo_service(work.body), settings, identify)
    await server.start("127.0.0.1:0")
    serving.servers.append(server)
    yield Crowd(server, serving.connect(server), work)
    work.gate.set()


# --- permits --------------------------------------------------------------------------------------------------------


@each_shape
async def test_a_call_holds_its_permit_until_it_ends(serving: Serving, method: str) -> None:
    async with crowded(serving) as crowd:
        first = crowd.begin("first", method)
        await until(lambda: crowd.work.running)
        second = crowd.begin("second", method)
        await until(lambda: crowd.queued() == 1)
        assert crowd.work.begun == ["first"]
        crowd.work.gate.set()
        assert [(await each).responses for each in (first, second)] == [["first"], ["second"]]
        assert (crowd.in_flight(), crowd.queued()) == (0, 0)


@each_shape
@pytest.mark.parametrize("how", ["cancelled", "out of time", "failed"])
async def test_a_permit_comes_back_however_the_call_ends(serving: Serving, method: str, how: str) -> None:
    async with crowded(serving) as crowd:
        if how == "out of time":
            running = await running_out_of_time(
                lambda seconds: begin(crowd.channel, method, "x", timeout=seconds), lambda: crowd.work.running
            )
        else:
            running = begin(crowd.channel, method, "x")
            await until(lambda: crowd.work.running)
        if how == "cancelled":
            running.cancel()
        elif how == "failed":
            await crowd.server.drain(delay=0, grace=0)
        await until(lambda: not crowd.work.running and crowd.in_flight() == 0)


async def test_watches_take_no_permit(serving: Serving) -> None:
    async with crowded(serving) as crowd:
        watches = [crowd.begin(f"w{i}", "WatchStream") for i in range(5)]
        await until(lambda: len(crowd.work.running) == 5)
        assert crowd.in_flight() == 0
        crowd.begin("call")
        await until(lambda: "call" in crowd.work.running)
        crowd.work.gate.set()
        await asyncio.gather(*watches)


async def test_health_is_answered_while_nothing_else_is(serving: Serving) -> None:
    async with crowded(serving, queue_length=0) as crowd:
        crowd.begin("x")
        await until(lambda: crowd.work.running)
        assert (await call(crowd.channel, "Unary", "y")).code is grpc.StatusCode.RESOURCE_EXHAUSTED
        health = health_pb2_grpc.HealthStub(crowd.channel)
        answer = await health.Check(health_pb2.HealthCheckRequest(service="readiness"))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_fifty_streams_at_once_all_begin(serving: Serving) -> None:
    work = Work()
    server = await serving.serve(echo_service(work.body))
    channel = serving.connect(server)
    calls = [asyncio.ensure_future(call(channel, "ServerStream", str(i))) for i in range(50)]
    await until(lambda: len(work.running) == 50)
    work.gate.set()
    assert {outcome.code for outcome in await asyncio.gather(*calls)} == {grpc.StatusCode.OK}


async def test_switched_off_everything_begins(serving: Serving) -> None:
    async with crowded(serving, enabled=False) as crowd:
        for i in range(20):
            crowd.begin(str(i))
        await until(lambda: len(crowd.work.running) == 20)
        assert crowd.server.admissions is None


# --- those who wait -------------------------------------------------------------------------------------------------


@each_shape
async def test_a_caller_that_gives_up_leaves_the_queue_at_once(serving: Serving, method: str) -> None:
    async with crowded(serving) as crowd:
        crowd.begin("first")
        await until(lambda: crowd.work.running)
        waiting = begin(crowd.channel, method, "second")
        await until(lambda: crowd.queued() == 1)
        waiting.cancel()
        await until(lambda: crowd.queued() == 0)
        third = crowd.begin("third")
        await until(lambda: crowd.queued() == 1)
        crowd.work.gate.set()
        assert (await third).responses == ["third"]
        assert crowd.work.begun == ["first", "third"]


@each_shape
async def test_work_whose_time_runs_out_in_the_queue_is_never_begun(serving: Serving, method: str) -> None:
    async with crowded(serving) as crowd:
        crowd.begin("first")
        await until(lambda: crowd.work.running)
        late = await crowd.begin("late", method, timeout=0.3)
        assert late.code is grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: crowd.queued() == 0)
        crowd.work.gate.set()
        assert (await crowd.begin("next")).responses == ["next"]
        assert "late" not in crowd.work.begun


async def test_time_in_the_queue_counts_against_the_cap_of_calls_without_a_deadline(serving: Serving) -> None:
    work = Work()
    settings = Settings(data_dir=serving.directory, admission=AdmissionOptions(min_limit=1, max_limit=1))
    server = Server(echo_service(work.body, deadline_cap=0.5), settings, identify)
    await server.start("127.0.0.1:0")
    serving.servers.append(server)
    channel = serving.connect(server)
    first = asyncio.ensure_future(call(channel, "Unary", "first"))
    await until(lambda: work.running or first.done())
    second = asyncio.ensure_future(call(channel, "Unary", "second"))
    outcomes = await asyncio.gather(first, second)
    assert [outcome.reason for outcome in outcomes] == ["DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED"]
    assert set(work.begun) <= {"first", "second"}
    assert not work.running


async def test_a_drain_lets_those_who_wait_have_their_turn(serving: Serving) -> None:
    async with crowded(serving) as crowd:
        first, second = crowd.begin("first"), crowd.begin("second")
        await until(lambda: crowd.work.running and crowd.queued() == 1)
        drained = asyncio.ensure_future(crowd.server.drain(delay=0, grace=30))
        await asyncio.sleep(0)
        crowd.work.gate.set()
        assert {(await each).code for each in (first, second)} == {grpc.StatusCode.OK}
        await drained


async def test_a_tenant_that_floods_does_not_hold_up_another(serving: Serving) -> None:
    async with crowded(serving, limit=2, queue_length=40) as crowd:
        flood = [crowd.begin(f"a{i}", tenant="acme") for i in range(40)]
        await until(lambda: crowd.queued() == 38)
        small = crowd.begin("g", tenant="globex")
        await until(lambda: crowd.queued() == 39)
        crowd.work.gate.set()
        await small
        assert crowd.work.begun.index("g") <= 3
        await asyncio.gather(*flood)


# --- refusals -------------------------------------------------------------------------------------------------------


@each_shape
async def test_a_refusal_says_why_and_when_to_come_back(serving: Serving, method: str) -> None:
    async with crowded(serving, queue_length=0) as crowd:
        crowd.begin("x")
        await until(lambda: crowd.work.running)
        refused = await crowd.begin("y", method)
        assert refused.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert refused.reason == "RATE_LIMITED"
        delay = refused.detail(error_details_pb2.RetryInfo).retry_delay.ToMilliseconds()
        assert delay > 0
        assert refused.trailing["grpc-retry-pushback-ms"] == str(delay)
        assert "y" not in crowd.work.begun


class Stream:
    """A call of a refused method that streams its requests; what it sent is counted."""

    def __init__(self, crowd: Crowd, method: str) -> None:
        shape = crowd.channel.stream_stream if SHAPES[method][1] else crowd.channel.stream_unary
        self._make: Any = shape(path(method), Text.SerializeToString, Text.FromString)
        self.sent = 0

    async def _large(self, count: int) -> AsyncIterator[Text]:
        for _ in range(count):
            yield Text(value="x" * 20_000)
            self.sent += 1

    async def refused(self, count: int) -> grpc.StatusCode:
        """What grpc.aio raises to a caller that sends ``count`` messages, whether they are wanted or not."""
        call = self._make(self._large(count))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await (call.read() if hasattr(call, "read") else call)
        code: grpc.StatusCode = refused.value.code()
        return code

    async def refused_in_silence(self) -> grpc.StatusCode:
        """The same for a caller that sends nothing and does not say that it is done."""
        code: grpc.StatusCode = await self._make().code()
        return code


each_stream = pytest.mark.parametrize("method", [method for method in LIMITED if SHAPES[method][0]])


@each_stream
async def test_a_refused_caller_may_finish_sending(
    serving: Serving, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    # On a busy machine a client may be silent for long between two messages.
    monkeypatch.setattr("interceptors.linger._QUIET", 120.0)
    monkeypatch.setattr("interceptors.linger._LONGEST", 120.0)
    async with crowded(serving, queue_length=0) as crowd:
        crowd.begin("x")
        await until(lambda: crowd.work.running)
        for _ in range(10):
            stream = Stream(crowd, method)
            assert await stream.refused(20) is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert stream.sent == 20


@each_stream
@pytest.mark.parametrize("limit", ["_QUIET", "_LONGEST"])
async def test_a_refused_caller_that_does_not_finish_is_answered(
    serving: Serving, monkeypatch: pytest.MonkeyPatch, method: str, limit: str
) -> None:
    for name in ("_QUIET", "_LONGEST"):
        monkeypatch.setattr(f"interceptors.linger.{name}", 0.02 if name == limit else 120.0)
    async with crowded(serving, queue_length=0) as crowd:
        crowd.begin("x")
        await until(lambda: crowd.work.running)
        assert await Stream(crowd, method).refused_in_silence() is grpc.StatusCode.RESOURCE_EXHAUSTED


@each_stream
async def test_gRPCs_other_client_is_told_while_it_goes_on_sending(  # noqa: N802 - its name
    serving: Serving, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr("interceptors.linger._LONGEST", 0.02)

    def call(port: int) -> set[grpc.StatusCode]:
        codes = set()
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            shape = channel.stream_stream if SHAPES[method][1] else channel.stream_unary
            make: Any = shape(path(method), Text.SerializeToString, Text.FromString)
            for _ in range(10):
                try:
                    answer = make(iter(lambda: Text(value="x" * 20_000), None))
                    list(answer)
                except grpc.RpcError as error:
                    codes.add(error.code())
        return codes

    async with crowded(serving, queue_length=0) as crowd:
        crowd.begin("x")
        await until(lambda: crowd.work.running)
        assert await asyncio.to_thread(call, crowd.server.port) == {grpc.StatusCode.RESOURCE_EXHAUSTED}


async def test_a_client_with_a_retry_policy_obeys_the_pushback(serving: Serving) -> None:
    async with crowded(serving, queue_length=0) as crowd:
        config = (
            '{"methodConfig": [{"name": [{}], "retryPolicy": {"maxAttempts": 5, "initialBackoff": "0.001s", '
            '"maxBackoff": "0.001s", "backoffMultiplier": 1, "retryableStatusCodes": ["RESOURCE_EXHAUSTED"]}}]}'
        )
        patient = serving.connect(crowd.server, options=[("grpc.service_config", config)])
        crowd.begin("x")
        await until(lambda: crowd.work.running)
        retried = asyncio.ensure_future(call(patient, "Unary", "y"))
        metrics = crowd.server.metrics.by_method
        await until(lambda: any(code == "RESOURCE_EXHAUSTED" for _, code in metrics))
        crowd.work.gate.set()
        assert (await retried).responses == ["y"]


async def test_quotas_of_requests_and_of_tokens(serving: Serving) -> None:
    quotas = {
        "slow": QuotaOptions(requests_per_second=0.01, request_burst=1),
        "thrifty": QuotaOptions(tokens_per_second=0.1, token_burst=10),
    }
    async with crowded(serving, limit=4, tenants=quotas) as crowd:
        crowd.work.spend = 15
        crowd.work.gate.set()
        for tenant, quota in (("slow", "requests_per_second"), ("thrifty", "tokens_per_second")):
            assert (await crowd.begin("x", tenant=tenant)).code is grpc.StatusCode.OK
            refused = await crowd.begin("y", tenant=tenant)
            assert (refused.code, refused.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED")
            assert refused.detail(error_details_pb2.ErrorInfo).metadata["quota"] == quota
        for _ in range(5):
            assert (await crowd.begin("z", tenant="free")).code is grpc.StatusCode.OK


async def test_a_pushback_of_minutes_ends_a_clients_retries(serving: Serving) -> None:
    quotas = {"slow": QuotaOptions(requests_per_second=0.001, request_burst=1)}
    async with crowded(serving, tenants=quotas) as crowd:
        crowd.work.gate.set()
        await crowd.begin("x", tenant="slow")
        assert (await crowd.begin("y", tenant="slow")).trailing["grpc-retry-pushback-ms"] == "-1"


# --- metrics --------------------------------------------------------------------------------------------------------


async def test_the_gauges_show_what_happens(serving: Serving) -> None:
    async with crowded(serving, limit=2, queue_length=1) as crowd:
        for i in range(3):
            crowd.begin(str(i))
        await until(lambda: len(crowd.work.running) == 2 and crowd.queued() == 1)
        await crowd.begin("refused")
        gauges = crowd.server.metrics.gauges()
        interactive = {name: value for (name, label), value in gauges.items() if label == "interactive"}
        assert interactive == {
            "groundwire.admission.limit": 2.0,
            "groundwire.admission.in_flight": 2.0,
            "groundwire.admission.queued": 1.0,
        }
        assert gauges["groundwire.admission.refused", "interactive.queue_full"] == 1.0
        assert gauges["groundwire.brownout.step", ""] == 0.0


async def test_many_short_calls_of_many_callers_leave_nothing_behind(serving: Serving) -> None:
    async with crowded(serving, limit=4, queue_length=1000) as crowd:
        crowd.work.gate.set()
        calls = [crowd.begin(str(i), LIMITED[i % len(LIMITED)], tenant=f"t{i % 7}") for i in range(600)]
        counted = Counter(outcome.code for outcome in await asyncio.gather(*calls))
        assert counted == {grpc.StatusCode.OK: 600}
        assert (crowd.in_flight(), crowd.queued()) == (0, 0)
