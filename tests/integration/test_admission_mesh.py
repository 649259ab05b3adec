"""Admission at an inner service, as seen from the front of the mesh."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc
import pytest

from groundwire.common.v1 import core_pb2
from groundwire.ingestion.v1 import ingestion_service_pb2 as ingestion_pb
from groundwire.query.v1 import query_service_pb2 as query_pb
from groundwire.retrieval.v1 import retrieval_service_pb2 as retrieval_pb
from services.resilience.tickets import WorkClass
from services.vectorstores.memory import MemoryVectorStore
from services.vectorstores.ports import Partition, StoreHit
from tests.support.mesh import Mesh, ended, open_mesh
from tests.support.serving import running_out_of_time, until


class SlowStore(MemoryVectorStore):
    """A store whose search by words waits for ``gate``; ``searching`` counts those that do."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()
        self.searching = 0
        self.searched = 0

    async def search_lexical(
        self, partition: Partition, terms: object, limit: int, reader_sets: frozenset[int] | None
    ) -> list[StoreHit]:
        self.searching += 1
        self.searched += 1
        try:
            await self.gate.wait()
        finally:
            self.searching -= 1
        return await super().search_lexical(partition, terms, limit, reader_sets)  # type: ignore[arg-type] # passed on


@asynccontextmanager
async def narrow(monkeypatch: pytest.MonkeyPatch, **options: int) -> AsyncIterator[tuple[Mesh, SlowStore]]:
    """A mesh whose retrieval service takes one call at a time."""
    store = SlowStore()
    async with open_mesh(vectors=store) as mesh:
        document = ingestion_pb.DocumentInput(
            document_id="garage",
            content=b"The garage has 38 parking spaces.",
            access=core_pb2.Access(readers=["tenant:*"]),
        )
        await mesh.ingestion.IngestDocuments(ingestion_pb.IngestDocumentsRequest(documents=[document]))
        await mesh.stop("retrieval")
        for name, value in {"MIN_LIMIT": 1, "MAX_LIMIT": 1, **options}.items():
            monkeypatch.setenv(f"GROUNDWIRE_ADMISSION__{name}", str(value))
        monkeypatch.setenv("GROUNDWIRE_RETRIEVAL__STORE_TIMEOUT", "60")
        await mesh.start("retrieval")
        await until_ready(mesh)
        yield mesh, store
        store.gate.set()


async def until_ready(mesh: Mesh) -> None:
    """Wait until the query service has found the new retrieval service."""
    question = query_pb.QueryRequest(query="parking spaces")
    while (await ended(mesh.query.Query(question))).code is not grpc.StatusCode.OK:
        await asyncio.sleep(0.05)


def queued(mesh: Mesh) -> Callable[[], int]:
    def count() -> int:
        admissions = mesh.servers["retrieval"].admissions
        assert admissions is not None
        return admissions.snapshot()[WorkClass.INTERACTIVE].queued

    return count


@pytest.mark.parametrize("leave", ["cancel", "deadline"])
async def test_a_question_that_is_given_up_leaves_the_queue_of_the_service_behind(
    monkeypatch: pytest.MonkeyPatch, leave: str
) -> None:
    async with narrow(monkeypatch) as (mesh, store):
        store.gate.clear()
        searched, waiting = store.searched, queued(mesh)
        first = mesh.query.Query(query_pb.QueryRequest(query="parking spaces"))
        await until(lambda: store.searching == 1)
        question = query_pb.QueryRequest(query="parking spaces")
        if leave == "cancel":
            second = mesh.query.Query(question)
            await until(lambda: waiting() == 1)
            second.cancel()
        else:
            second = await running_out_of_time(lambda seconds: mesh.query.Query(question, timeout=seconds), waiting)
        await until(lambda: waiting() == 0)
        store.gate.set()
        assert "38" in (await first).answer
        assert store.searched == searched + 1, "what nobody waits for is not begun"


async def test_an_overload_behind_is_told_at_the_front(monkeypatch: pytest.MonkeyPatch) -> None:
    async with narrow(monkeypatch, QUEUE_LENGTH=0) as (mesh, store):
        store.gate.clear()
        first = mesh.query.Query(query_pb.QueryRequest(query="parking spaces"))
        await until(lambda: store.searching == 1)
        refused = await ended(mesh.query.Query(query_pb.QueryRequest(query="parking spaces")))
        assert (refused.code, refused.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")
        assert int(refused.trailing["grpc-retry-pushback-ms"]) > 0
        listed = await mesh.retrieval.ListStores(retrieval_pb.ListStoresRequest())
        assert [status.healthy for status in listed.stores] == [True], "operations go on"
        store.gate.set()
        assert "38" in (await first).answer


async def test_a_queue_that_stands_makes_retrieval_do_less_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    # By default a call is refused when it has waited 5 s: a busy machine would not see in time that the queue stands.
    async with narrow(monkeypatch, MAX_WAIT=240) as (mesh, store):
        store.gate.clear()
        calls = [
            asyncio.ensure_future(ended(mesh.retrieval.Retrieve(retrieval_pb.RetrieveRequest(query="parking spaces"))))
            for _ in range(4)
        ]
        admissions = mesh.servers["retrieval"].admissions
        assert admissions is not None
        await until(lambda: admissions.step.name == "LEXICAL_ONLY")
        store.gate.set()
        answers = [response for each in await asyncio.gather(*calls) for response in each.responses]
        said = [{warning.code for warning in answer.warnings} for answer in answers]
        assert len(answers) == 4
        assert "BROWNOUT_LEXICAL_ONLY" in set().union(*said)
        assert all(answer.chunks for answer in answers)
        gauges = mesh.servers["retrieval"].metrics.gauges()
        assert gauges["groundwire.brownout.entered", "lexical_only"] == 1.0
        await until(lambda: admissions.step.name == "NONE")
        calm = await mesh.retrieval.Retrieve(retrieval_pb.RetrieveRequest(query="parking spaces"))
        assert not calm.warnings
