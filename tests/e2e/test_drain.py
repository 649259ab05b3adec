"""SIGTERM loses no accepted call, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from groundwire.query.v1 import query_service_pb2 as pb
from groundwire.query.v1 import query_service_pb2_grpc as rpc
from tests.support.processes import Mesh, mesh_served, mesh_up

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

CALLS = 50
QUESTION = "When does the zeppelin leave Ghent?"


@pytest.fixture
def document(tmp_path: Path) -> Path:
    """Something to ask about."""
    path = tmp_path / "zeppelin.txt"
    path.write_text("The zeppelin leaves Ghent at noon every Friday.")
    return path


async def _ask_many(mesh: Mesh, number: signal.Signals, name: str) -> list[str]:
    """Start 50 streamed questions; once all are accepted, send the signal; return every answer."""
    accepted = asyncio.Queue[None]()
    authorization = await asyncio.to_thread(mesh.authorization)
    async with grpc.aio.insecure_channel(mesh.addresses["query"]) as channel:
        stub: Any = rpc.QueryServiceStub(channel)

        async def ask() -> str:
            answer = ""
            first = True
            async for event in stub.StreamQuery(pb.QueryRequest(query=QUESTION), timeout=60, metadata=authorization):
                if first:  # a first event: the server has accepted the call
                    accepted.put_nowait(None)
                    first = False
                if event.HasField("final"):
                    answer = event.final.answer
            return answer

        calls = [asyncio.create_task(ask()) for _ in range(CALLS)]
        for _ in range(CALLS // 2):
            await accepted.get()
        # Half have their first event, the others are on their way: all were sent before the signal.
        mesh.processes[name].signal(number)
        return await asyncio.gather(*calls)


@pytest.mark.parametrize("arguments", [(), ("--processes",)], ids=["up", "up-processes"])
async def test_terminating_the_mesh_loses_no_accepted_call(
    tmp_path: Path, document: Path, arguments: tuple[str, ...]
) -> None:
    with mesh_up(tmp_path / "data", *arguments) as mesh:
        mesh.groundwire("ingest", str(document), "--readers", "tenant:*")
        supervisor = mesh.processes["up"]
        family = psutil.Process(supervisor.process.pid).children(recursive=True)
        answers = await _ask_many(mesh, signal.SIGTERM, "up")
        assert [answer for answer in answers if "noon" not in answer] == []
        assert supervisor.wait() in (0, 143), supervisor.text()
        assert [process for process in family if process.is_running()] == []
        assert not list((tmp_path / "data").glob("*.sock"))


async def test_terminating_one_service_loses_no_accepted_call(tmp_path: Path, document: Path) -> None:
    with mesh_served(tmp_path / "data") as mesh:
        mesh.groundwire("ingest", str(document), "--readers", "tenant:*")
        answers = await _ask_many(mesh, signal.SIGTERM, "query")
        assert [answer for answer in answers if "noon" not in answer] == []
        assert mesh.processes["query"].wait() in (0, 143), mesh.processes["query"].text()
