"""Deleting over gRPC: out of reach with the answer, gone from the store whenever that answers, with a receipt."""

from __future__ import annotations

import grpc
import pytest

from groundwire.common.v1 import core_pb2
from groundwire.ingestion.v1 import ingestion_service_pb2 as pb
from groundwire.query.v1 import query_service_pb2 as query_pb
from groundwire.retrieval.v1 import retrieval_service_pb2 as retrieval_pb
from services.corpus.errors import Unavailable
from services.vectorstores.memory import MemoryVectorStore
from services.vectorstores.ports import Partition
from tests.support.mesh import Mesh, ended, open_mesh

QUESTION = "How many parking spaces does the garage have?"


class AwayStore(MemoryVectorStore):
    """A store that deletes nothing, and cannot count, while it is ``away``."""

    away = False

    async def count_chunks(
        self, partition: Partition, document_id: str | None = None, *, before_version: int | None = None
    ) -> int:
        self._answer()
        return await super().count_chunks(partition, document_id, before_version=before_version)

    async def delete_chunks(self, partition: Partition, document_id: str, *, before_version: int | None = None) -> int:
        self._answer()
        return await super().delete_chunks(partition, document_id, before_version=before_version)

    def _answer(self) -> None:
        if self.away:
            raise Unavailable("away")


async def ingest(mesh: Mesh, document_id: str, text: str, readers: tuple[str, ...] = ("tenant:*",)) -> None:
    document = pb.DocumentInput(document_id=document_id, content=text.encode(), access=core_pb2.Access(readers=readers))
    taken = await mesh.ingestion.IngestDocuments(pb.IngestDocumentsRequest(documents=[document]))
    assert taken.processed == 1


async def delete(mesh: Mesh, document_id: str) -> pb.ErasureReceipt:
    return (await mesh.ingestion.DeleteDocument(pb.DeleteDocumentRequest(document_id=document_id))).receipt


async def complete(mesh: Mesh, receipt_id: str) -> pb.ErasureReceipt:
    """The receipt once it is complete."""
    while True:
        request = pb.GetErasureReceiptRequest(receipt_id=receipt_id)
        receipt = (await mesh.ingestion.GetErasureReceipt(request)).receipt
        if receipt.HasField("complete_time"):
            return receipt


async def assert_out_of_reach(mesh: Mesh, document_id: str) -> None:
    found = await mesh.retrieval.Retrieve(retrieval_pb.RetrieveRequest(query=QUESTION, top_k=100))
    assert document_id not in {chunk.chunk.document_id for chunk in found.chunks}
    answer = await mesh.query.Query(query_pb.QueryRequest(query=QUESTION))
    assert document_id not in {source.document_id for source in answer.sources}
    listed = await mesh.ingestion.ListDocuments(pb.ListDocumentsRequest())
    assert document_id not in {document.document_id for document in listed.documents}
    missing = await ended(mesh.ingestion.GetDocument(pb.GetDocumentRequest(document_id=document_id)))
    assert (missing.code, missing.details) == (grpc.StatusCode.NOT_FOUND, "no such document")


async def test_what_was_deleted_answers_nothing_any_more_and_its_receipt_says_so() -> None:
    async with open_mesh() as mesh:
        await ingest(mesh, "garage", "The garage has 38 parking spaces.\n\n" + "It opens at six. " * 200)
        chunks = await mesh.vectors.count_chunks(Partition("default", "default"))
        assert chunks > 1
        await ingest(mesh, "canteen", "Lunch costs 4.50 euros.")
        assert "38" in (await mesh.query.Query(query_pb.QueryRequest(query=QUESTION))).answer
        receipt = await delete(mesh, "garage")
        await assert_out_of_reach(mesh, "garage")
        assert (receipt.collection, receipt.document_id) == ("default", "garage")
        steps = [(step.place, step.removed, step.remaining, step.HasField("complete_time")) for step in receipt.steps]
        assert steps == [("catalog", 1, 0, True), ("store", chunks, 0, True)]
        times = [receipt.block_time.ToNanoseconds(), *(step.complete_time.ToNanoseconds() for step in receipt.steps)]
        assert times == sorted(times)
        assert receipt.complete_time == receipt.steps[-1].complete_time
        assert await complete(mesh, receipt.receipt_id) == receipt
        assert await delete(mesh, "garage") == receipt
        assert await mesh.vectors.count_chunks(Partition("default", "default")) == 1
        # The same id again is a new document, with nothing of the old one.
        await ingest(mesh, "garage", "The garage has 40 parking spaces.")
        document = (await mesh.ingestion.GetDocument(pb.GetDocumentRequest(document_id="garage"))).document
        assert document.version == 2
        assert document.create_time.ToNanoseconds() > receipt.block_time.ToNanoseconds()
        assert "40" in (await mesh.query.Query(query_pb.QueryRequest(query=QUESTION))).answer


async def test_what_the_caller_may_not_read_is_not_found() -> None:
    async with open_mesh(names=["store", "ingestion"]) as mesh:
        await ingest(mesh, "closed", "Nobody at all may read this.", ())
        said = set()
        for document_id in ("closed", "nowhere"):
            result = await ended(mesh.ingestion.DeleteDocument(pb.DeleteDocumentRequest(document_id=document_id)))
            said.add((result.code, result.reason, result.details))
        assert said == {(grpc.StatusCode.NOT_FOUND, "NOT_FOUND", "no such document")}


@pytest.mark.parametrize("restart", [False, True], ids=["it goes on", "after a restart"])
async def test_a_store_that_is_away_undoes_no_deletion_and_is_cleared_when_it_is_back(restart: bool) -> None:
    store = AwayStore()
    async with open_mesh(vectors=store) as mesh:
        await ingest(mesh, "garage", "The garage has 38 parking spaces.")
        store.away = True
        receipt = await delete(mesh, "garage")
        await assert_out_of_reach(mesh, "garage")
        assert not receipt.HasField("complete_time")
        steps = [(step.place, step.removed, step.remaining, step.HasField("complete_time")) for step in receipt.steps]
        assert steps == [("catalog", 1, 0, True), ("store", 0, 1, False)]
        if restart:
            await mesh.stop("ingestion")
        store.away = False
        if restart:
            await mesh.start("ingestion")
        done = await complete(mesh, receipt.receipt_id)
        assert [(step.removed, step.remaining) for step in done.steps] == [(1, 0), (1, 0)]
        assert done.block_time == receipt.block_time
        assert await store.count_chunks(Partition("default", "default")) == 0
