"""Where spans go over OTLP: the standard variables, and what collectors, and things that are none, say to a span."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as rpc

from cli import doctor
from services.runtime.otlp import Collector, Protocol, configured_collector, try_export
from services.runtime.settings import ConfigurationError
from services.runtime.telemetry import Telemetry

_BASE, _TRACES = "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
_PROTOCOL, _TRACES_PROTOCOL = "OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"
_HTTP, _GRPC = "http/protobuf", "grpc"


# --- the variables --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, None),
        ({"OTEL_SERVICE_NAME": "x"}, None),
        ({_BASE: "", _PROTOCOL: " "}, None),
        ({_BASE: "http://c:1", "OTEL_SDK_DISABLED": "TRUE"}, None),
        ({_BASE: "http://c:1", "OTEL_TRACES_EXPORTER": "none"}, None),
        ({_PROTOCOL: "nonsense", "OTEL_TRACES_EXPORTER": "none"}, None),
        ({_BASE: "http://c:1"}, (_GRPC, "http://c:1")),
        ({_BASE: "http://c:1", "OTEL_TRACES_EXPORTER": "otlp"}, (_GRPC, "http://c:1")),
        ({_BASE: "c:1"}, (_GRPC, "c:1")),
        ({_TRACES: "http://c:1", _BASE: "http://d:1"}, (_GRPC, "http://c:1")),
        ({_BASE: "http://c:1", _PROTOCOL: _GRPC}, (_GRPC, "http://c:1")),
        # The path of traces is added to what is for all signals, and never to what is for traces alone.
        ({_BASE: "http://c:1", _PROTOCOL: _HTTP}, (_HTTP, "http://c:1/v1/traces")),
        ({_BASE: "http://c:1/", _PROTOCOL: _HTTP}, (_HTTP, "http://c:1/v1/traces")),
        ({_BASE: "https://c/otel/", _PROTOCOL: _HTTP}, (_HTTP, "https://c/otel/v1/traces")),
        ({_TRACES: "http://c:1", _PROTOCOL: _HTTP}, (_HTTP, "http://c:1")),
        ({_TRACES: "http://c:1/here", _BASE: "http://d:1", _PROTOCOL: _HTTP}, (_HTTP, "http://c:1/here")),
        ({_BASE: "http://c:1", _PROTOCOL: " HTTP/Protobuf "}, (_HTTP, "http://c:1/v1/traces")),
        ({_BASE: "http://c:1", _PROTOCOL: _GRPC, _TRACES_PROTOCOL: _HTTP}, (_HTTP, "http://c:1/v1/traces")),
        ({_BASE: "http://c:1", _PROTOCOL: "nonsense", _TRACES_PROTOCOL: _GRPC}, (_GRPC, "http://c:1")),
        # Where collectors listen for each protocol, unless an endpoint is set.
        ({_PROTOCOL: _HTTP}, (_HTTP, "http://localhost:4318/v1/traces")),
        ({_TRACES_PROTOCOL: _GRPC}, (_GRPC, "http://localhost:4317")),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, (_GRPC, "http://localhost:4317")),
    ],
)
def test_spans_go_where_the_standard_variables_say(environment: dict[str, str], wanted: tuple[str, str] | None) -> None:
    assert configured_collector(environment) == (Collector(Protocol(wanted[0]), wanted[1]) if wanted else None)


@pytest.mark.parametrize(
    ("environment", "parts"),
    [
        ({_PROTOCOL: "http/json"}, (_PROTOCOL, "'http/json'", "grpc or http/protobuf")),
        ({_BASE: "http://c:1", _TRACES_PROTOCOL: "http"}, (_TRACES_PROTOCOL, "'http'", "grpc or http/protobuf")),
        ({_BASE: "c:4318", _PROTOCOL: _HTTP}, (_BASE, "http://localhost:4318")),
        ({_TRACES: "ftp://c/", _PROTOCOL: _HTTP}, (_TRACES, "http://localhost:4318")),
        ({_BASE: "http://", _PROTOCOL: _HTTP}, (_BASE, "http://localhost:4318")),
        ({_BASE: "http://c:port"}, (_BASE, "http://localhost:4317")),
    ],
)
def test_what_cannot_be_obeyed_is_one_line(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], parts: tuple[str, ...]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as raised:
        Telemetry("1.2.3")
    (line,) = str(raised.value).splitlines()
    assert all(part in line for part in parts)
    assert doctor.traces().state == doctor.FAIL


def test_libraries_of_exporters_are_imported_where_spans_are_exported() -> None:
    script = "import sys, services.runtime.telemetry as t; t.Telemetry('1'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not {"requests", "opentelemetry.exporter.otlp.proto.http", "opentelemetry.exporter.otlp.proto.grpc"} & set(
        done.stdout.split()
    )


# --- collectors, and what is none -----------------------------------------------------------------------------------


@dataclass
class Received:
    """What a collector was sent."""

    port: int = 0
    paths: list[str] = field(default_factory=list)
    services: list[str] = field(default_factory=list)

    def take(self, request: Any, path: str = "") -> None:
        for spans in request.resource_spans:
            attributes = {each.key: each.value.string_value for each in spans.resource.attributes}
            self.services.append(attributes["service.name"])
        self.paths.append(path)


@contextmanager
def http_server(status: int, body: bytes, *headers: tuple[str, str]) -> Iterator[Received]:
    """Answers every request in the same way."""
    received = Received()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            received.take(pb.ExportTraceServiceRequest.FromString(data), self.path)
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def _answer(self) -> None:
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value.format(port=received.port))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    received.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield received
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
async def grpc_collector() -> AsyncIterator[Received]:
    """A collector that speaks gRPC."""
    received = Received()

    class Servicer(rpc.TraceServiceServicer):
        async def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - the contract's name
            received.take(request)
            return pb.ExportTraceServiceResponse()

    server = grpc.aio.server()
    add: Any = rpc.add_TraceServiceServicer_to_server  # typed nowhere
    add(Servicer(), server)
    received.port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield received
    await server.stop(0)


@pytest.fixture(autouse=True)
def _proxy_that_is_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")


def span_sent(monkeypatch: pytest.MonkeyPatch, protocol: str, port: int) -> doctor.Finding:
    monkeypatch.setenv(_PROTOCOL, protocol)
    monkeypatch.setenv(_BASE, f"http://127.0.0.1:{port}")
    return doctor.traces()


async def test_doctor_sends_a_span_over_grpc(monkeypatch: pytest.MonkeyPatch, grpc_collector: Received) -> None:
    found = await asyncio.to_thread(span_sent, monkeypatch, _GRPC, grpc_collector.port)
    assert (found.state, grpc_collector.services) == (doctor.OK, ["groundwire-doctor"])


def test_doctor_sends_a_span_over_http(monkeypatch: pytest.MonkeyPatch) -> None:
    with http_server(200, b"", ("Content-Type", "application/x-protobuf")) as received:
        found = span_sent(monkeypatch, _HTTP, received.port)
    assert (found.state, received.services) == (doctor.OK, ["groundwire-doctor"])
    assert received.paths == ["/v1/traces"]


async def test_a_process_sends_its_spans_over_http(monkeypatch: pytest.MonkeyPatch) -> None:
    with http_server(200, b"") as received:
        monkeypatch.setenv(_PROTOCOL, _HTTP)
        monkeypatch.setenv(_BASE, f"http://127.0.0.1:{received.port}")
        process = Telemetry("1.2.3")
        tracer = process.tracer("query")
        assert tracer is not None
        tracer.start_span("call").end()
        monkeypatch.setattr("services.runtime.telemetry._FLUSH_SECONDS", 600)
        await process.close()
    assert (received.services, received.paths) == (["groundwire-query"], ["/v1/traces"])


PATIENCE = 6.0  # seconds that a finding is waited for, all tries of the exporter included
_REFUSAL = pb.ExportTraceServiceResponse(
    partial_success=pb.ExportTracePartialSuccess(rejected_spans=1, error_message="no room")
)


@pytest.mark.parametrize(
    ("status", "body", "headers", "told"),
    [
        (404, b"", (), "HTTP 404"),
        (401, b"", (), "HTTP 401"),
        (200, b"<!doctype html><title>Welcome</title>", (), "not as a collector"),
        (302, b"", (("Location", "http://127.0.0.1:{port}/login"),), "HTTP 302"),
        (200, _REFUSAL.SerializeToString(), (), "no room"),
    ],
)
def test_what_takes_no_span_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, status: int, body: bytes, headers: tuple[tuple[str, str], ...], told: str
) -> None:
    with http_server(status, body, *headers) as received:
        found = span_sent(monkeypatch, _HTTP, received.port)
    assert (found.state, told in found.found, "4318" in found.remedy) == (doctor.FAIL, True, True), found


def test_grpc_sent_to_a_port_of_http_is_a_failure() -> None:
    with http_server(200, b"") as received:
        problem = try_export(Collector(Protocol.GRPC, f"http://127.0.0.1:{received.port}"), timeout=0.5)
    assert problem


async def test_http_sent_to_a_port_of_grpc_is_a_failure(grpc_collector: Received) -> None:
    collector = Collector(Protocol.HTTP, f"http://127.0.0.1:{grpc_collector.port}/v1/traces")
    assert await asyncio.to_thread(try_export, collector, PATIENCE) == "no answer in HTTP"
    assert grpc_collector.services == []


@pytest.fixture
def quiet_log() -> Iterator[None]:
    """A command's own log that shows errors alone."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    yield
    root.setLevel(before)


@pytest.mark.usefixtures("quiet_log")
@pytest.mark.parametrize("protocol", Protocol)
def test_a_collector_that_is_not_there_is_a_failure(protocol: Protocol, capfd: pytest.CaptureFixture[str]) -> None:
    problem = try_export(Collector(protocol, "http://127.0.0.1:1/v1/traces"), timeout=PATIENCE)
    assert problem is not None
    assert "Connection refused" in problem
    # What the libraries log stands in the finding, and nowhere else.
    assert capfd.readouterr() == ("", "")
