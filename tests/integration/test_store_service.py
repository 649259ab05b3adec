"""The store as a service: the production server on a unix socket, the remote adapter before it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2

from groundwire.store.v1 import store_service_pb2 as pb
from groundwire.store.v1 import store_service_pb2_grpc as rpc
from interceptors._shapes import Call
from services.corpus.errors import FailedPrecondition, InvalidRequest, PermissionDenied, Unavailable
from services.corpus.principal import Caller
from services.resilience.health import ServingStatus
from services.runtime.process import Process
from services.runtime.server import READINESS, Server
from services.store.assembly import assemble
from services.store.settings import StoreSettings
from services.vectorstores.memory import MemoryVectorStore
from services.vectorstores.ports import FetchedChunk, Partition, StoreCapabilities, StoredChunk, Vector, VectorStore
from services.vectorstores.wire import MAX_LIMIT
from tests.support.serving import Outcome, Serving, ended, until

HERE = Partition("acme", "handbook")
WHERE = pb.Partition(tenant="acme", collection="handbook")


def unit(*values: float) -> Vector:
    vector = np.array(values, dtype=np.float32)
    return vector / np.linalg.norm(vector)


def chunk(ordinal: int, *, payload: bytes = b"payload", terms: tuple[str, ...] = ("word",)) -> StoredChunk:
    return StoredChunk(f"d#1.{ordinal}", "d", 1, ordinal, 7, payload, unit(1, ordinal), terms)


class World:
    """A store, the server before it, and ways to reach it."""

    def __init__(self, serving: Serving, server: Server, store: VectorStore, address: str) -> None:
        self.serving = serving
        self.server = server
        self.store = store
        self.address = address
        self.process = Process()
        self.remote = self.process.remote_store(address, "retrieval", "store")

    async def send(self, method: str, request: Any) -> Outcome:
        """One call by hand."""
        stub: Any = rpc.StoreServiceStub(self.serving.connect(self.address))
        call = getattr(stub, method)(request)
        try:
            await call
        except grpc.aio.AioRpcError:
            pass
        else:
            pytest.fail("it was accepted")
        return await ended(call)

    async def violations(self, method: str, request: Any) -> list[str]:
        """The fields that are named as wrong."""
        outcome = await self.send(method, request)
        assert outcome.code is grpc.StatusCode.INVALID_ARGUMENT
        return [violation.field for violation in outcome.detail(error_details_pb2.BadRequest).field_violations]


@pytest.fixture
async def world(serving: Serving, tmp_path: Path) -> AsyncIterator[World]:
    settings = StoreSettings(data_dir=tmp_path)
    store = MemoryVectorStore()
    address = settings.address("store")
    server = await serving.serve(await assemble(settings, Process(), store=store), settings=settings, address=address)
    world = World(serving, server, store, address)
    yield world
    await world.remote.close()
    await world.process.close()


async def test_the_socket_belongs_to_the_data_directory(world: World, tmp_path: Path) -> None:
    assert world.address == f"unix:{tmp_path}/store.sock"
    await until(lambda: world.server.board.status(READINESS) is ServingStatus.SERVING)


async def test_the_whole_port_goes_through(world: World) -> None:
    remote = world.remote
    await remote.upsert_chunks(HERE, [chunk(i, terms=("word", f"t{i}")) for i in range(5)])
    assert await world.store.count_chunks(HERE) == await remote.count_chunks(HERE) == 5
    hits = await remote.search_dense(HERE, unit(1, 2), 2, None)
    assert hits == await world.store.search_dense(HERE, unit(1, 2), 2, None)
    assert [hit.chunk_id for hit in await remote.search_lexical(HERE, ["t3"], 5, frozenset({7}))] == ["d#1.3"]
    assert await remote.search_lexical(HERE, ["t3"], 5, frozenset()) == []
    assert await remote.fetch_chunks(HERE, ["d#1.1", "x"]) == [FetchedChunk("d#1.1", "d", 1, 1, 7, b"payload")]
    await remote.assign_readers(HERE, "d", 8)
    assert await remote.search_dense(HERE, unit(1, 2), 2, frozenset({7})) == []
    assert await remote.delete_chunks(HERE, "d", before_version=1) == 0
    assert await remote.delete_chunks(HERE, "d") == 5
    await remote.upsert_chunks(HERE, [chunk(0)])
    await remote.delete_partition(HERE)
    assert await world.store.count_chunks(HERE) == 0
    assert await remote.capabilities() == StoreCapabilities("memory", dense=True, lexical=True)


async def test_scores_and_vectors_lose_nothing(world: World) -> None:
    generator = np.random.default_rng(5)
    vectors = [unit(*generator.normal(size=64)) for _ in range(50)]
    chunks = [StoredChunk(f"c{i}", "d", 1, i, 2**62, b"", vector, ()) for i, vector in enumerate(vectors)]
    await world.remote.upsert_chunks(HERE, chunks)
    for vector in vectors[:5]:
        assert await world.remote.search_dense(HERE, vector, 50, None) == await world.store.search_dense(
            HERE, vector, 50, None
        )


async def test_more_than_one_message_holds_is_sent_in_several(world: World) -> None:
    chunks = [chunk(i, payload=bytes(1024 * 1024)) for i in range(20)]
    await world.remote.upsert_chunks(HERE, chunks)
    ids = [made.chunk_id for made in chunks]
    assert [found.chunk_id for found in await world.remote.fetch_chunks(HERE, ids)] == ids
    method = "groundwire.store.v1.StoreService/UpsertChunks"
    assert world.server.metrics.by_method[method, "OK"].count == 3
    unknown = [f"x{i}" for i in range(12_000)]
    assert await world.remote.fetch_chunks(HERE, [*unknown, *ids[:3]]) == await world.store.fetch_chunks(HERE, ids[:3])


async def test_limits_are_those_of_the_port(world: World) -> None:
    await world.remote.upsert_chunks(HERE, [chunk(i) for i in range(3)])
    for limit, found in ((-1, 0), (0, 0), (2, 2), (MAX_LIMIT * 10, 3)):
        assert len(await world.remote.search_dense(HERE, unit(1, 0), limit, None)) == found
        assert len(await world.remote.search_lexical(HERE, ["word"], limit, None)) == found


# --- what is wrong with a request -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "request_", "fields"),
    [
        ("UpsertChunks", pb.UpsertChunksRequest(), ["partition.tenant", "partition.collection"]),
        (
            "UpsertChunks",
            pb.UpsertChunksRequest(
                partition=pb.Partition(tenant="acme"),
                chunks=[
                    pb.StoredChunk(chunk_id="a", document_id="d", version=1, vector=b"\0\0\x80\x3f"),
                    pb.StoredChunk(version=-1, ordinal=-1, reader_set=-1, vector=b"abc"),
                    pb.StoredChunk(chunk_id="a", document_id="d", version=1, vector=b"\0\0\xc0\x7f"),
                ],
            ),
            [
                "partition.collection",
                "chunks[1].chunk_id",
                "chunks[1].document_id",
                "chunks[1].version",
                "chunks[1].ordinal",
                "chunks[1].reader_set",
                "chunks[1].vector",
                "chunks[2].vector",
            ],
        ),
        ("DeleteChunks", pb.DeleteChunksRequest(), ["partition.tenant", "partition.collection", "target"]),
        ("DeleteChunks", pb.DeleteChunksRequest(partition=WHERE, everything=False), ["target"]),
        (
            "DeleteChunks",
            pb.DeleteChunksRequest(partition=WHERE, document_id="d", before_version=-1),
            ["before_version"],
        ),
        (
            "AssignReaders",
            pb.AssignReadersRequest(reader_set=-1),
            ["partition.tenant", "partition.collection", "document_id", "reader_set"],
        ),
        (
            "SearchDense",
            pb.SearchDenseRequest(vector=b"abc"),
            ["partition.tenant", "partition.collection", "limit", "vector"],
        ),
        ("SearchDense", pb.SearchDenseRequest(partition=WHERE, limit=1), ["vector"]),
        (
            "SearchDense",
            pb.SearchDenseRequest(partition=WHERE, limit=MAX_LIMIT + 1, vector=b"\0\0\x80\x7f"),
            ["limit", "vector"],
        ),
        ("SearchLexical", pb.SearchLexicalRequest(limit=-1), ["partition.tenant", "partition.collection", "limit"]),
        ("FetchChunks", pb.FetchChunksRequest(), ["partition.tenant", "partition.collection"]),
        (
            "FetchChunks",
            pb.FetchChunksRequest(partition=WHERE, chunk_ids=["x"] * (MAX_LIMIT + 1)),
            ["chunk_ids"],
        ),
        ("CountChunks", pb.CountChunksRequest(), ["partition.tenant", "partition.collection"]),
    ],
)
async def test_every_wrong_field_is_named(world: World, method: str, request_: Any, fields: list[str]) -> None:
    assert await world.violations(method, request_) == fields
    assert await world.store.count_chunks(HERE) == 0


async def test_a_vector_that_is_not_of_unit_length_is_named(world: World) -> None:
    long = np.array([3, 4], dtype="<f4").tobytes()
    request = pb.UpsertChunksRequest(
        partition=WHERE, chunks=[pb.StoredChunk(chunk_id="a", document_id="d", version=1, vector=long)]
    )
    assert await world.violations("UpsertChunks", request) == ["chunks[0].vector"]


async def test_the_adapter_raises_what_the_store_raised(world: World) -> None:
    await world.remote.upsert_chunks(HERE, [chunk(0)])
    with pytest.raises(FailedPrecondition, match="groundwire reindex"):
        await world.remote.search_dense(HERE, unit(1, 2, 3), 5, None)
    with pytest.raises(InvalidRequest) as wrong:
        await world.remote.upsert_chunks(Partition("", "c"), [chunk(0)])
    assert [violation.field for violation in wrong.value.violations] == ["partition.tenant"]


async def test_only_the_mesh_may_call(serving: Serving, tmp_path: Path) -> None:
    async def anybody(_call: Call) -> Caller:
        return Caller("t", "root", permissions=frozenset({"admin:*"}))

    settings = StoreSettings(data_dir=tmp_path)
    server = Server(await assemble(settings, Process(), store=MemoryVectorStore()), settings, identify=anybody)
    await server.start(settings.address("store"))
    serving.servers.append(server)
    remote = Process().remote_store(settings.address("store"), "tests", "store")
    with pytest.raises(PermissionDenied, match="only services of the mesh"):
        await remote.upsert_chunks(HERE, [chunk(0)])
    await remote.close()


# --- when the store is not there ------------------------------------------------------------------------------------


class Broken(MemoryVectorStore):
    """A store whose engine has failed."""

    async def capabilities(self) -> StoreCapabilities:
        raise Unavailable("the engine is gone")

    async def count_chunks(
        self, partition: Partition, document_id: str | None = None, *, before_version: int | None = None
    ) -> int:
        raise OSError("/secret/path: disk full")


async def test_a_broken_engine_is_not_ready_and_tells_no_secrets(serving: Serving, tmp_path: Path) -> None:
    settings = StoreSettings(data_dir=tmp_path)
    service = await assemble(settings, Process(), store=Broken())
    server = await serving.serve(service, settings=settings, address=settings.address("store"))
    remote = Process().remote_store(settings.address("store"), "tests", "store")
    with pytest.raises(Unavailable) as broken:
        await remote.count_chunks(HERE)
    assert broken.value.message == "the store service did not answer"
    with pytest.raises(Unavailable, match="the engine is gone"):
        await remote.capabilities()
    assert server.board.status(READINESS) is ServingStatus.NOT_SERVING
    await remote.close()


async def test_a_store_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    remote = Process().remote_store(f"unix:{tmp_path}/nobody.sock", "tests", "store")
    with pytest.raises(Unavailable) as missing:
        await remote.count_chunks(HERE)
    assert missing.value.metadata == {"dependency": "store"}
    await remote.close()


async def test_closing_the_service_closes_the_store(world: World) -> None:
    await world.remote.upsert_chunks(HERE, [chunk(0)])
    await world.server.drain(delay=0, grace=1)
    assert await world.store.count_chunks(HERE) == 0  # a memory store that is closed has forgotten everything
