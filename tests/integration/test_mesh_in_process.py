"""The real services, together: documents go in over gRPC, questions are answered over gRPC."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import grpc
import pytest
from google.protobuf import descriptor_pool

from groundwire.common.v1 import core_pb2, filter_pb2
from groundwire.generation.v1 import generation_service_pb2 as generation_pb
from groundwire.ingestion.v1 import ingestion_service_pb2 as ingestion_pb
from groundwire.monitoring.v1 import monitoring_service_pb2 as monitoring_pb
from groundwire.query.v1 import query_service_pb2 as query_pb
from groundwire.retrieval.v1 import retrieval_service_pb2 as retrieval_pb
from services.audit.servicer import AuditServicer
from services.ingestion.servicer import IngestionServicer
from services.monitoring.servicer import MonitoringServicer
from services.query.servicer import QueryServicer
from services.runtime.unbuilt import unbuilt_methods
from services.vectorstores.memory import MemoryVectorStore
from services.vectorstores.ports import Partition, StoredChunk, StoreHit, Vector
from tests.support.mesh import GROUP, Mesh, ended, open_mesh
from tests.support.serving import running_out_of_time, until

EVERYBODY = core_pb2.Access(readers=["tenant:*"])
UNBUILT = {
    f"{servicer.__name__.removesuffix('Servicer')}Service": unbuilt_methods(servicer)
    for servicer in (AuditServicer, IngestionServicer, MonitoringServicer, QueryServicer)
}
GARAGE = "# Parking\n\nThe garage has 38 parking spaces.\n\n# Opening\n\nIt opens at six in the morning.\n"


def text(document_id: str, content: str, readers: Sequence[str] = ("tenant:*",)) -> ingestion_pb.DocumentInput:
    return ingestion_pb.DocumentInput(
        document_id=document_id, content=content.encode(), access=core_pb2.Access(readers=readers)
    )


DOCUMENTS = [
    ingestion_pb.DocumentInput(
        document_id="garage",
        uri="https://intranet/garage.md",
        content=GARAGE.encode(),
        access=EVERYBODY,
        metadata={"site": filter_pb2.MetadataValue(string_value="north")},
    ),
    ingestion_pb.DocumentInput(
        document_id="canteen",
        media_type="text/html",
        content=b"<html><head><title>Canteen</title></head><body><p>Lunch costs 4.50 euros.</p></body></html>",
        access=core_pb2.Access(readers=[f"group:{GROUP}"]),
    ),
    text("own", "My locker is number 12.", ["user:alice"]),
    text("merger", "The merger with Initech and its parking spaces are secret.", ["user:carol", "group:board"]),
    text("closed", "Nobody at all may read about parking spaces here.", []),
]


@pytest.fixture
async def mesh(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Mesh]:
    # A machine that is busy with other tests must not make the store seem to be away.
    monkeypatch.setenv("GROUNDWIRE_RETRIEVAL__STORE_TIMEOUT", "60")
    async with open_mesh() as mesh:
        yield mesh


async def ingest(mesh: Mesh, *documents: ingestion_pb.DocumentInput) -> ingestion_pb.IngestDocumentsResponse:
    return await mesh.ingestion.IngestDocuments(ingestion_pb.IngestDocumentsRequest(documents=documents))


def folded(events: Sequence[query_pb.QueryEvent]) -> str:
    shown = ""
    for event in events:
        match event.WhichOneof("event"):
            case "delta":
                shown += event.delta.text
            case "reset":
                shown = ""
    return shown


async def test_documents_go_in_and_a_question_comes_back_answered(mesh: Mesh) -> None:
    taken = await ingest(mesh, *DOCUMENTS)
    assert (taken.processed, taken.failed) == (5, 0), taken
    assert list(taken.document_ids) == ["garage", "canteen", "own", "merger", "closed"]
    answer = await mesh.query.Query(query_pb.QueryRequest(query="How many parking spaces does the garage have?"))
    assert "38 parking spaces" in answer.answer
    assert not answer.abstained
    assert answer.endpoint == "extractive"
    cited = answer.sources[0]
    assert (cited.cited, cited.document_id, cited.version, cited.uri) == (
        True,
        "garage",
        1,
        "https://intranet/garage.md",
    )
    assert GARAGE[cited.start_offset : cited.end_offset] == cited.snippet
    assert cited.marker in answer.answer
    assert [store.state for store in answer.coverage.stores] == [core_pb2.StoreCoverage.STATE_ANSWERED]
    assert 0 < answer.confidence <= 1


async def test_every_source_shows_words_of_its_document(mesh: Mesh) -> None:
    await ingest(mesh, *DOCUMENTS)
    answer = await mesh.query.Query(query_pb.QueryRequest(query="What does lunch cost, and when does the garage open?"))
    texts = {"garage": GARAGE, "canteen": "Lunch costs 4.50 euros.", "own": "My locker is number 12."}
    assert answer.sources
    for source in answer.sources:
        assert texts[source.document_id][source.start_offset : source.end_offset] == source.snippet


@pytest.mark.parametrize("question", ["How many parking spaces does the garage have?", "Zebra crossings on Mars?"])
async def test_a_stream_ends_with_what_it_showed(mesh: Mesh, question: str) -> None:
    await ingest(mesh, *DOCUMENTS)
    events = [event async for event in mesh.query.StreamQuery(query_pb.QueryRequest(query=question))]
    kinds = [event.WhichOneof("event") for event in events]
    assert (kinds[0], kinds[-1], kinds.count("final")) == ("retrieval", "final", 1)
    assert folded(events) == events[-1].final.answer
    assert events[-1].final.answer


async def test_what_a_caller_may_not_read_never_shows(mesh: Mesh) -> None:
    await ingest(mesh, *DOCUMENTS)
    question = "Which merger and parking spaces are secret?"
    found = await mesh.retrieval.Retrieve(retrieval_pb.RetrieveRequest(query=question, top_k=100))
    events = [event async for event in mesh.query.StreamQuery(query_pb.QueryRequest(query=question, top_k=50))]
    listed = await mesh.ingestion.ListDocuments(ingestion_pb.ListDocumentsRequest())
    readable = {"garage", "canteen", "own"}
    assert {chunk.chunk.document_id for chunk in found.chunks} == readable
    assert {source.document_id for source in events[0].retrieval.sources} == readable
    assert {document.document_id for document in listed.documents} == readable
    everything = b"".join(event.SerializeToString() for event in events) + found.SerializeToString()
    assert b"Initech" not in everything
    hidden = await ended(mesh.ingestion.GetDocument(ingestion_pb.GetDocumentRequest(document_id="merger")))
    unknown = await ended(mesh.ingestion.GetDocument(ingestion_pb.GetDocumentRequest(document_id="nowhere")))
    assert (
        (hidden.code, hidden.details)
        == (unknown.code, unknown.details)
        == (grpc.StatusCode.NOT_FOUND, "no such document")
    )


async def test_access_changes_take_effect_with_the_next_question(mesh: Mesh) -> None:
    await ingest(mesh, *DOCUMENTS)
    request = retrieval_pb.RetrieveRequest(query="parking spaces", top_k=100)

    async def found() -> set[str]:
        return {chunk.chunk.document_id for chunk in (await mesh.retrieval.Retrieve(request)).chunks}

    assert "garage" in await found()
    changed = await mesh.ingestion.UpdateDocumentAccess(
        ingestion_pb.UpdateDocumentAccessRequest(document_id="garage", access=core_pb2.Access(readers=["group:board"]))
    )
    assert list(changed.document.access.readers) == ["group:board"]
    assert "garage" not in await found()
    await ingest(mesh, text("garage", "Parking spaces for everybody."))
    assert "garage" in await found()


async def test_a_filter_narrows_and_a_new_version_replaces(mesh: Mesh) -> None:
    await ingest(mesh, *DOCUMENTS)
    north = filter_pb2.Filter(
        equals=filter_pb2.Comparison(key="site", value=filter_pb2.MetadataValue(string_value="north"))
    )
    answer = await mesh.query.Query(query_pb.QueryRequest(query="parking spaces", context_filters=north))
    assert {source.document_id for source in answer.sources} == {"garage"}
    again = await ingest(mesh, DOCUMENTS[0])
    assert (again.results[0].unchanged, again.results[0].version) == (True, 1)
    replaced = await ingest(mesh, text("garage", "The garage has 40 parking spaces."))
    assert replaced.results[0].version == 2
    answer = await mesh.query.Query(query_pb.QueryRequest(query="How many parking spaces does the garage have?"))
    assert "40 parking spaces" in answer.answer
    assert {s.version for s in answer.sources if s.document_id == "garage"} == {2}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("handbook.pdf", ingestion_pb.FAILURE_REASON_UNSPECIFIED),
        ("password.pdf", ingestion_pb.FAILURE_REASON_ENCRYPTED),
        ("scan.pdf", ingestion_pb.FAILURE_REASON_NO_TEXT),
    ],
)
async def test_files(mesh: Mesh, repository: Path, name: str, reason: ingestion_pb.FailureReason.ValueType) -> None:
    content = (repository / "tests/fixtures/parsing" / name).read_bytes()
    response = await ingest(mesh, ingestion_pb.DocumentInput(uri=name, content=content), text("good", "Good news."))
    assert [result.failure_reason for result in response.results] == [reason, ingestion_pb.FAILURE_REASON_UNSPECIFIED]
    assert (response.results[0].document_id in response.document_ids) == (not reason)


async def test_a_document_under_many_long_headings_answers(mesh: Mesh) -> None:
    headings = "\n\n".join(f"{'#' * level} {'Very long heading ' * 12}{level}" for level in range(1, 7))
    title = "t" * 512
    document = ingestion_pb.DocumentInput(
        document_id="deep",
        title=title,
        media_type="text/markdown",
        content=f"{headings}\n\nThe vault is blue.".encode(),
    )
    await ingest(mesh, document)
    answer = await mesh.query.Query(query_pb.QueryRequest(query="Which colour is the vault?"))
    assert answer.sources[0].document_id == "deep"


async def test_nothing_found_is_an_abstention(mesh: Mesh) -> None:
    answer = await mesh.query.Query(query_pb.QueryRequest(query="How many parking spaces?"))
    assert (answer.abstained, answer.abstention_reason) == (True, query_pb.ABSTENTION_REASON_NOTHING_FOUND)
    assert not answer.sources


# --- what holds for every call ---------------------------------------------------------------------------------------


class HangingStore(MemoryVectorStore):
    """A store that never comes back by itself once it is told to ``hang``; ``under_way`` counts calls."""

    def __init__(self) -> None:
        super().__init__()
        self.hang = False
        self.under_way = 0
        self.go_on = asyncio.Event()

    async def _pause(self) -> None:
        self.under_way += 1
        try:
            if self.hang:
                await self.go_on.wait()
        finally:
            self.under_way -= 1

    async def upsert_chunks(self, partition: Partition, chunks: Sequence[StoredChunk]) -> None:
        await self._pause()
        await super().upsert_chunks(partition, chunks)

    async def search_dense(
        self, partition: Partition, vector: Vector, limit: int, reader_sets: frozenset[int] | None
    ) -> list[StoreHit]:
        await self._pause()
        return await super().search_dense(partition, vector, limit, reader_sets)

    async def search_lexical(
        self, partition: Partition, terms: Sequence[str], limit: int, reader_sets: frozenset[int] | None
    ) -> list[StoreHit]:
        await self._pause()
        return await super().search_lexical(partition, terms, limit, reader_sets)


@pytest.mark.parametrize("leave", ["cancel", "deadline"])
@pytest.mark.parametrize("method", ["Query", "StreamQuery"])
async def test_a_caller_that_leaves_ends_the_work_of_the_last_service(leave: str, method: str) -> None:
    store = HangingStore()
    async with open_mesh(vectors=store) as mesh:
        await ingest(mesh, *DOCUMENTS)
        store.hang = True
        stub = getattr(mesh.query, method)
        question = query_pb.QueryRequest(query="parking")
        if leave == "cancel":
            call = stub(question)
            reading = asyncio.ensure_future(ended(call))
            await until(lambda: store.under_way == 2)
            call.cancel()
        else:
            reading = await running_out_of_time(
                lambda seconds: asyncio.ensure_future(ended(stub(question, timeout=seconds))),
                lambda: store.under_way == 2,
            )
        await until(lambda: store.under_way == 0)
        if leave == "cancel":
            with pytest.raises(asyncio.CancelledError):
                await reading
        else:
            # Whoever notices first that the time is over says so.
            assert (await reading).code in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE)
        store.hang = False
        assert (await ended(mesh.query.Query(query_pb.QueryRequest(query="parking")))).code is grpc.StatusCode.OK


async def test_a_batch_that_runs_out_of_time_says_what_it_did() -> None:
    store = HangingStore()
    async with open_mesh(vectors=store) as mesh:
        store.hang = True
        documents = [text("a", "About parking."), text("b", "")]
        request = ingestion_pb.IngestDocumentsRequest(documents=documents)
        response = await mesh.ingestion.IngestDocuments(request, timeout=3)
        reasons = [result.failure_reason for result in response.results]
        assert reasons == [ingestion_pb.FAILURE_REASON_NOT_REACHED, ingestion_pb.FAILURE_REASON_EMPTY]
        assert [result.retryable for result in response.results] == [True, False]
        store.go_on.set()
        repeated = await mesh.ingestion.IngestDocuments(request)
        assert [result.version for result in repeated.results] == [2, 0]


def _methods() -> list[tuple[str, str, str, bool]]:
    """Service's name, path, name of the method, whether it is unbuilt: everything that the contract has."""
    found: list[tuple[str, str, str, bool]] = []
    pool = descriptor_pool.Default()
    for name in ("audit", "generation", "ingestion", "monitoring", "query", "retrieval", "store"):
        service = pool.FindServiceByName(f"groundwire.{name}.v1.{name.capitalize()}Service")
        found.extend(
            (name, f"/{service.full_name}/{method.name}", method.name, method.name in UNBUILT.get(service.name, ()))
            for method in service.methods
        )
    return found


