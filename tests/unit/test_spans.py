"""A call's span is one object while it runs and once it has ended: exporters read it as they read the SDK's own."""

from __future__ import annotations

import json

import pytest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, Tracer, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from interceptors.spans import ServerSpan

_PARENT = f"00-{'ab' * 16}-{'cd' * 8}-01"
_METHOD = "groundwire.test.v1.Echo/Share"


class _World:
    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider(resource=Resource({"service.name": "groundwire-test"}), shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        tracer = provider.get_tracer("groundwire", "1")
        assert isinstance(tracer, Tracer)
        self.tracer = tracer

    def ended(self, code: str) -> ReadableSpan:
        ServerSpan(self.tracer, _METHOD, _PARENT).finish("request-1", code)
        (span,) = self.exporter.get_finished_spans()
        return span


@pytest.fixture
async def world() -> _World:
    """In a task of its own, because a span is current for the task that began it."""
    return _World()


async def test_it_is_current_for_its_task_and_nobody_can_add_to_it(world: _World) -> None:
    span = ServerSpan(world.tracer, _METHOD, None)
    found = trace.get_current_span()
    assert found.get_span_context() == span.get_span_context()
    assert found.get_span_context().is_valid
    assert not found.is_recording()
    found.set_attribute("secret", "value")
    span.finish("request-1", "OK")
    assert "secret" not in dict(world.exporter.get_finished_spans()[0].attributes or {})


async def test_it_is_encoded_as_any_other(world: _World) -> None:
    (resource,) = encode_spans([world.ended("UNAVAILABLE")]).resource_spans
    (scope,) = resource.scope_spans
    (span,) = scope.spans
    assert scope.scope.name == "groundwire"
    assert (span.name, span.trace_id.hex(), span.parent_span_id.hex()) == (_METHOD, "ab" * 16, "cd" * 8)
    assert span.kind == SpanKind.SERVER.value + 1  # OTLP counts from unspecified
    assert span.status.code == span.status.STATUS_CODE_ERROR
    assert 0 < span.start_time_unix_nano <= span.end_time_unix_nano
    assert {attribute.key: attribute.value.string_value for attribute in span.attributes} == {
        "rpc.system.name": "grpc",
        "rpc.method": _METHOD,
        "groundwire.request_id": "request-1",
        "rpc.response.status_code": "UNAVAILABLE",
        "error.type": "UNAVAILABLE",
    }


async def test_it_is_shown_as_any_other(world: _World) -> None:
    shown = json.loads(world.ended("NOT_FOUND").to_json())
    assert shown["status"] == {"status_code": "UNSET"}
    assert shown["resource"]["attributes"]["service.name"] == "groundwire-test"
    assert "error.type" not in shown["attributes"]
    assert (shown["events"], shown["links"]) == ([], [])


async def test_what_is_not_sampled_is_not_exported(world: _World) -> None:
    span = ServerSpan(world.tracer, _METHOD, _PARENT.removesuffix("1") + "0")
    span.finish("request-1", "OK")
    assert not world.exporter.get_finished_spans()
    assert not span.get_span_context().trace_flags.sampled
