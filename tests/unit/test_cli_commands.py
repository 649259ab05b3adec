"""The client commands, run as a user runs them, against fake services behind the production server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from cli import main as cli_main
from groundwire.common.v1 import core_pb2
from groundwire.generation.v1 import generation_service_pb2 as generation_pb
from groundwire.generation.v1 import generation_service_pb2_grpc as generation_rpc
from groundwire.ingestion.v1 import ingestion_service_pb2 as ingestion_pb
from groundwire.ingestion.v1 import ingestion_service_pb2_grpc as ingestion_rpc
from groundwire.monitoring.v1 import monitoring_service_pb2 as monitoring_pb
from groundwire.monitoring.v1 import monitoring_service_pb2_grpc as monitoring_rpc
from groundwire.query.v1 import query_service_pb2 as query_pb
from groundwire.query.v1 import query_service_pb2_grpc as query_rpc
from groundwire.retrieval.v1 import retrieval_service_pb2 as retrieval_pb
from groundwire.retrieval.v1 import retrieval_service_pb2_grpc as retrieval_rpc
from services.corpus.errors import (
    FieldViolation,
    InvalidRequest,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from services.runtime.identity import development_identity
from services.runtime.server import MIB, Server, Service
from services.runtime.settings import Settings
from services.runtime.unbuilt import unbuilt
from tests.support.clients import clients
from tests.support.processes import PATIENCE
from tests.support.recording import memory_recorder

_ROOT = Path(__file__).resolve().parents[2]
_GOLDEN = _ROOT / "tests" / "golden"
_ANSWER = "Hotels cost at most €210 per night. [1]"


@dataclass
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


async def run(*arguments: str, environment: dict[str, str] | None = None, stdin: bytes = b"") -> Ended:
    """Run ``groundwire`` in a process of its own, with pipes."""
    done = await asyncio.to_thread(
        clients().run, arguments, _environment(environment or {}), timeout=PATIENCE, stdin=stdin
    )
    return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())


def _environment(more: dict[str, str]) -> dict[str, str]:
    path = os.pathsep.join((str(_ROOT), str(_ROOT / "generated")))
    return os.environ | {"PYTHONPATH": path, "COLUMNS": "100", "TERM": "xterm-256color"} | more


async def run_on_a_terminal(
    *arguments: str, environment: dict[str, str] | None = None, typed: str | None = None
) -> Ended:
    """Run ``groundwire`` with stdout and stderr on a pseudo-terminal; its output is all of what was written to it.

    What is ``typed`` on it shows there, too; without that, stdin is empty and no terminal.
    """
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        "cli.main",
        *arguments,
        stdin=asyncio.subprocess.DEVNULL if typed is None else theirs,
        stdout=theirs,
        stderr=theirs,
        env=_environment(environment or {}),
    )
    os.close(theirs)
    os.write(ours, (typed or "").encode())

    def read() -> bytes:
        read = b""
        # Linux ends the reading of a terminal that nobody holds with an error.
        with contextlib.suppress(OSError):
            while block := os.read(ours, 65536):
                read += block
        return read

    written = await asyncio.to_thread(read)
    code = await process.wait()
    os.close(ours)
    return Ended(code, written.decode().replace("\r\n", "\n"), "")


def golden(name: str, text: str) -> None:
    """Compare ``text`` with a file under tests/golden; UPDATE_GOLDEN=1 writes it."""
    path = _GOLDEN / f"cli_{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


def _source(marker: str = "[1]", *, cited: bool = True, document_id: str = "travel") -> core_pb2.Source:
    return core_pb2.Source(
        marker=marker,
        document_id=document_id,
        title="Travel Policy 2025" if cited else "Remote Work",
        uri=f"policies/{document_id}.pdf",
        snippet="The hotel limit is\n€210 per night.",
        score=0.934,
        page=2,
        cited=cited,
    )


def _response(**changes: Any) -> query_pb.QueryResponse:
    response = query_pb.QueryResponse(
        answer=_ANSWER,
        sources=[_source(), _source("", cited=False, document_id="remote")],
        confidence=0.87,
        request_id="r-1",
        endpoint="extractive",
    )
    response.processing_time.FromMilliseconds(420)
    response.MergeFrom(query_pb.QueryResponse(**changes))
    return response


class FakeQuery(query_rpc.QueryServiceServicer):
    """Answers by what is asked."""

    def __init__(self) -> None:
        self.requests: list[query_pb.QueryRequest] = []

    async def Query(self, request: query_pb.QueryRequest, context: Any) -> query_pb.QueryResponse:  # noqa: N802
        self.requests.append(request)
        return _response()

    async def StreamQuery(  # noqa: N802
        self, request: query_pb.QueryRequest, context: Any
    ) -> AsyncIterator[query_pb.QueryEvent]:
        self.requests.append(request)
        self._raise(request.query)
        yield query_pb.QueryEvent(retrieval=query_pb.RetrievalEvent(sources=[_source()]))
        if request.query == "abstain":
            refusal = "The given sources do not answer this question."
            yield query_pb.QueryEvent(delta=query_pb.DeltaEvent(text=refusal))
            yield query_pb.QueryEvent(
                final=query_pb.QueryResponse(
                    answer=refusal,
                    abstained=True,
                    abstention_reason=query_pb.ABSTENTION_REASON_NOT_SUPPORTED,
                    request_id="r-2",
                )
            )
            return
        if request.query == "reset":
            yield query_pb.QueryEvent(delta=query_pb.DeltaEvent(text="Utterly WRONG words of a first endpoint. "))
            yield query_pb.QueryEvent(reset=query_pb.ResetEvent(reason="endpoint failed"))
        for word in _ANSWER.split(" "):
            yield query_pb.QueryEvent(delta=query_pb.DeltaEvent(text=word + (" " if word != "[1]" else "")))
        if request.query != "cut":
            final = _response()
            if request.query == "degraded":
                final.coverage.degraded = True
                final.coverage.stores.add(
                    store="archive", state=core_pb2.StoreCoverage.STATE_TIMED_OUT, reason="no answer in 2 s"
                )
            if request.query == "hostile":
                final.sources[0].title = "\x1b]0;owned\x07[bold]Travel[/bold]"
            yield query_pb.QueryEvent(final=final)

    @staticmethod
    def _raise(query: str) -> None:
        match query:
            case "invalid":
                raise InvalidRequest([FieldViolation("query", "is too long"), FieldViolation("top_k", "is too large")])
            case "busy":
                raise ResourceExhausted("too many calls", retry_after=7.0)
            case "down":
                raise Unavailable("no vector store answered", retry_after=2.0)
            case "denied":
                raise PermissionDenied("you may not do this")
            case "unknown":
                raise Unauthenticated
            case "defect":
                raise RuntimeError("secret detail")


class FakeIngestion(ingestion_rpc.IngestionServiceServicer):
    """Takes everything but what is named bad; fails ``busy`` calls first."""

    def __init__(self) -> None:
        self.requests: list[ingestion_pb.IngestDocumentsRequest] = []
        self.deleted: list[tuple[str, str]] = []
        self.busy = 0

    async def IngestDocuments(  # noqa: N802
        self, request: ingestion_pb.IngestDocumentsRequest, context: Any
    ) -> ingestion_pb.IngestDocumentsResponse:
        if self.busy:
            self.busy -= 1
            raise ResourceExhausted("too many documents at once", retry_after=0.01)
        self.requests.append(request)
        results = []
        for n, document in enumerate(request.documents):
            result = ingestion_pb.DocumentResult(index=n, document_id=document.document_id, version=1, chunks=2)
            if "bad" in document.document_id:
                result = ingestion_pb.DocumentResult(
                    index=n,
                    document_id=document.document_id,
                    failure_reason=ingestion_pb.FAILURE_REASON_ENCRYPTED,
                    failure_message="The document is protected by a password; remove it and send it again.",
                )
            results.append(result)
        return ingestion_pb.IngestDocumentsResponse(results=results)

    async def DeleteDocument(  # noqa: N802
        self, request: ingestion_pb.DeleteDocumentRequest, context: Any
    ) -> ingestion_pb.DeleteDocumentResponse:
        self.deleted.append((request.collection, request.document_id))
        if request.document_id == "others":
            raise PermissionDenied("only the document's owner or an administrator may delete it")
        done = Timestamp(seconds=1_779_021_015)
        receipt = ingestion_pb.ErasureReceipt(
            receipt_id="0f" * 16,
            collection=request.collection or "default",
            document_id=request.document_id,
            block_time=done,
            steps=[ingestion_pb.ErasureStep(place="catalog", removed=1, complete_time=done)],
        )
        if request.document_id == "stuck":
            receipt.steps.add(place="store", remaining=3)
        else:
            receipt.steps.add(place="store", removed=3, complete_time=done)
            receipt.complete_time.CopyFrom(done)
        return ingestion_pb.DeleteDocumentResponse(receipt=receipt)


class FakeRetrieval(retrieval_rpc.RetrievalServiceServicer):
    """Finds one passage and has one store."""

    CheckSources = unbuilt

    async def Retrieve(  # noqa: N802
        self, request: retrieval_pb.RetrieveRequest, context: Any
    ) -> retrieval_pb.RetrieveResponse:
        chunk = core_pb2.Chunk(document_id="travel", title="Travel Policy 2025", text="At most\n€210.", page=2)
        response = retrieval_pb.RetrieveResponse()
        response.chunks.add(chunk=chunk, score=0.91, scores=retrieval_pb.StageScores(dense=0.8, fused=0.91))
        response.coverage.stores.add(store="main", state=core_pb2.StoreCoverage.STATE_ANSWERED, hits=12)
        return response

    async def ListStores(  # noqa: N802
        self, request: retrieval_pb.ListStoresRequest, context: Any
    ) -> retrieval_pb.ListStoresResponse:
        store = retrieval_pb.StoreStatus(
            name="main", engine="chroma", dense=True, lexical=True, healthy=True, breaker="closed", chunk_count=1234
        )
        return retrieval_pb.ListStoresResponse(stores=[store])


class FakeGeneration(generation_rpc.GenerationServiceServicer):
    """Has one endpoint, and writes nothing."""

    async def Generate(  # noqa: N802
        self, request: generation_pb.GenerateRequest, context: Any
    ) -> generation_pb.GenerateResponse:
        raise Unavailable("not here")

    def StreamGenerate(  # noqa: N802
        self, request: generation_pb.GenerateRequest, context: Any
    ) -> AsyncIterator[generation_pb.GenerateEvent]:
        raise Unavailable("not here")

    async def ListEndpoints(  # noqa: N802
        self, request: generation_pb.ListEndpointsRequest, context: Any
    ) -> generation_pb.ListEndpointsResponse:
        endpoint = generation_pb.EndpointStatus(
            name="extractive",
            kind="extractive",
            model="m",
            healthy=True,
            breaker="closed",
            role="primary",
            serving=True,
        )
        return generation_pb.ListEndpointsResponse(endpoints=[endpoint])


def _endpoint(port: int, *, healthy: bool = True, **changes: Any) -> monitoring_pb.EndpointTopology:
    health = monitoring_pb.HealthCheck(status=monitoring_pb.SERVICE_HEALTH_HEALTHY)
    if not healthy:
        health.status = monitoring_pb.SERVICE_HEALTH_UNHEALTHY
        health.error_message = "it does not answer in time"
    endpoint = monitoring_pb.EndpointTopology(
        address=f"10.0.0.1:{port}", role=monitoring_pb.ENDPOINT_ROLE_PRIMARY, health=health, serving=healthy
    )
    endpoint.MergeFrom(monitoring_pb.EndpointTopology(**changes))
    return endpoint


def _topology() -> list[monitoring_pb.ServiceTopology]:
    """A query service that is alone, and a retrieval service whose primary is frozen."""
    frozen = _endpoint(52, healthy=False, breaker="open", zone="a")
    backup = _endpoint(62, breaker="closed", zone="b", role=monitoring_pb.ENDPOINT_ROLE_BACKUP, in_flight=3)
    return [
        monitoring_pb.ServiceTopology(
            service_name="retrieval",
            status=monitoring_pb.SERVICE_HEALTH_DEGRADED,
            endpoints=[frozen, backup],
            error_message="10.0.0.1:52: it does not answer in time",
        ),
        monitoring_pb.ServiceTopology(
            service_name="query", status=monitoring_pb.SERVICE_HEALTH_HEALTHY, endpoints=[_endpoint(50)]
        ),
    ]


class FakeMonitoring(monitoring_rpc.MonitoringServiceServicer):
    """Says what it is told to; a watch ends, as if its connection broke, when what it says is None."""

    RecordMetrics = GetMetricHistory = CreateAlertRule = ListAlertRules = unbuilt
    DeleteAlertRule = ListAlerts = WatchAlerts = unbuilt

    def __init__(self) -> None:
        self.services: list[monitoring_pb.ServiceTopology] | None = _topology()
        self.changed = asyncio.Event()
        self.watches = 0
        self.refused = False
        self.goes_on = asyncio.Event()
        self.goes_on.set()

    def says(self, services: list[monitoring_pb.ServiceTopology] | None) -> None:
        self.services = services
        self.changed.set()
        self.changed = asyncio.Event()

    async def GetTopology(  # noqa: N802
        self, request: monitoring_pb.GetTopologyRequest, context: Any
    ) -> monitoring_pb.GetTopologyResponse:
        await self.goes_on.wait()
        if self.services is None:
            raise Unavailable("monitoring is not ready")
        return monitoring_pb.GetTopologyResponse(services=self.services)

    async def WatchTopology(  # noqa: N802
        self, request: monitoring_pb.WatchTopologyRequest, context: Any
    ) -> AsyncIterator[monitoring_pb.WatchTopologyResponse]:
        self.watches += 1
        if self.refused:
            raise PermissionDenied("you may not do this")
        while self.services is not None:
            await self.goes_on.wait()
            changed = self.changed
            yield monitoring_pb.WatchTopologyResponse(services=self.services)
            await changed.wait()
        raise Unavailable("monitoring is not ready")


async def _nothing() -> None:
    return None


@dataclass
class Fakes:
    """Fake services, and the environment in which the command line finds them."""

    query: FakeQuery = field(default_factory=FakeQuery)
    ingestion: FakeIngestion = field(default_factory=FakeIngestion)
    monitoring: FakeMonitoring | None = None
    servers: list[Server] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)

    async def start(self, directory: Path) -> None:
        self.environment["GROUNDWIRE_DATA_DIR"] = str(directory)
        services: list[tuple[str, object, Callable[[Any, grpc.aio.Server], None], Any]] = [
            ("query", self.query, query_rpc.add_QueryServiceServicer_to_server, query_pb),
            ("ingestion", self.ingestion, ingestion_rpc.add_IngestionServiceServicer_to_server, ingestion_pb),
            ("retrieval", FakeRetrieval(), retrieval_rpc.add_RetrievalServiceServicer_to_server, retrieval_pb),
            ("generation", FakeGeneration(), generation_rpc.add_GenerationServiceServicer_to_server, generation_pb),
        ]
        if self.monitoring is not None:
            added = monitoring_rpc.add_MonitoringServiceServicer_to_server
            services.append(("monitoring", self.monitoring, added, monitoring_pb))
        # Nobody may listen on port 1 without asking.
        self.environment |= {f"GROUNDWIRE_ADDRESSES__{name.upper()}": "127.0.0.1:1" for name in ("audit", "monitoring")}
        for name, servicer, add, pb in services:
            settings = Settings(data_dir=directory)
            server = Server(_service(name, servicer, add, pb), settings, development_identity(settings))
            await server.start("127.0.0.1:0")
            self.servers.append(server)
            self.environment[f"GROUNDWIRE_ADDRESSES__{name.upper()}"] = f"127.0.0.1:{server.port}"

    async def stop(self) -> None:
        for server in self.servers:
            await server.drain(delay=0, grace=0)


def _service(name: str, servicer: object, add: Callable[[Any, grpc.aio.Server], None], pb: Any) -> Service:
    nothing: Callable[[], Awaitable[None]] = _nothing
    return Service(
        name=name,
        descriptors=[pb.DESCRIPTOR.services_by_name[f"{name.capitalize()}Service"]],
        register=lambda server: add(servicer, server),
        ready=nothing,
        close=nothing,
        recorder=memory_recorder(name)[0],
        max_request_bytes=64 * MIB,
    )


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncIterator[tuple[Fakes, FakeMonitoring]]:
    """Fakes with a monitoring service."""
    found = Fakes(monitoring=(monitoring := FakeMonitoring()))
    await found.start(tmp_path / "data")
    yield found, monitoring
    await found.stop()


@pytest.fixture
async def fakes(tmp_path: Path) -> AsyncIterator[Fakes]:
    found = Fakes()
    await found.start(tmp_path / "data")
    yield found
    await found.stop()


# --- ask ------------------------------------------------------------------------------------------------------------


async def test_an_answer_in_text_shows_what_it_rests_on(fakes: Fakes) -> None:
    ended = await run("ask", "hotel?", "-f", "year=2025", "-c", "travel", environment=fakes.environment)
    assert (ended.code, ended.err) == (0, "")
    golden("ask", ended.out)
    request = fakes.query.requests[0]
    assert (request.query, list(request.collections)) == ("hotel?", ["travel"])
    assert request.context_filters.equals.value.number_value == 2025


async def test_an_answer_in_json_is_the_contracts_response(fakes: Fakes) -> None:
    ended = await run("ask", "reset", "--output", "json", environment=fakes.environment)
    document = json.loads(ended.out)
    assert (document["answer"], document["abstained"], document["sources"][0]["document_id"]) == (
        _ANSWER,
        False,
        "travel",
    )


async def test_a_question_can_come_from_stdin_and_without_streaming(fakes: Fakes) -> None:
    ended = await run("ask", "-", "--no-stream", environment=fakes.environment, stdin=b"hotel?\n")
    assert ended.code == 0
    assert ended.out.startswith(_ANSWER)
    assert fakes.query.requests[0].query == "hotel?"


async def test_an_abstention_is_shown_as_one_and_is_no_failure(fakes: Fakes) -> None:
    ended = await run("ask", "abstain", environment=fakes.environment)
    assert ended.code == 0
    assert "No answer is given: documents were found, but none supports an answer." in ended.out


async def test_piped_output_never_holds_what_was_reset(fakes: Fakes) -> None:
    ended = await run("ask", "reset", environment=fakes.environment)
    assert "WRONG" not in ended.out
    assert ended.out.startswith(_ANSWER)


async def test_a_terminal_takes_back_what_was_reset(fakes: Fakes) -> None:
    ended = await run_on_a_terminal("ask", "reset", environment=fakes.environment)
    assert ended.code == 0
    before, erased, after = ended.out.partition("\r\x1b[J")
    assert "WRONG" in before
    assert erased
    assert "WRONG" not in after
    assert "\x1b[36m[1]" in after


async def test_no_color_means_no_colours(fakes: Fakes) -> None:
    ended = await run_on_a_terminal("ask", "hotel?", environment=fakes.environment | {"NO_COLOR": "1"})
    assert ended.code == 0
    assert "\x1b[3" not in ended.out.replace("\x1b[3m", "")


async def test_a_missing_store_is_told(fakes: Fakes) -> None:
    ended = await run("ask", "degraded", environment=fakes.environment)
    assert "warning: not every store answered, so documents may be missing: archive (no answer in 2 s)" in ended.out


async def test_a_documents_title_cannot_control_the_terminal(fakes: Fakes) -> None:
    ended = await run_on_a_terminal("ask", "hostile", environment=fakes.environment)
    assert "\x1b]0;" not in ended.out
    assert "[bold]Travel[/bold]" in ended.out


async def test_a_stream_that_ends_too_early_is_a_failure(fakes: Fakes) -> None:
    ended = await run("ask", "cut", environment=fakes.environment)
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith("error: the query service ended the stream")


@pytest.mark.parametrize(
    ("query", "code", "parts"),
    [
        ("invalid", 4, ("refused the request", "  query: is too long", "  top_k: is too large")),
        ("busy", 3, ("too many calls; try again in 7 s",)),
        ("down", 3, ("no vector store answered; try again in 2 s",)),
        ("denied", 4, ("you may not do this",)),
        ("unknown", 4, ("does not know you",)),
        ("defect", 1, ("internal error", "request id")),
    ],
)
async def test_refusals_say_what_to_do(fakes: Fakes, query: str, code: int, parts: Sequence[str]) -> None:
    ended = await run("ask", query, environment=fakes.environment)
    assert (ended.code, ended.out) == (code, "")
    assert ended.err.startswith("error: ")
    assert all(part in ended.err for part in parts)
    assert "Traceback" not in ended.err
    assert "secret detail" not in ended.err


async def test_a_service_that_is_not_there_is_told_apart() -> None:
    ended = await run("ask", "x", "--address", "127.0.0.1:1", environment={"http_proxy": "http://127.0.0.1:2"})
    assert ended.code == 3
    assert ended.err == (
        "error: cannot reach the query service at 127.0.0.1:1; "
        "start it with `groundwire up`, or say where it is with --address\n"
    )


@pytest.mark.parametrize("command", [("up",), ("serve", "query"), ("serve", "retrieval")], ids=" ".join)
async def test_a_protocol_that_is_not_spoken_is_told_once_before_anything_starts(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    environment = {"GROUNDWIRE_DATA_DIR": str(tmp_path / "data"), "GROUNDWIRE_RETRIEVAL__WORKERS": "2"}
    ended = await run(*command, environment=environment | {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"})
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == (
        "error: OTEL_EXPORTER_OTLP_PROTOCOL: 'http/json' is not spoken here; set it to grpc or http/protobuf\n"
    )
    assert not (tmp_path / "data").exists()


async def test_the_environments_web_proxy_is_not_asked(fakes: Fakes) -> None:
    proxy = {"http_proxy": "http://127.0.0.1:1", "https_proxy": "http://127.0.0.1:1"}
    assert (await run("ask", "hotel?", environment=fakes.environment | proxy)).code == 0


# --- search and status ----------------------------------------------------------------------------------------------


async def test_search_shows_the_score_of_every_stage(fakes: Fakes) -> None:
    ended = await run("search", "hotel", environment=fakes.environment)
    assert ended.code == 0
    golden("search", ended.out)


async def test_status_names_what_does_not_serve(fakes: Fakes) -> None:
    ended = await run("status", "--output", "json", environment=fakes.environment)
    document = json.loads(ended.out)
    states = {service["service"]: service["state"] for service in document["services"]}
    assert ended.code == 3
    assert states["query"] == "healthy"
    assert states["audit"] == states["store"] == "unhealthy"
    assert not document["monitoring"]
    assert document["stores"][0]["name"] == "main"
    assert document["endpoints"][0]["name"] == "extractive"


async def test_status_shows_what_monitoring_knows(watched: tuple[Fakes, FakeMonitoring]) -> None:
    ended = await run("status", environment=watched[0].environment)
    assert (ended.code, ended.err) == (3, "")
    golden("status", ended.out)


@pytest.mark.parametrize("width", [80, 120])
async def test_status_fits_on_a_terminal(watched: tuple[Fakes, FakeMonitoring], width: int) -> None:
    environment = watched[0].environment | {"COLUMNS": str(width), "NO_COLOR": "1"}
    ended = await run_on_a_terminal("status", environment=environment)
    shown = re.sub(r"\x1b\[[0-9;]*m| +$", "", ended.out, flags=re.MULTILINE)
    assert max(map(len, shown.splitlines())) <= width
    golden(f"status_{width}", shown)


async def test_a_service_is_asked_where_the_command_line_says(watched: tuple[Fakes, FakeMonitoring]) -> None:
    ended = await run("status", "-o", "json", "--address", "query=127.0.0.1:1", environment=watched[0].environment)
    query, retrieval = json.loads(ended.out)["services"]
    assert (query["state"], query["detail"]) == ("unhealthy", "nothing answers there")
    assert retrieval["endpoints"][1]["in_flight"] == 3


async def test_without_monitoring_status_says_that_it_asked_everybody(fakes: Fakes) -> None:
    ended = await run("status", environment=fakes.environment)
    assert "service\tquery\thealthy\n" in ended.out
    assert ended.err == "monitoring does not tell: each service was asked, and knows only of itself\n"


# --- status --watch -------------------------------------------------------------------------------------------------


@asynccontextmanager
async def watching(*arguments: str, environment: dict[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "cli.main", "status", "--watch", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=_environment(environment),
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def _line(process: asyncio.subprocess.Process) -> str:
    """The next line, without its time."""
    assert process.stdout is not None
    line = (await process.stdout.readline()).decode()
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00 ", line), line
    return line.partition(" ")[2].rstrip("\n")


async def _line_with(process: asyncio.subprocess.Process, words: str) -> str:
    while words not in (line := await _line(process)):
        pass
    return line


async def test_a_watch_tells_each_change_and_ends_with_ctrl_c(watched: tuple[Fakes, FakeMonitoring]) -> None:
    fakes, monitoring = watched
    async with watching(environment=fakes.environment) as process:
        assert await _line(process) == "query is healthy"
        assert await _line(process) == "retrieval is degraded: 10.0.0.1:52: it does not answer in time"
        await _line_with(process, "LLM endpoint extractive is healthy")
        recovered = _topology()
        recovered[0].status = monitoring_pb.SERVICE_HEALTH_HEALTHY
        recovered[0].error_message = ""
        recovered[0].endpoints[0].CopyFrom(_endpoint(52, breaker="half-open", zone="a"))
        monitoring.says(recovered)
        assert await _line(process) == "retrieval is healthy, was degraded"
        assert await _line(process) == "retrieval at 10.0.0.1:52 has a breaker that is half-open, was open"
        assert await _line(process) == "retrieval at 10.0.0.1:52 is healthy, was unhealthy"
        assert await _line(process) == "retrieval at 10.0.0.1:52 serves"
        process.send_signal(signal.SIGINT)
        rest, _ = await process.communicate()
        assert (process.returncode, rest) == (130, b"")


async def test_a_watch_in_json_is_an_object_a_line(watched: tuple[Fakes, FakeMonitoring]) -> None:
    async with watching("-o", "json", environment=watched[0].environment) as process:
        assert process.stdout is not None
        first = json.loads(await process.stdout.readline())
        second = json.loads(await process.stdout.readline())
    assert first.pop("time").endswith("+00:00")
    assert first == {
        "kind": "service", "name": "query", "address": "", "what": "state", "before": None, "after": "healthy",
        "detail": "",
    }  # fmt: skip
    assert (second["name"], second["after"]) == ("retrieval", "degraded")


async def test_a_watch_says_when_monitoring_is_lost_and_back(watched: tuple[Fakes, FakeMonitoring]) -> None:
    fakes, monitoring = watched
    async with watching(environment=fakes.environment) as process:
        await _line_with(process, "retrieval is degraded")
        monitoring.says(None)
        lost = await _line_with(process, "monitoring is lost")
        assert lost == (
            "monitoring is lost: monitoring is not ready; the services themselves are asked until it is back"
        )
        # Asked itself, a service knows nothing of its endpoints.
        assert await _line_with(process, "retrieval is") == "retrieval is healthy, was degraded"
        monitoring.says(_topology())
        await _line_with(process, "monitoring is back")
        await _line_with(process, "retrieval is degraded, was healthy: 10.0.0.1:52")
        assert monitoring.watches >= 2


async def test_a_watch_notices_that_monitoring_is_frozen(watched: tuple[Fakes, FakeMonitoring]) -> None:
    fakes, monitoring = watched
    async with watching("--timeout", "1", environment=fakes.environment) as process:
        await _line_with(process, "retrieval is degraded")
        # The watch stands all the same.
        monitoring.goes_on.clear()
        await _line_with(process, "monitoring is lost: it does not answer in time")
        monitoring.goes_on.set()
        await _line_with(process, "monitoring is back")


async def test_a_watch_before_anything_runs_waits_for_it(fakes: Fakes) -> None:
    async with watching(environment=fakes.environment) as process:
        await _line_with(process, "monitoring is lost: nothing answers there")
        await _line_with(process, "query is healthy")
        await _line_with(process, "audit is unhealthy: nothing answers there")


async def test_a_watch_that_is_refused_ends(watched: tuple[Fakes, FakeMonitoring]) -> None:
    watched[1].refused = True
    ended = await run("status", "--watch", environment=watched[0].environment)
    assert ended.code == 4
    assert "you may not do this" in ended.err


async def test_a_watch_draws_on_a_terminal_and_gives_it_back(watched: tuple[Fakes, FakeMonitoring]) -> None:
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "cli.main", "status", "--watch"),
        stdout=theirs,
        stderr=theirs,
        env=_environment(watched[0].environment),
    )
    os.close(theirs)
    shown = ""
    while "Ctrl-C ends" not in shown or "10.0.0.1:62" not in shown:
        shown += (await asyncio.to_thread(os.read, ours, 65536)).decode()
    assert "\x1b[?25l" in shown, "the cursor is hidden"
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(OSError):
        while block := await asyncio.to_thread(os.read, ours, 65536):
            shown += block.decode()
    assert await process.wait() == 130
    os.close(ours)
    assert shown.rpartition("\x1b[?25")[2].startswith("h"), "the cursor is back"
    assert "Traceback" not in shown


# --- ingest ---------------------------------------------------------------------------------------------------------


async def test_ingest_reports_each_failure_with_its_file(fakes: Fakes, tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    for name in ("a.md", "bad.pdf", "c.txt", "empty.md"):
        (folder / name).write_text("" if name == "empty.md" else name)
    ended = await run("ingest", str(folder), "--readers", "tenant:*", environment=fakes.environment)
    assert ended.code == 1
    *failures, summary = ended.out.splitlines()
    assert failures == [
        "EMPTY\tempty.md\tThe file is empty.",
        "ENCRYPTED\tbad.pdf\tThe document is protected by a password; remove it and send it again.",
    ]
    assert summary.endswith("2 documents failed: 1 EMPTY, 1 ENCRYPTED")
    sent = [document for request in fakes.ingestion.requests for document in request.documents]
    assert sorted(document.document_id for document in sent) == ["a.md", "bad.pdf", "c.txt"]
    assert {tuple(document.access.readers) for document in sent} == {("tenant:*",)}


async def test_a_failure_is_one_line_whatever_the_file_is_called(fakes: Fakes, tmp_path: Path) -> None:
    names = ["two\nlines.md", "a\tcolumn.md", "back\rspace.md"]
    for name in names:
        (tmp_path / name).touch()
    ended = await run("ingest", str(tmp_path), "--readers", "tenant:*", environment=fakes.environment)
    assert ended.out.splitlines()[:-1] == [
        f"EMPTY\t{name}\tThe file is empty." for name in ("a\\tcolumn.md", "back\\rspace.md", "two\\nlines.md")
    ]
    ended = await run("ingest", str(tmp_path), "-o", "json", environment=fakes.environment)
    assert [result["path"] for result in json.loads(ended.out)["results"]] == sorted(names)


async def test_ingest_without_readers_sends_none_and_says_so(fakes: Fakes, tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("a")
    ended = await run("ingest", str(tmp_path / "a.md"), "-o", "json", environment=fakes.environment)
    assert ended.code == 0
    assert json.loads(ended.out)["results"][0]["document_id"] == "a.md"
    assert not fakes.ingestion.requests[0].documents[0].HasField("access")
    assert ended.err == (
        "note: no readers given for 1 document: the collection's default readers may read them, and you may be none of "
        "those; if it has none, you alone; --readers tenant:* lets everybody\n"
    )


async def test_ingest_bounds_its_batches_in_number_and_bytes(fakes: Fakes, tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    for n in range(300):
        (folder / f"{n:03}.md").write_text("x")
    for n in range(3):
        (folder / f"large-{n}.md").write_text("x" * 5 * MIB)
    ended = await run("ingest", str(folder), "-o", "json", environment=fakes.environment)
    assert ended.code == 0
    assert [result["path"] for result in json.loads(ended.out)["results"]] == sorted(
        path.name for path in folder.iterdir()
    )
    sizes = [[len(document.content) for document in request.documents] for request in fakes.ingestion.requests]
    assert sum(map(len, sizes)) == 303
    assert max(map(len, sizes)) == 16
    assert max(map(sum, sizes)) <= 8 * MIB


async def test_ingest_waits_for_a_busy_service(fakes: Fakes, tmp_path: Path) -> None:
    fakes.ingestion.busy = 3
    (tmp_path / "a.md").write_text("a")
    ended = await run("ingest", str(tmp_path / "a.md"), environment=fakes.environment)
    assert ended.code == 0


# --- delete ---------------------------------------------------------------------------------------------------------


async def test_delete_prints_its_receipt_and_asks_nobody_where_nobody_is(fakes: Fakes) -> None:
    ended = await run("delete", "travel", "--collection", "hr", environment=fakes.environment)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines() == [
        "catalog\t1\t0\t2026-05-17T12:30:15Z",
        "store\t3\t0\t2026-05-17T12:30:15Z",
        f"hr/travel is deleted and nothing of it is left · receipt {'0f' * 16}",
    ]
    assert fakes.ingestion.deleted == [("hr", "travel")]


async def test_delete_says_what_is_not_erased_yet(fakes: Fakes) -> None:
    ended = await run("delete", "stuck", environment=fakes.environment)
    assert ended.code == 0
    assert ended.out.splitlines()[1] == "store\t0\t3\tnot yet"
    assert "nobody can read it any more" in ended.out
    told = json.loads((await run("delete", "stuck", "-o", "json", environment=fakes.environment)).out)
    assert (told["receipt_id"], "complete_time" in told) == ("0f" * 16, False)
    assert told["steps"][1] == {"place": "store", "removed": "0", "remaining": "3"}


@pytest.mark.parametrize(
    ("arguments", "typed", "code"),
    [
        ([], "y\n", 0),
        ([], "YES\n", 0),
        ([], "n\n", 2),
        ([], "\n", 2),
        (["--yes"], "", 0),
    ],
)
async def test_delete_asks_on_a_terminal_unless_told_not_to(
    fakes: Fakes, arguments: list[str], typed: str, code: int
) -> None:
    ended = await run_on_a_terminal("delete", "travel", *arguments, environment=fakes.environment, typed=typed)
    assert ended.code == code, ended.out
    assert ("Delete travel for good? [y/N]" in ended.out) == (not arguments)
    assert fakes.ingestion.deleted == ([] if code else [("", "travel")])
    assert ("Place" in ended.out) == (not code)
    assert ("nothing was deleted" in ended.out) == bool(code)


async def test_delete_of_somebody_elses_document_is_refused(fakes: Fakes) -> None:
    ended = await run("delete", "others", environment=fakes.environment)
    assert (ended.code, ended.out) == (4, "")
    assert "only the document's owner or an administrator may delete it" in ended.err


# --- the command line itself ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["frobnicate"], "No such command"),
        (["ask"], "Missing argument"),
        (["ask", "x", "--top-k", "many"], "--top-k"),
        (["ask", "x", "--filter", "year"], "KEY=VALUE"),
        (["ask", "x", "--address", "nowhere"], "HOST:PORT"),
        (["ingest"], "nothing to ingest"),
        (["ingest", "no-such-folder"], "is not there"),
        (["ingest", ".", "--readers", "everybody"], "--readers cannot be used"),
        (["serve", "everything"], "there is no service"),
        (["--config", "no-such.toml", "status"], "no-such.toml: cannot be read"),
    ],
)
def test_wrong_usage_is_one_line_and_code_two(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli_main.main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert told in shown.err


async def test_an_error_on_a_terminal_is_broken_between_words(fakes: Fakes) -> None:
    told = "error: no-such-folder-of-a-name-that-is-long-enough is not there; name a file or\n  a folder\n"
    command = ("ingest", "no-such-folder-of-a-name-that-is-long-enough")
    ended = await run_on_a_terminal(*command, environment={**fakes.environment, "COLUMNS": "80"})
    assert (ended.code, ended.out) == (2, told)


@pytest.mark.parametrize(("given", "told"), [(b"", "stdin was empty"), (b"caf\xe9", "not text in UTF-8")])
async def test_a_question_from_stdin_is_text(fakes: Fakes, given: bytes, told: str) -> None:
    ended = await run("ask", "-", environment=fakes.environment, stdin=given)
    assert (ended.code, ended.out) == (2, "")
    assert told in ended.err


async def test_words_that_are_no_text_are_wrong_usage(fakes: Fakes) -> None:
    ended = await run("ask", "hotel?", "--session", "\udcff", environment=fakes.environment)
    assert (ended.code, ended.err) == (2, "error: '\\udcff' is not text in UTF-8\n")
    # A question is taken as UTF-8, whatever the locale made of it.
    await run("ask", "Geb\udcc3\udcbchr?", environment=fakes.environment)
    assert fakes.query.requests[-1].query == "Gebühr?"


def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("GROUNDWIRE_QUERRY__TIMEOUT", "1")
    assert cli_main.main(["status"]) == 2
    assert capsys.readouterr().err == "error: GROUNDWIRE_QUERRY__TIMEOUT: no such setting\n"


def test_every_command_has_help_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("demo", "up", "serve", "ingest", "ask", "search", "delete", "certs", "status", "doctor"):
        assert cli_main.main([command, "--help"]) == 0
        assert f"groundwire {command}" in capsys.readouterr().out
    assert cli_main.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert "Exit codes" in shown
    assert "_mesh" not in shown


async def test_help_imports_nothing_that_takes_long() -> None:
    code = (
        "import sys, cli.main; cli.main.main(['--help']); "
        "heavy = {'grpc', 'onnxruntime', 'chromadb', 'numpy', 'pydantic'} & set(sys.modules); "
        "heavy |= {name for name in sys.modules if name.startswith('services.')} - {'services.corpus', "
        "'services.corpus.cleaning'}; "
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        code,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=_environment({}),
    )
    _, err = await process.communicate()
    assert (process.returncode, err.decode()) == (0, "")


async def test_a_command_does_not_collect_at_its_end_what_it_imported() -> None:
    code = (
        "import gc, sys, cli.main; sys.argv = ['groundwire', '--version']; "
        "code = cli.main.run(); sys.exit(code or gc.get_freeze_count() == 0)"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.DEVNULL, env=_environment({})
    )
    assert await process.wait() == 0


async def test_services_without_models_and_documents_import_none_of_what_handles_them() -> None:
    code = (
        "import sys, cli.serve; from cli.services import assembly, settings_class; "
        "[load(name) for name in ('audit', 'witness', 'monitoring', 'query') for load in (settings_class, assembly)]; "
        "heavy = {'onnxruntime', 'chromadb', 'numpy', 'sqlalchemy', 'httpx', 'tantivy'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stderr=asyncio.subprocess.PIPE, env=_environment({})
    )
    _, err = await process.communicate()
    assert (process.returncode, err.decode()) == (0, "")


async def test_a_reader_that_has_had_enough_is_no_error(fakes: Fakes) -> None:
    read, write = os.pipe()
    os.close(read)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "cli.main",
        "ask",
        "hotel?",
        stdout=write,
        stderr=asyncio.subprocess.PIPE,
        env=_environment(fakes.environment),
    )
    os.close(write)
    _, err = await process.communicate()
    assert err == b""
    assert process.returncode == 1


@pytest.fixture(autouse=True)
def _plain_console(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.delenv("FORCE_COLOR", raising=False)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("up", "--data-dir", ""), "--data-dir: is empty"),
        (("status", "--data-dir", ""), "--data-dir: is empty"),
        (("keys", "list", "--data-dir", ""), "--data-dir: is empty"),
        (("token", "--subject", ""), "--subject: is empty"),
        (("ingest", ".", "--readers", ""), "--readers is empty; name who may read, such as user:ann"),
        (("collections", "create", "hr", "--readers", " , "), "--readers is empty; name who may read"),
        (("collections", "update", "hr", "--readers", ""), "cannot lose all of them again"),
    ],
)
async def test_what_an_unset_variable_leaves_is_refused(command: tuple[str, ...], said: str) -> None:
    ended = await run(*command, environment={})
    assert (ended.code, ended.out) == (2, "")
    assert said in ended.err.replace("'", "").replace("Invalid value for ", "")
