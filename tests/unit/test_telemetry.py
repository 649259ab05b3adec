"""Traces and call metrics: what is told, to whom, and that it never costs a call."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import grpc
import pytest
from opentelemetry.exporter.otlp.proto.grpc import trace_exporter
from opentelemetry.sdk.trace import ReadableSpan, Tracer, TracerProvider, sampling
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from interceptors._shapes import Context
from interceptors.client import outgoing
from services.corpus.errors import NotFound, Unavailable
from services.runtime import telemetry
from services.runtime.channels import check_serving, open_channel
from services.runtime.telemetry import BUCKETS, CallMetrics, Telemetry
from tests.support.serving import ECHO, SHAPES, Serving, call, echo_service, until

SECRET = "what did Alice earn last year"
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
TRACEPARENT = [("traceparent", f"00-{TRACE}-{PARENT}-01")]


class Spans:
    """Finished spans, in memory."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()

    def tracer(self, name: str, sampler: sampling.Sampler | None = None) -> Tracer:
        provider = TracerProvider(shutdown_on_exit=False, sampler=sampler)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        tracer = provider.get_tracer(name)
        assert isinstance(tracer, Tracer)
        return tracer

    @property
    def finished(self) -> tuple[ReadableSpan, ...]:
        return tuple(self._exporter.get_finished_spans())

    async def of(self, scope: str, kind: SpanKind) -> ReadableSpan:
        """The one span of a tracer and kind, once it is finished."""
        found: list[ReadableSpan] = []

        def there() -> bool:
            found[:] = [s for s in self.finished if s.kind is kind and _scope(s) == scope]
            return bool(found)

        await until(there)
        (span,) = found
        return span


def _scope(span: ReadableSpan) -> str:
    assert span.instrumentation_scope is not None
    return span.instrumentation_scope.name


def trace_id(span: ReadableSpan) -> str:
    context = span.get_span_context()
    return f"{context.trace_id:032x}" if context else ""


def span_id(span: ReadableSpan) -> str:
    context = span.get_span_context()
    return f"{context.span_id:016x}" if context else ""


def parent_id(span: ReadableSpan) -> str:
    return f"{span.parent.span_id:016x}" if span.parent else ""


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


# --- spans across services ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sampler", [None, sampling.ALWAYS_OFF, sampling.TraceIdRatioBased(0.0)], ids=["caller", "off", "ratio"]
)
async def test_what_is_not_sampled_becomes_no_span_here_or_further_on(
    serving: Serving, sampler: sampling.Sampler | None
) -> None:
    spans = Spans()
    back = await serving.serve(tracer=spans.tracer("back"))
    channel = open_channel(f"127.0.0.1:{back.port}", tracer=spans.tracer("front"))
    serving.channels.append(channel)

    async def body(text: str, context: Context) -> str:
        return (await call(channel, "Unary", text)).responses[0]

    front = await serving.serve(echo_service(body), tracer=spans.tracer("front", sampler))
    # Without a sampler of its own, a service does what its caller says.
    metadata = [("traceparent", f"00-{TRACE}-{PARENT}-00")] if sampler is None else []
    assert (await call(serving.connect(front), "Unary", "x", metadata=metadata)).code is grpc.StatusCode.OK
    assert not spans.finished


async def test_a_sampler_that_samples_is_asked(serving: Serving) -> None:
    spans = Spans()
    server = await serving.serve(tracer=spans.tracer("front", sampling.TraceIdRatioBased(1.0)))
    assert (await call(serving.connect(server), "Unary", "x")).code is grpc.StatusCode.OK
    assert (await spans.of("front", SpanKind.SERVER)).parent is None


@pytest.mark.parametrize("method", SHAPES)
async def test_one_call_through_two_services_is_one_trace(serving: Serving, method: str) -> None:
    spans = Spans()
    back = await serving.serve(tracer=spans.tracer("back"))
    channel = open_channel(f"127.0.0.1:{back.port}", tracer=spans.tracer("front"))
    serving.channels.append(channel)

    async def body(text: str, context: Context) -> str:
        return (await call(channel, method, text)).responses[0]

    front = await serving.serve(echo_service(body), tracer=spans.tracer("front"))
    outcome = await call(serving.connect(front), "Unary", SECRET, metadata=[*TRACEPARENT, ("x-request-id", "abc")])
    assert outcome.responses == [SECRET]

    served = await spans.of("front", SpanKind.SERVER)
    called = await spans.of("front", SpanKind.CLIENT)
    answered = await spans.of("back", SpanKind.SERVER)
    assert {trace_id(span) for span in (served, called, answered)} == {TRACE}
    assert [parent_id(span) for span in (served, called, answered)] == [PARENT, span_id(served), span_id(called)]
    assert [span.name for span in (served, called, answered)] == [
        f"{ECHO}/Unary",
        f"{ECHO}/{method}",
        f"{ECHO}/{method}",
    ]
    for span in (served, called, answered):
        assert attributes(span)["rpc.system.name"] == "grpc"
        assert attributes(span)["rpc.method"] == span.name
        assert attributes(span)["rpc.response.status_code"] == "OK"
        assert span.status.status_code is StatusCode.UNSET
    assert {attributes(span)["groundwire.request_id"] for span in (served, answered)} == {"abc"}
    assert len(spans.finished) == 3
    assert SECRET not in "".join(span.to_json() for span in spans.finished)


