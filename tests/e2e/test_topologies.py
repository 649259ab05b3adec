"""However the mesh is run: the same answers, and SIGTERM loses no accepted call and leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from groundwire.ingestion.v1 import ingestion_service_pb2 as ingestion_pb
from groundwire.ingestion.v1 import ingestion_service_pb2_grpc as ingestion_rpc
from groundwire.query.v1 import query_service_pb2 as pb
from groundwire.query.v1 import query_service_pb2_grpc as rpc
from tests.support.processes import NAMES, Mesh, chroma_server, health, mesh_served, mesh_up

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

QUESTIONS = {
    "How much is the referral bonus for recommending a candidate who is hired?": ("€2,000", "benefits-guide"),
    "What is the hotel limit per night in Tier A cities under the 2025 travel policy?": ("€210", "travel-policy-2025"),
    "How much is the home-office budget in the 2024 remote work policy, and for what period does it apply?": (
        "36 months",
        "remote-work-policy-2024",
    ),
    "What is the standard monthly limit of a company card?": ("€2,500", "expense-faq"),
}
# Fifty answers take a busy machine longer than calls in flight usually have.
GRACE = {"GROUNDWIRE_DRAIN__GRACE": "240"}
UNANSWERABLE = "How many parking spaces does the Lisbon office have?"
RESTRICTED = "What is the 2025 salary band for level L4 in Rotterdam?"


@contextmanager
def _served_with_chroma(data_dir: Path) -> Iterator[Mesh]:
    with (
        chroma_server(data_dir / "chroma-server") as server,
        mesh_served(
            data_dir, environment={**GRACE, "GROUNDWIRE_STORE__VECTORS_URL": f"chroma+http://{server}"}
        ) as mesh,
    ):
        yield mesh


def _up(data_dir: Path) -> AbstractContextManager[Mesh]:
    return mesh_up(data_dir, environment=GRACE)


def _up_processes(data_dir: Path) -> AbstractContextManager[Mesh]:
    return mesh_up(data_dir, "--processes", environment=GRACE)


# What the first topology answered; the others must answer the same.
_ANSWERS: dict[str, Any] = {}


@pytest.fixture(
    scope="module", params=[_up, _up_processes, _served_with_chroma], ids=["up", "up-processes", "serve-chroma"]
)
def mesh(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """An empty mesh; the last test terminates it."""
    start: Callable[[Path], AbstractContextManager[Mesh]] = request.param
    with start(tmp_path_factory.mktemp("data")) as started:
        yield started


def test_the_same_answers_in_every_topology(mesh: Mesh, corpus_subset: Path) -> None:
    for name in NAMES:
        for service in ("", "readiness"):
            assert health(mesh.addresses[name], service) == "SERVING"
    taken = json.loads(mesh.groundwire("ingest", str(corpus_subset), "--output", "json").stdout)
    assert (taken["processed"], taken["failed"]) == (6, 0)
    answers = {question: _essence(mesh.ask(question)) for question in (*QUESTIONS, UNANSWERABLE, RESTRICTED)}
    for question, (expected, document) in QUESTIONS.items():
        assert expected in answers[question]["answer"]
        assert answers[question]["cited"][0]["document_id"] == document
    assert answers[UNANSWERABLE]["abstained"]
    assert answers[RESTRICTED]["abstained"]
    assert "salary-bands-2025" not in json.dumps(answers)
    assert answers == (_ANSWERS or answers)
    _ANSWERS.update(answers)


def _essence(answer: dict[str, Any]) -> dict[str, Any]:
    """What must not depend on the topology: not times and ids, nor scores to the last digit."""
    cited = [source for source in answer.get("sources", []) if source.get("cited")]
    keys = ("document_id", "snippet", "start_offset", "end_offset", "marker")
    return {
        "answer": answer["answer"],
        "abstained": answer.get("abstained", False),
        "cited": [{key: source.get(key) for key in keys} for source in cited],
    }


CALLS = 50
DEPARTURE = "When does the zeppelin leave Ghent?"


async def _ask_many(mesh: Mesh, number: signal.Signals, name: str) -> list[str]:
    """Start 50 streamed questions; once all are accepted, send the signal; return every answer."""
    accepted = asyncio.Queue[None]()
    authorization = await asyncio.to_thread(mesh.authorization)
    async with grpc.aio.insecure_channel(mesh.addresses["query"]) as channel:
        stub: Any = rpc.QueryServiceStub(channel)
        request = pb.QueryRequest(query=DEPARTURE, collections=["travel"])

        async def ask() -> str:
            answer = ""
            first = True
            async for event in stub.StreamQuery(request, timeout=240, metadata=authorization):
                if first:  # a first event: the server has accepted the call
                    accepted.put_nowait(None)
                    first = False
                if event.HasField("final"):
                    answer = event.final.answer
            return answer

        calls = [asyncio.create_task(ask()) for _ in range(CALLS)]
        for _ in range(CALLS):
            await accepted.get()
        # A call that a busy machine has not accepted by the end of the drain's delay may be refused.
        mesh.processes[name].signal(number)
        return await asyncio.gather(*calls)


@pytest.mark.last
async def test_termination_loses_no_accepted_call(mesh: Mesh, tmp_path: Path) -> None:
    (tmp_path / "zeppelin.txt").write_text("The zeppelin leaves Ghent at noon every Friday.")
    # Apart from the other documents: fifty questions at once would have all of their passages reranked.
    with grpc.insecure_channel(mesh.addresses["ingestion"]) as channel:
        stub: Any = ingestion_rpc.IngestionServiceStub(channel)
        stub.CreateCollection(ingestion_pb.CreateCollectionRequest(name="travel"), metadata=mesh.authorization())
    mesh.groundwire("ingest", str(tmp_path), "--collection", "travel", "--readers", "tenant:*")
    # `up` ends everything; where each service is run by hand, the front is ended alone.
    name = "up" if "up" in mesh.processes else "query"
    terminated = mesh.processes[name]
    family = psutil.Process(terminated.process.pid).children(recursive=True)
    assert len(family) >= 3 or name == "query"
    answers = await _ask_many(mesh, signal.SIGTERM, name)
    assert [answer for answer in answers if "noon" not in answer] == []
    assert terminated.wait() in (0, 143), terminated.text()
    assert [process for process in family if process.is_running()] == []
    if name == "up":
        assert not list(Path(mesh.environment["GROUNDWIRE_DATA_DIR"]).glob("*.sock"))
