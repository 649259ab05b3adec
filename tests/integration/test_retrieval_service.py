"""RetrievalService over a real channel."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from groundwire.retrieval.v1 import retrieval_service_pb2 as pb
from groundwire.retrieval.v1 import retrieval_service_pb2_grpc as pb_grpc
from services.embedding.memory import OverlapCrossEncoder
from services.retrieval.servicer import RetrievalServicer
from tests.support.recording import digest
from tests.support.retrieval_world import BOB, StoreProxy, World


@pytest.fixture
async def stub(tmp_path: Path) -> AsyncIterator[pb_grpc.RetrievalServiceAsyncStub]:
    world = World({"one": StoreProxy(), "two": StoreProxy()})
    await world.add("travel", "Train tickets are reimbursed.", readers=["group:hr"], metadata={"lang": "en"})
    await world.add("secret", "Train robberies are secret.", readers=["user:carol"])
    retriever = world.retriever(cross_encoder=OverlapCrossEncoder())
    server = grpc.aio.server()
    servicer = RetrievalServicer(retriever, caller_of=lambda: BOB, digest=digest)
    pb_grpc.add_RetrievalServiceServicer_to_server(servicer, server)
    server.add_insecure_port(f"unix:{tmp_path / 'retrieval.sock'}")
    await server.start()
    async with grpc.aio.insecure_channel(f"unix:{tmp_path / 'retrieval.sock'}") as channel:
        yield pb_grpc.RetrievalServiceStub(channel)
    await server.stop(None)


async def test_retrieve(stub: pb_grpc.RetrievalServiceAsyncStub) -> None:
    response = await stub.Retrieve(pb.RetrieveRequest(query="Are train tickets reimbursed?", top_k=3))
    (chunk,) = response.chunks
    assert (chunk.chunk.document_id, chunk.chunk.text) == ("travel", "Train tickets are reimbursed.")
    assert list(chunk.stores) == ["one", "two"]
    assert chunk.scores.HasField("rerank")
    assert [store.store for store in response.coverage.stores] == ["one", "two"]
    assert not response.coverage.degraded
    assert response.timings.HasField("total")


async def test_list_stores(stub: pb_grpc.RetrievalServiceAsyncStub) -> None:
    response = await stub.ListStores(pb.ListStoresRequest())
    assert [(store.name, store.healthy, store.chunk_count) for store in response.stores] == [
        ("one", True, 2),
        ("two", True, 2),
    ]