async def test_unbuilt_methods_and_only_those_say_so(mesh: Mesh) -> None:
    methods = _methods()
    assert len(methods) > 50
    assert sum(unbuilt for *_, unbuilt in methods) == 19
    for service, path, name, unbuilt in methods:
        # An empty message is a request of every method; a wrong one, for most.
        endless = name in ("WatchEvents", "WatchTopology")
        result = await mesh.raw(service, path, b"", timeout=0.5 if endless else 60)
        assert (result.code is grpc.StatusCode.UNIMPLEMENTED) == unbuilt, (path, result)
        assert (result.reason == "NOT_IMPLEMENTED") == unbuilt, (path, result)
        assert result.code not in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN), (path, result)
        # A deadline ends on the caller's side, too, and then there are no trailers.
        assert endless or re.fullmatch(r"[0-9a-f]{32}", str(result.trailing["x-request-id"])), name


async def test_the_request_id_comes_back_and_goes_along(mesh: Mesh) -> None:
    metadata = (("x-request-id", "my-request.7"),)
    good = await ended(mesh.query.Query(query_pb.QueryRequest(query="parking"), metadata=metadata))
    bad = await ended(mesh.query.Query(query_pb.QueryRequest(), metadata=metadata))
    unknown = await mesh.raw("query", "/groundwire.query.v1.QueryService/Nothing", b"", metadata=metadata)
    streamed = await ended(mesh.query.StreamQuery(query_pb.QueryRequest(query="parking"), metadata=metadata))
    for result in (good, bad, unknown, streamed):
        assert result.trailing["x-request-id"] == "my-request.7"
    assert good.responses[0].request_id == "my-request.7"
    assert (bad.code, unknown.code) == (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)