@pytest.mark.parametrize("method", SHAPES)
@pytest.mark.parametrize(
    ("error", "code", "server_fault"),
    [
        (NotFound(f"nothing about {SECRET}"), "NOT_FOUND", False),
        (Unavailable("later"), "UNAVAILABLE", True),
        (RuntimeError(SECRET), "INTERNAL", True),
    ],
)
async def test_failures_are_told_by_their_code_alone(
    serving: Serving, method: str, error: Exception, code: str, server_fault: bool
) -> None:
    spans = Spans()

    async def body(text: str, context: Context) -> str:
        raise error

    back = await serving.serve(echo_service(body), tracer=spans.tracer("back"))
    channel = open_channel(f"127.0.0.1:{back.port}", tracer=spans.tracer("front"))
    serving.channels.append(channel)

    async def front(text: str, context: Context) -> str:
        return (await call(channel, method, text)).code.name

    server = await serving.serve(echo_service(front), tracer=spans.tracer("front"))
    await call(serving.connect(server), "Unary", SECRET)
    called, answered = await spans.of("front", SpanKind.CLIENT), await spans.of("back", SpanKind.SERVER)
    assert attributes(called)["rpc.response.status_code"] == attributes(answered)["rpc.response.status_code"] == code
    assert (called.status.status_code, attributes(called)["error.type"]) == (StatusCode.ERROR, code)
    assert (answered.status.status_code is StatusCode.ERROR, "error.type" in attributes(answered)) == (
        server_fault,
        server_fault,
    )
    assert SECRET not in "".join(span.to_json() for span in spans.finished)


async def test_a_call_that_could_not_be_begun_ends_its_span(serving: Serving) -> None:
    spans = Spans()

    async def credentials() -> list[tuple[str, str]]:
        raise Unavailable("no token")

    back = await serving.serve()
    channel = serving.connect(
        back, interceptors=outgoing(tracer=spans.tracer("front"), margin=0.05, credentials=credentials)
    )

    async def body(text: str, context: Context) -> str:
        return (await call(channel, "Unary", text)).code.name

    front = await serving.serve(echo_service(body), tracer=spans.tracer("front"))
    await call(serving.connect(front), "Unary", "x")
    called = await spans.of("front", SpanKind.CLIENT)
    assert called.status.status_code is StatusCode.ERROR


@pytest.mark.parametrize("broken", ["", "nonsense", "00-0-0-01", f"00-{'0' * 32}-{PARENT}-01", "ff-" + "a" * 60])
async def test_a_broken_traceparent_begins_a_trace_of_its_own(serving: Serving, broken: str) -> None:
    spans = Spans()
    server = await serving.serve(tracer=spans.tracer("back"))
    assert (await call(serving.connect(server), "Unary", "x", metadata=[("traceparent", broken)])).responses == ["x"]
    span = await spans.of("back", SpanKind.SERVER)
    assert span.parent is None


async def test_made_up_paths_share_one_span_name(serving: Serving) -> None:
    spans = Spans()
    server = await serving.serve(tracer=spans.tracer("back"))
    channel = serving.connect(server)
    for i in range(3):
        multicallable: Any = channel.unary_unary(f"/made.up/{SECRET.replace(' ', '')}{i}")
        with pytest.raises(grpc.aio.AioRpcError):
            await multicallable(b"")
    await until(lambda: len(spans.finished) == 3)
    assert {span.name for span in spans.finished} == {"unknown"}