async def test_another_users_id_is_refused(mesh: Mesh) -> None:
    for stub in (mesh.query.Query, mesh.query.StreamQuery):
        result = await ended(stub(query_pb.QueryRequest(query="parking", user_id="mallory")))
        assert (result.code, result.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")
    assert (await ended(mesh.query.Query(query_pb.QueryRequest(query="p", user_id="alice")))).code is grpc.StatusCode.OK


# --- when a service is missing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("missing", "reason"),
    [
        ("store", "NO_STORE_ANSWERED"),
        ("retrieval", "DEPENDENCY_UNAVAILABLE"),
        ("generation", "DEPENDENCY_UNAVAILABLE"),
    ],
)
async def test_a_missing_service_is_unavailable_and_named(mesh: Mesh, missing: str, reason: str) -> None:
    await ingest(mesh, *DOCUMENTS)
    assert (await ended(mesh.query.Query(query_pb.QueryRequest(query="parking")))).code is grpc.StatusCode.OK
    await mesh.stop(missing)
    result = await ended(mesh.query.Query(query_pb.QueryRequest(query="parking")))
    assert (result.code, result.reason) == (grpc.StatusCode.UNAVAILABLE, reason)
    topology = await mesh.monitoring.GetTopology(monitoring_pb.GetTopologyRequest())
    states = {service.service_name: service.status for service in topology.services}
    assert states.pop(missing) == monitoring_pb.SERVICE_HEALTH_UNHEALTHY
    assert states["monitoring"] == states["audit"] == monitoring_pb.SERVICE_HEALTH_HEALTHY


async def test_the_topology_names_every_service(mesh: Mesh) -> None:
    # Readiness is found out by asking, and told a little later.
    healthy = monitoring_pb.SERVICE_HEALTH_HEALTHY
    async for seen in mesh.monitoring.WatchTopology(monitoring_pb.WatchTopologyRequest()):
        if {service.status for service in seen.services} == {healthy}:
            break
    topology = await mesh.monitoring.GetTopology(monitoring_pb.GetTopologyRequest())
    assert {service.status for service in topology.services} == {healthy}
    assert [service.service_name for service in topology.services] == sorted(mesh.addresses)
    for service in topology.services:
        (endpoint,) = service.endpoints
        assert (endpoint.address, endpoint.serving) == (mesh.addresses[service.service_name], True)


async def test_generation_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROUNDWIRE_GENERATION__CALLERS_MAY_BRING_PASSAGES", "true")
    passages = [generation_pb.Passage(passage_id="x", text="The garage has 38 parking spaces.")]
    async with open_mesh() as mesh:
        response = await mesh.generation.Generate(
            generation_pb.GenerateRequest(query="How many parking spaces has the garage?", passages=passages)
        )
    assert "38" in response.answer
    # Text goes to the endpoint as it came, so that its offsets hold.
    citation = response.citations[0]
    assert "38" in passages[0].text[citation.start_offset : citation.end_offset]