async def test_neither_health_checks_nor_calls_of_the_process_itself_are_traced(serving: Serving) -> None:
    spans = Spans()
    server = await serving.serve(tracer=spans.tracer("back"))
    channel = open_channel(f"127.0.0.1:{server.port}", tracer=spans.tracer("front"))
    serving.channels.append(channel)
    await check_serving(channel, "echo", service="")
    await check_serving(serving.connect(server), "echo", service="")
    assert (await call(channel, "Unary", "x")).responses == ["x"]
    await until(lambda: server.metrics.by_method.get((f"{ECHO}/Unary", "OK")))
    # What comes after is traced and ends later: nothing before it was.
    await call(serving.connect(server), "Unary", "x")
    await spans.of("back", SpanKind.SERVER)
    assert len(spans.finished) == 1


# --- the exporter ---------------------------------------------------------------------------------------------------


class Collector(SpanExporter):
    """An exporter that takes spans, or hangs until it is let go."""

    def __init__(self, *, hangs: bool) -> None:
        self.names: list[str] = []
        self.asked = threading.Event()
        self.go_on = threading.Event()
        if not hangs:
            self.go_on.set()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.asked.set()
        self.go_on.wait()
        self.names.extend(f"{span.resource.attributes['service.name']!s} {span.name}" for span in spans)
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Nothing to do."""


def exporting_to(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> Telemetry:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr(trace_exporter, "OTLPSpanExporter", lambda **_: collector)
    return Telemetry("1.2.3")


async def test_without_an_endpoint_there_is_no_tracer() -> None:
    process = Telemetry("1.2.3")
    assert process.tracer("query") is None
    await process.close()


async def test_what_is_queued_is_sent_in_the_end(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    collector = Collector(hangs=False)
    process = exporting_to(collector, monkeypatch)
    monkeypatch.setattr(telemetry, "_FLUSH_SECONDS", 600)
    first, second = [await serving.serve(tracer=process.tracer(name)) for name in ("query", "audit")]
    for server in (first, second, first):
        assert (await call(serving.connect(server), "Unary", "x")).responses == ["x"]
    for server in (first, second):
        await server.drain(delay=0, grace=1)
    await process.close()
    assert sorted(collector.names) == [f"groundwire-{name} {ECHO}/Unary" for name in ("audit", "query", "query")]
    await process.close()
    assert process.tracer("query") is None


async def test_a_collector_that_is_not_there_breaks_no_call(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr(telemetry, "_FLUSH_SECONDS", 0.01)
    process = Telemetry("1.2.3")
    server = await serving.serve(tracer=process.tracer("echo"))
    channel = serving.connect(server)
    outcomes = await asyncio.gather(*(call(channel, method, "x") for method in list(SHAPES) * 20))
    assert {(outcome.code, *outcome.responses) for outcome in outcomes} == {(grpc.StatusCode.OK, "x")}
    await process.close()


def test_a_collector_that_hangs_holds_up_neither_calls_nor_the_end(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector = Collector(hangs=True)
    process = exporting_to(collector, monkeypatch)
    monkeypatch.setattr(telemetry, "_FLUSH_SECONDS", 0.01)

    async def main() -> list[str]:
        serving = Serving(tmp_path)
        server = await serving.serve(tracer=process.tracer("echo"))
        outcome = await call(serving.connect(server), "Unary", "x")
        await serving.stop()
        await process.close()
        return outcome.responses

    # The end of the loop would wait for a thread of its executor for as long as that runs.
    assert asyncio.run(main()) == ["x"]
    collector.asked.wait()
    assert collector.names == []
    collector.go_on.set()


# --- call metrics ---------------------------------------------------------------------------------------------------


def test_durations_fall_into_buckets_with_inclusive_bounds() -> None:
    metrics = CallMetrics()
    for seconds in (0.0, 0.005, 0.0051, 10.0, 10.1, 1e9):
        metrics.record("m", "OK", seconds)
    statistics = metrics.by_method["m", "OK"]
    assert statistics.count == 6 == sum(statistics.buckets)
    assert statistics.total_seconds == pytest.approx(1e9 + 20.1101)
    assert len(statistics.buckets) == len(BUCKETS) + 1
    assert (statistics.buckets[0], statistics.buckets[1], statistics.buckets[-2], statistics.buckets[-1]) == (
        2,
        1,
        1,
        2,
    )


def test_methods_and_outcomes_are_kept_apart() -> None:
    metrics = CallMetrics()
    for method, code in [("a", "OK"), ("a", "OK"), ("a", "INTERNAL"), ("b", "OK")]:
        metrics.record(method, code, 0.1)
    assert {key: statistics.count for key, statistics in metrics.by_method.items()} == {
        ("a", "OK"): 2,
        ("a", "INTERNAL"): 1,
        ("b", "OK"): 1,
    }
