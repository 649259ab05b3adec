"""The contract of the VectorStore port, which every adapter keeps."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import NamedTuple

import httpx
import numpy as np
import pytest

from services.corpus.errors import FailedPrecondition, InvalidRequest
from services.runtime.identity import development_identity
from services.runtime.process import Process
from services.runtime.sealed_store import SealedVectorStore
from services.runtime.server import Server
from services.security.key_stores import MemoryKeyStore
from services.security.keyed_terms import KeyedTerms
from services.security.keyring import Keyring
from services.security.master_keys import SecretMasterKey
from services.security.sealed import Sealer
from services.store.assembly import assemble
from services.store.settings import StoreSettings
from services.vectorstores.embedded import open_embedded, open_with_chroma_server
from services.vectorstores.indexed import IndexedStore
from services.vectorstores.memory import MemoryVectorStore
from services.vectorstores.ports import (
    ChunkStore,
    FetchedChunk,
    KeptPayload,
    Partition,
    PayloadChange,
    StoredChunk,
    StoreHit,
    Vector,
    VectorStore,
)
from services.vectorstores.remote import RemoteVectorStore

DIMENSION = 8
_numbers = itertools.count()

Reopen = Callable[[Path], Awaitable[VectorStore]]


def direction(angle: float, dimension: int = DIMENSION) -> Vector:
    """A unit vector whose cosine with ``direction(0)`` is cos(angle): smaller angles are nearer."""
    vector = np.zeros(dimension, dtype=np.float32)
    vector[:2] = np.cos(angle), np.sin(angle)
    return vector


def chunk(
    ordinal: int,
    *,
    document: str = "d",
    version: int = 1,
    readers: int = 0,
    angle: float | None = None,
    terms: tuple[str, ...] = ("word",),
    payload: bytes = b"payload",
    chunk_id: str | None = None,
) -> StoredChunk:
    return StoredChunk(
        chunk_id=chunk_id or f"{document}#{version}.{ordinal}",
        document_id=document,
        version=version,
        ordinal=ordinal,
        reader_set=readers,
        payload=payload,
        vector=direction(0.01 * ordinal if angle is None else angle),
        terms=terms,
    )


def ids(hits: list[StoreHit]) -> list[str]:
    return [hit.chunk_id for hit in hits]


class ChromaServer(NamedTuple):
    host: str
    port: int


@pytest.fixture(scope="session")
def chroma_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChromaServer]:
    directory = tmp_path_factory.mktemp("chroma-server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [Path(sys.executable).with_name("chroma"), "run", "--path", directory, "--host", "127.0.0.1"]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [*map(str, command), "--port", str(port)],
            stdout=log,
            stderr=log,
            cwd=directory,
            env={**os.environ, "ANONYMIZED_TELEMETRY": "False"},
        )
    try:
        wait_for_heartbeat(process, port)
        yield ChromaServer("127.0.0.1", port)
    finally:
        process.terminate()
        process.wait(30)


def wait_for_heartbeat(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        assert process.poll() is None, "the Chroma server ended"
        assert time.monotonic() < deadline, "the Chroma server did not start"
        try:
            if httpx.get(f"http://127.0.0.1:{port}/api/v2/heartbeat", timeout=5).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.05)  # between two looks at a condition that nothing announces


@pytest.fixture(scope="session", params=["memory", "chroma-embedded", "chroma-server", "remote", "sealed"])
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VectorStore | str]:
    """A store, or the address of one; one for all tests, which each take a partition of their own."""

    async def open_it() -> VectorStore:
        match request.param:
            case "chroma-embedded":
                return await open_embedded(tmp_path_factory.mktemp("embedded"))
            case "chroma-server":
                server = request.getfixturevalue("chroma_server")
                return await open_with_chroma_server(tmp_path_factory.mktemp("store"), server.host, server.port)
            case "sealed":
                keyring = Keyring(SecretMasterKey.generate(), MemoryKeyStore())
                return SealedVectorStore(MemoryVectorStore(), Sealer(keyring), KeyedTerms(keyring))
            case _:
                return MemoryVectorStore()

    if request.param == "remote":
        with store_service(tmp_path_factory.mktemp("remote")) as address:
            yield address
        return
    store = asyncio.run(open_it())
    yield store
    asyncio.run(store.close())


@contextmanager
def store_service(directory: Path) -> Iterator[str]:
    """A StoreService before a memory store, on an event loop of its own, which outlives those of the tests."""
    address = f"unix:{directory}/store.sock"
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever)
    thread.start()

    async def start() -> Server:
        settings = StoreSettings(data_dir=directory)
        service = await assemble(settings, Process(), store=MemoryVectorStore())
        server = Server(service, settings, development_identity(settings))
        await server.start(address)
        return server

    server = asyncio.run_coroutine_threadsafe(start(), loop).result()
    yield address
    asyncio.run_coroutine_threadsafe(server.drain(delay=0, grace=0), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture
async def store(opened: VectorStore | str) -> AsyncIterator[VectorStore]:
    if not isinstance(opened, str):
        yield opened
        return
    # A channel belongs to the event loop that it was made on.
    remote = Process().remote_store(opened, "tests", "store")
    yield remote
    await remote.close()


@pytest.fixture
def partition() -> Partition:
    return Partition(f"tenant-{next(_numbers)}", "default")


# --- writing and finding ------------------------------------------------------------------------------------------


async def test_chunks_are_found_when_the_write_returns(store: VectorStore, partition: Partition) -> None:
    for ordinal in range(5):
        await store.upsert_chunks(partition, [chunk(ordinal, terms=(f"term{ordinal}",))])
        assert ids(await store.search_dense(partition, direction(0.01 * ordinal), 1, None)) == [f"d#1.{ordinal}"]
        assert ids(await store.search_lexical(partition, [f"term{ordinal}"], 1, None)) == [f"d#1.{ordinal}"]
        assert await store.count_chunks(partition) == ordinal + 1


async def test_hits_carry_document_version_and_score(store: VectorStore, partition: Partition) -> None:
    await store.upsert_chunks(partition, [chunk(3, document="report", version=7, angle=0.5, terms=("rare", "x"))])
    (dense,) = await store.search_dense(partition, direction(0), 5, None)
    assert (dense.chunk_id, dense.document_id, dense.version) == ("report#7.3", "report", 7)
    assert dense.score == pytest.approx(np.cos(0.5), abs=1e-5)
    (lexical,) = await store.search_lexical(partition, ["rare"], 5, None)
    assert (lexical.chunk_id, lexical.document_id, lexical.version) == ("report#7.3", "report", 7)
    assert lexical.score > 0


async def test_upsert_replaces_everything_of_a_chunk(store: VectorStore, partition: Partition) -> None:
    await store.upsert_chunks(partition, [chunk(0, readers=1, angle=0, terms=("old",), payload=b"old"), chunk(1)])
    new = chunk(0, readers=2, angle=1.5, terms=("new",), payload=b"new")
    await store.upsert_chunks(partition, [new])

    assert await store.count_chunks(partition) == 2
    assert await store.search_lexical(partition, ["old"], 5, None) == []
    assert ids(await store.search_lexical(partition, ["new"], 5, frozenset({2}))) == ["d#1.0"]
    assert await store.search_lexical(partition, ["new"], 5, frozenset({1})) == []
    assert ids(await store.search_dense(partition, direction(0), 5, None)) == ["d#1.1", "d#1.0"]
    assert await store.search_dense(partition, direction(0), 5, frozenset({1})) == []
    assert await store.fetch_chunks(partition, ["d#1.0"]) == [FetchedChunk("d#1.0", "d", 1, 0, 2, b"new")]


async def test_writing_twice_is_writing_once(store: VectorStore, partition: Partition) -> None:
    chunks = [chunk(ordinal) for ordinal in range(4)]
    for _ in range(3):
        await store.upsert_chunks(partition, chunks)
    assert await store.count_chunks(partition) == 4
    assert ids(await store.search_dense(partition, direction(0), 10, None)) == [f"d#1.{i}" for i in range(4)]
    assert sorted(ids(await store.search_lexical(partition, ["word"], 10, None))) == [f"d#1.{i}" for i in range(4)]


async def test_the_last_of_two_chunks_of_one_id_wins(store: VectorStore, partition: Partition) -> None:
    await store.upsert_chunks(partition, [chunk(0, payload=b"first"), chunk(0, payload=b"second")])
    assert [found.payload for found in await store.fetch_chunks(partition, ["d#1.0"])] == [b"second"]
    assert await store.count_chunks(partition) == 1


async def test_upserting_nothing_is_fine(store: VectorStore, partition: Partition) -> None:
    await store.upsert_chunks(partition, [])
    assert await store.count_chunks(partition) == 0


async def test_order_and_limit(store: VectorStore, partition: Partition) -> None:
    await store.upsert_chunks(
        partition, [chunk(i, angle=0.1 * i, terms=("word",) * (i + 1) + ("other",) * (9 - i)) for i in range(10)]
    )
    dense = await store.search_dense(partition, direction(0), 4, None)
    assert ids(dense) == [f"d#1.{i}" for i in range(4)]
    lexical = await store.search_lexical(partition, ["word"], 4, None)
    assert ids(lexical) == [f"d#1.{i}" for i in (9, 8, 7, 6)]
    for hits in (dense, lexical):
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    for limit in (0, 10, 1000):
        assert len(await store.search_dense(partition, direction(0), limit, None)) == min(limit, 10)
        assert len(await store.search_lexical(partition, ["word"], limit, None)) == min(limit, 10)


async def test_lexical_hits_share_a_term(store: VectorStore, partition: Partition) -> None:
    await store.upsert_chunks(partition, [chunk(0, terms=("a", "b")), chunk(1, terms=("c",)), chunk(2, terms=())])
    assert ids(await store.search_lexical(partition, ["a", "zzz"], 5, None)) == ["d#1.0"]
    assert await store.search_lexical(partition, ["zzz"], 5, None) == []
    assert await store.search_lexical(partition, [], 5, None) == []


async def test_a_repeated_query_term_weighs_more(store: VectorStore, partition: Partition) -> None:
    await store.upsert_chunks(partition, [chunk(0, terms=("a", "x")), chunk(1, terms=("b", "x"))])
    assert ids(await store.search_lexical(partition, ["a", "b", "b"], 5, None)) == ["d#1.1", "d#1.0"]
    assert ids(await store.search_lexical(partition, ["a", "a", "b"], 5, None)) == ["d#1.0", "d#1.1"]


@pytest.mark.parametrize(
    "term",
    ["", " ", "two words", "nul\0inside", "AND", "*:*", 'quo"te', "UPPER", "ünï\U0001f600", "x" * 60, "y" * 70_000],
    ids=lambda term: repr(term)[:12],
)
async def test_any_text_can_be_a_term(store: VectorStore, partition: Partition, term: str) -> None:
    await store.upsert_chunks(partition, [chunk(0, terms=(term,)), chunk(1, terms=("two", "upper", "a", "b"))])
    assert ids(await store.search_lexical(partition, [term], 5, None)) == ["d#1.0"]


async def test_any_text_can_be_an_id(store: VectorStore, partition: Partition) -> None:
    odd = ["a b", "nul\0inside", "nul\0other", "'; DROP TABLE chunks", "ünï", "x" * 300]
    await store.upsert_chunks(
        partition, [chunk(i, document=name, chunk_id=name, payload=name.encode()) for i, name in enumerate(odd)]
    )
    assert [found.payload.decode() for found in await store.fetch_chunks(partition, odd)] == odd
    assert ids(await store.search_dense(partition, direction(0), 10, None)) == odd
    assert sorted(ids(await store.search_lexical(partition, ["word"], 10, None))) == sorted(odd)
    assert await store.delete_chunks(partition, "nul\0inside") == 1
    assert "nul\0other" in ids(await store.search_lexical(partition, ["word"], 10, None))


async def test_any_bytes_can_be_a_payload(store: VectorStore, partition: Partition) -> None:
    payloads = [b"", b"\0", bytes(range(256)), b"\xff" * 1_000_000]
    await store.upsert_chunks(partition, [chunk(i, payload=payload) for i, payload in enumerate(payloads)])
    fetched = await store.fetch_chunks(partition, [f"d#1.{i}" for i in range(4)])
    assert [found.payload for found in fetched] == payloads


async def test_fetch_keeps_the_order_and_leaves_out_the_unknown(store: VectorStore, partition: Partition) -> None:
    await store.upsert_chunks(partition, [chunk(i, readers=4) for i in range(700)])
    asked = [f"d#1.{i}" for i in range(699, -1, -1)]
    fetched = await store.fetch_chunks(partition, ["unknown", *asked, "d#1.700"])
    assert [found.chunk_id for found in fetched] == asked
    assert fetched[0] == FetchedChunk("d#1.699", "d", 1, 699, 4, b"payload")
    assert await store.fetch_chunks(partition, []) == []


# --- removing -----------------------------------------------------------------------------------------------------


async def test_delete_removes_older_versions_and_spares_newer_ones_and_other_documents(
    store: VectorStore, partition: Partition
) -> None:
    await store.upsert_chunks(
        partition,
        [*(chunk(i, version=version) for version in (1, 2, 3) for i in range(3)), chunk(0, document="other")],
    )
    assert await store.delete_chunks(partition, "d", before_version=2) == 3
    left = {f"d#{version}.{i}" for version in (2, 3) for i in range(3)} | {"other#1.0"}
    assert set(ids(await store.search_dense(partition, direction(0), 20, None))) == left
    assert set(ids(await store.search_lexical(partition, ["word"], 20, None))) == left
    assert await store.count_chunks(partition) == 7
    assert await store.fetch_chunks(partition, ["d#1.0"]) == []
    assert await store.delete_chunks(partition, "d", before_version=2) == 0
    assert await store.delete_chunks(partition, "d") == 6
    assert ids(await store.search_dense(partition, direction(0), 20, None)) == ["other#1.0"]


async def test_a_count_of_a_document_tells_what_a_deletion_would_still_remove(
    store: VectorStore, partition: Partition
) -> None:
    await store.upsert_chunks(
        partition,
        [*(chunk(i, version=version) for version in (1, 2, 3) for i in range(version)), chunk(0, document="e")],
    )
    elsewhere = Partition(f"{partition.tenant}-other", partition.collection)
    await store.upsert_chunks(elsewhere, [chunk(0)])
    counts = {
        version: await store.count_chunks(partition, "d", before_version=version) for version in (None, 1, 2, 3, 4)
    }
    assert counts == {None: 6, 1: 0, 2: 1, 3: 3, 4: 6}
    assert await store.count_chunks(partition, "unknown") == 0
    for version, removed in ((3, 3), (None, 3)):
        assert await store.delete_chunks(partition, "d", before_version=version) == removed
        assert await store.count_chunks(partition, "d", before_version=version) == 0
    assert [await store.count_chunks(p, name) for p, name in ((partition, "e"), (elsewhere, "d"))] == [1, 1]
    assert await store.count_chunks(Partition(partition.tenant, "nowhere"), "d") == 0


async def test_deleted_chunks_can_come_back(store: VectorStore, partition: Partition) -> None:
    await store.upsert_chunks(partition, [chunk(0), chunk(1)])
    await store.delete_chunks(partition, "d")
    assert await store.search_dense(partition, direction(0), 5, None) == []
    assert await store.search_lexical(partition, ["word"], 5, None) == []
    await store.upsert_chunks(partition, [chunk(1)])
    assert ids(await store.search_dense(partition, direction(0), 5, None)) == ["d#1.1"]
    assert ids(await store.search_lexical(partition, ["word"], 5, None)) == ["d#1.1"]


async def test_a_dropped_partition_is_empty_and_forgets_its_dimension(store: VectorStore, partition: Partition) -> None:
    await store.upsert_chunks(partition, [chunk(0), chunk(1)])
    await store.delete_partition(partition)
    assert await store.count_chunks(partition) == 0
    assert await store.fetch_chunks(partition, ["d#1.0"]) == []
    assert await store.search_dense(partition, direction(0), 5, None) == []
    assert await store.search_lexical(partition, ["word"], 5, None) == []
    await store.delete_partition(partition)

    other = StoredChunk("d#1.0", "d", 1, 0, 0, b"", direction(0, 4), ("word",))
    await store.upsert_chunks(partition, [other])
    assert ids(await store.search_dense(partition, direction(0, 4), 5, None)) == ["d#1.0"]
    assert ids(await store.search_lexical(partition, ["word"], 5, None)) == ["d#1.0"]


# --- partitions ---------------------------------------------------------------------------------------------------


async def test_a_partition_that_was_never_written_is_empty(store: VectorStore, partition: Partition) -> None:
    assert await store.search_dense(partition, direction(0), 5, None) == []
    assert await store.search_lexical(partition, ["word"], 5, None) == []
    assert await store.fetch_chunks(partition, ["d#1.0"]) == []
    assert await store.count_chunks(partition) == 0
    assert await store.delete_chunks(partition, "d") == 0
    await store.assign_readers(partition, "d", 1)
    await store.delete_partition(partition)


async def test_partitions_share_nothing(store: VectorStore) -> None:
    n = next(_numbers)
    # Tenant and collection must not run together: some of these would be one if they were merely joined.
    partitions = [
        Partition(f"t{n}", "c"),
        Partition(f"t{n}", "c2"),
        Partition(f"u{n}", "c"),
        Partition(f"t{n}c", "2"),
        Partition(f"t{n}\0c", "x"),
        Partition(f"t{n}", "c\0x"),
    ]
    for i, partition in enumerate(partitions):
        await store.upsert_chunks(partition, [chunk(0, angle=0.1 * i, terms=("word", f"only{i}"), payload=b"%d" % i)])
    for i, partition in enumerate(partitions):
        assert await store.count_chunks(partition) == 1
        (fetched,) = await store.fetch_chunks(partition, ["d#1.0"])
        assert fetched.payload == b"%d" % i
        (hit,) = await store.search_dense(partition, direction(0), 5, None)
        assert hit.score == pytest.approx(np.cos(0.1 * i), abs=1e-5)
        found = [await store.search_lexical(partition, [f"only{j}"], 5, None) for j in range(len(partitions))]
        assert [len(hits) for hits in found] == [int(j == i) for j in range(len(partitions))]
    await store.delete_chunks(partitions[0], "d")
    await store.delete_partition(partitions[1])
    assert [await store.count_chunks(partition) for partition in partitions] == [0, 0, 1, 1, 1, 1]


async def test_scores_do_not_depend_on_other_partitions(store: VectorStore, partition: Partition) -> None:
    await store.upsert_chunks(partition, [chunk(0, terms=("word", "x")), chunk(1, terms=("y",))])
    before = await store.search_lexical(partition, ["word"], 5, None)
    await store.upsert_chunks(Partition(partition.tenant, "busy"), [chunk(i) for i in range(50)])
    assert await store.search_lexical(partition, ["word"], 5, None) == before


# --- reader sets --------------------------------------------------------------------------------------------------


async def test_reader_sets_narrow_both_searches(store: VectorStore, partition: Partition) -> None:
    await store.upsert_chunks(partition, [chunk(i, readers=i % 4) for i in range(20)])
    for allowed in ({0}, {1, 3}, {2, 99}, {0, 1, 2, 3}):
        expected = [f"d#1.{i}" for i in range(20) if i % 4 in allowed]
        assert ids(await store.search_dense(partition, direction(0), 20, frozenset(allowed))) == expected
        assert set(ids(await store.search_lexical(partition, ["word"], 20, frozenset(allowed)))) == set(expected)
    for nobody in (frozenset[int](), frozenset({99})):
        assert await store.search_dense(partition, direction(0), 20, nobody) == []
        assert await store.search_lexical(partition, ["word"], 20, nobody) == []


async def test_narrowing_to_everybody_changes_no_score(store: VectorStore, partition: Partition) -> None:
    await store.upsert_chunks(partition, [chunk(i, readers=i % 2, terms=("word",) * (i + 1)) for i in range(10)])
    everything = await store.search_lexical(partition, ["word"], 10, None)
    narrowed = await store.search_lexical(partition, ["word"], 10, frozenset({0, 1}))
    assert [hit.chunk_id for hit in narrowed] == [hit.chunk_id for hit in everything]
    assert [hit.score for hit in narrowed] == pytest.approx([hit.score for hit in everything], rel=1e-5)


async def test_scores_say_nothing_of_chunks_that_are_not_allowed(store: VectorStore, partition: Partition) -> None:
    """Whether hidden chunks hold a word changes neither scores nor order; all have one length here."""
    visible = [
        chunk(0, document="a", terms=("common", "common", "merger")),
        *(chunk(i, document="b", terms=("common", "common", "other")) for i in range(6)),
    ]
    beside = [chunk(i, document="hidden", readers=7, terms=("merger", "merger", "secret")) for i in range(9)]
    harmless = [chunk(i, document="hidden", readers=7, terms=("x", "y", "z")) for i in range(9)]
    question, allowed = ["merger", "common", "secret"], frozenset({0})

    async def scores() -> dict[str, float]:
        return {hit.chunk_id: hit.score for hit in await store.search_lexical(partition, question, 20, allowed)}

    await store.upsert_chunks(partition, [*visible, *harmless])
    without = await scores()
    assert without.keys() == {c.chunk_id for c in visible}
    await store.upsert_chunks(partition, beside)
    assert await scores() == pytest.approx(without, rel=1e-4)
    # Counts of before do not outlive a change of who may read: what is allowed now counts.
    await store.assign_readers(partition, "hidden", 0)
    assert (await scores()).keys() > without.keys()
    await store.assign_readers(partition, "hidden", 7)
    assert await scores() == pytest.approx(without, rel=1e-4)
    await store.delete_chunks(partition, "hidden")
    assert await scores() == pytest.approx(without, rel=1e-4)


async def test_the_largest_reader_set_number(store: VectorStore, partition: Partition) -> None:
    await store.upsert_chunks(partition, [chunk(0, readers=2**63 - 1), chunk(1, readers=2**63 - 2)])
    assert ids(await store.search_dense(partition, direction(0), 5, frozenset({2**63 - 1}))) == ["d#1.0"]
    assert ids(await store.search_lexical(partition, ["word"], 5, frozenset({2**63 - 2}))) == ["d#1.1"]


@pytest.mark.parametrize("allowed", [1, 5, 100], ids=["one", "five", "hundred"])
async def test_searches_go_deeper_until_they_are_full(store: VectorStore, partition: Partition, allowed: int) -> None:
    # The allowed chunks are the farthest and weakest of all, so that every shallow search finds none of them.
    total = 1200
    chunks = [
        chunk(
            i, angle=i / total, readers=int(i >= total - allowed), terms=("word",) * (1 if i >= total - allowed else 3)
        )
        for i in range(total)
    ]
    await store.upsert_chunks(partition, chunks)
    expected = [f"d#1.{i}" for i in range(total - allowed, total)]
    for limit in (3, 50):
        dense = await store.search_dense(partition, direction(0), limit, frozenset({1}))
        assert ids(dense) == expected[:limit]
        lexical = await store.search_lexical(partition, ["word"], limit, frozenset({1}))
        assert len(lexical) == min(limit, allowed)
        assert set(ids(lexical)) <= set(expected)


async def test_assigned_readers_count_at_once(store: VectorStore, partition: Partition) -> None:
    await store.upsert_chunks(partition, [*(chunk(i, readers=1) for i in range(3)), chunk(0, document="e", readers=1)])
    for readers, other in ((2, 1), (3, 2), (1, 3), (1, 2)):
        await store.assign_readers(partition, "d", readers)
        only_d = ["d#1.0", "d#1.1", "d#1.2"]
        assert set(only_d) <= set(ids(await store.search_dense(partition, direction(0), 9, frozenset({readers}))))
        assert set(only_d) <= set(ids(await store.search_lexical(partition, ["word"], 9, frozenset({readers}))))
        left = ["e#1.0"] if other == 1 else []
        assert ids(await store.search_dense(partition, direction(0), 9, frozenset({other}))) == left
        assert ids(await store.search_lexical(partition, ["word"], 9, frozenset({other}))) == left
        assert {found.reader_set for found in await store.fetch_chunks(partition, only_d)} == {readers}
    assert await store.count_chunks(partition) == 4


# --- refusals -----------------------------------------------------------------------------------------------------


async def test_another_dimension_is_refused_with_the_remedy(store: VectorStore, partition: Partition) -> None:
    await store.upsert_chunks(partition, [chunk(0)])
    wrong = StoredChunk("x", "x", 1, 0, 0, b"", direction(0, 4), ("word",))
    with pytest.raises(FailedPrecondition, match="groundwire reindex"):
        await store.upsert_chunks(partition, [wrong])
    with pytest.raises(FailedPrecondition, match="groundwire reindex"):
        await store.upsert_chunks(partition, [chunk(1), wrong])
    with pytest.raises(FailedPrecondition, match="groundwire reindex"):
        await store.search_dense(partition, direction(0, 4), 5, None)
    assert await store.count_chunks(partition) == 1
    await store.delete_chunks(partition, "d")
    with pytest.raises(FailedPrecondition, match="groundwire reindex"):
        await store.upsert_chunks(partition, [wrong])


@pytest.mark.parametrize("factor", [0.0, 0.5, 2.0, float("nan"), float("inf")])
async def test_only_unit_vectors_are_kept(store: VectorStore, partition: Partition, factor: float) -> None:
    bad = StoredChunk("x", "x", 1, 0, 0, b"", np.full(DIMENSION, factor, dtype=np.float32), ("word",))
    with pytest.raises(InvalidRequest, match=r"chunks\[1\]\.vector"):
        await store.upsert_chunks(partition, [chunk(0), bad])
    assert await store.count_chunks(partition) == 0


# --- many at once -------------------------------------------------------------------------------------------------


async def test_searches_run_while_chunks_are_written(store: VectorStore, partition: Partition) -> None:
    await store.upsert_chunks(partition, [chunk(i, document="kept") for i in range(20)])
    kept = {f"kept#1.{i}" for i in range(20)}
    done = asyncio.Event()

    async def write() -> None:
        for round_ in range(6):
            written = [chunk(i, document="new", version=round_, angle=1.5, terms=("new",)) for i in range(8)]
            await store.upsert_chunks(partition, written)
            await store.delete_chunks(partition, "new", before_version=round_)
        done.set()

    async def search() -> int:
        rounds = 0
        while rounds == 0 or not done.is_set():
            dense, lexical, fetched = await asyncio.gather(
                store.search_dense(partition, direction(0), 20, None),
                store.search_lexical(partition, ["word"], 20, None),
                store.fetch_chunks(partition, sorted(kept)),
            )
            assert set(ids(dense)) == kept
            assert set(ids(lexical)) == kept
            assert len(fetched) == 20
            rounds += 1
            await asyncio.sleep(0)
        return rounds

    _, *rounds = await asyncio.gather(write(), search(), search())
    assert all(rounds)
    assert set(ids(await store.search_lexical(partition, ["new"], 20, None))) == {f"new#5.{i}" for i in range(8)}
    assert await store.count_chunks(partition) == 28


async def test_writes_from_many_tasks_all_arrive(store: VectorStore, partition: Partition) -> None:
    other = Partition(partition.tenant, "other")
    await asyncio.gather(
        *(store.upsert_chunks(p, [chunk(i, document=f"d{i}")]) for i in range(8) for p in (partition, other))
    )
    for p in (partition, other):
        assert await store.count_chunks(p) == 8
        assert len(await store.search_dense(p, direction(0), 20, None)) == 8
        assert len(await store.search_lexical(p, ["word"], 20, None)) == 8


# --- payloads as they are kept ------------------------------------------------------------------------------------


@pytest.fixture
def keeper(store: VectorStore) -> ChunkStore:
    if isinstance(store, SealedVectorStore):
        pytest.skip("what seals hides payloads as they are kept")
    assert isinstance(store, MemoryVectorStore | IndexedStore | RemoteVectorStore)
    return store


async def walk(store: ChunkStore, tenant: str, limit: int) -> list[KeptPayload]:
    found: list[KeptPayload] = []
    while page := await store.list_payloads(tenant, after=place(found[-1]) if found else ("", ""), limit=limit):
        assert len(page) <= limit
        found.extend(page)
    return found


def place(kept: KeptPayload) -> tuple[str, str]:
    return kept.collection, kept.chunk.chunk_id


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
async def test_a_walk_meets_every_payload_of_the_tenant_in_order(
    keeper: ChunkStore, partition: Partition, limit: int
) -> None:
    tenant = partition.tenant
    collections = ("default", "Z", "über", "z", "\U0001f600")
    for name in collections:
        chunks = [chunk(i, document=f"d{i}", readers=i, payload=f"{name} {i}".encode()) for i in (2, 10, 0)]
        await keeper.upsert_chunks(Partition(tenant, name), chunks)
    await keeper.upsert_chunks(Partition(f"{tenant}x", "default"), [chunk(9)])
    found = await walk(keeper, tenant, limit)
    expected = sorted((name, f"d{i}#1.{i}") for name in collections for i in (0, 2, 10))
    assert [place(kept) for kept in found] == expected
    for kept in found:
        i = kept.chunk.ordinal
        payload = f"{kept.collection} {i}".encode()
        assert kept.chunk == FetchedChunk(f"d{i}#1.{i}", f"d{i}", 1, i, i, payload)
    assert await keeper.list_payloads(f"{tenant}y") == []


async def test_payloads_are_replaced_where_they_are_as_expected(keeper: ChunkStore, partition: Partition) -> None:
    tenant, name = partition.tenant, partition.collection
    await keeper.upsert_chunks(partition, [chunk(i, readers=3, payload=b"old %d" % i) for i in range(3)])
    stranger = Partition(f"{tenant}x", name)
    await keeper.upsert_chunks(stranger, [chunk(0, payload=b"old 0")])
    changes = [
        PayloadChange(name, "d#1.0", b"old 0", b"new 0"),
        PayloadChange(name, "d#1.1", b"something else", b"lost"),
        PayloadChange(name, "d#1.9", b"old 9", b"lost"),
        PayloadChange("elsewhere", "d#1.2", b"old 2", b"lost"),
    ]
    assert await keeper.replace_payloads(tenant, changes) == 1
    assert await keeper.replace_payloads(tenant, changes) == 0
    assert await keeper.replace_payloads(tenant, []) == 0
    ids_ = ["d#1.0", "d#1.1", "d#1.2"]
    fetched = await keeper.fetch_chunks(partition, ids_)
    assert [found.payload for found in fetched] == [b"new 0", b"old 1", b"old 2"]
    assert [found.payload for found in await keeper.fetch_chunks(stranger, ids_)] == [b"old 0"]
    # Nothing else has changed, and it is found as before.
    assert {(found.reader_set, found.version) for found in fetched} == {(3, 1)}
    assert ids(await keeper.search_dense(partition, direction(0), 9, frozenset({3}))) == ids_
    assert sorted(ids(await keeper.search_lexical(partition, ["word"], 9, frozenset({3})))) == ids_
    assert await keeper.count_chunks(partition) == 3


async def test_a_walk_meets_what_stays_whatever_is_written_meanwhile(keeper: ChunkStore, partition: Partition) -> None:
    tenant = partition.tenant
    parts = [partition, Partition(tenant, "e")]
    stay = {(part.collection, f"m{i}#1.{i}") for part in parts for i in range(12)}
    for part in parts:
        await keeper.upsert_chunks(part, [chunk(i, document=f"m{i}") for i in range(12)])
        await keeper.upsert_chunks(part, [chunk(i, document=f"a{i}") for i in range(4)])
    met: list[tuple[str, str]] = []
    turn = 0
    while page := await keeper.list_payloads(tenant, after=met[-1] if met else ("", ""), limit=5):
        met.extend(map(place, page))
        # Before and after the place where the walk is: new ones, replaced ones, and some that go.
        part = parts[turn % 2]
        await keeper.upsert_chunks(part, [chunk(0, document=f"b{turn}"), chunk(0, document=f"z{turn}")])
        await keeper.upsert_chunks(part, [chunk(turn, document=f"m{turn}", payload=b"again")])
        await keeper.delete_chunks(part, f"a{turn}")
        turn += 1
    assert stay <= set(met)
    assert len(set(met)) == len(met)


async def test_payloads_and_whole_chunks_are_replaced_at_the_same_time(
    keeper: ChunkStore, partition: Partition
) -> None:
    """A change that lost against a write is not made: the written payload stays."""
    name, count = partition.collection, 24
    await keeper.upsert_chunks(partition, [chunk(i, payload=b"old") for i in range(count)])

    async def rewrite() -> None:
        for i in range(0, count, 2):
            await keeper.upsert_chunks(partition, [chunk(i, payload=b"written")])

    async def reseal() -> int:
        return sum(
            [
                await keeper.replace_payloads(partition.tenant, [PayloadChange(name, f"d#1.{i}", b"old", b"new")])
                for i in range(count)
            ]
        )

    _, replaced = await asyncio.gather(rewrite(), reseal())
    fetched = await keeper.fetch_chunks(partition, [f"d#1.{i}" for i in range(count)])
    assert [found.payload for found in fetched] == [b"written" if i % 2 == 0 else b"new" for i in range(count)]
    assert count // 2 <= replaced <= count


# --- whole chunks, for backups ------------------------------------------------------------------------------------


async def whole(
    store: ChunkStore, partition: Partition, limit: int, document_id: str | None = None
) -> list[StoredChunk]:
    found: list[StoredChunk] = []
    after = ""
    while page := await store.list_chunks(partition, document_id=document_id, after=after, limit=limit):
        assert len(page) <= limit
        found.extend(page)
        after = page[-1].chunk_id
    return found


def as_tuple(one: StoredChunk) -> tuple[object, ...]:
    return one.chunk_id, one.document_id, one.version, one.ordinal, one.reader_set, one.payload, sorted(one.terms)


@pytest.mark.parametrize("limit", [1, 3, 1000])
async def test_a_walk_over_whole_chunks_gives_back_what_was_written(
    keeper: ChunkStore, partition: Partition, limit: int
) -> None:
    documents = ("d", "Z", "\u00fc", "\U0001f600")
    written = [
        chunk(i, document=name, readers=i, angle=0.3 * i, payload=b"%d" % i, terms=(f"{name}\0", "word", "word"))
        for name in documents
        for i in (10, 2, 0)
    ]
    await keeper.upsert_chunks(partition, written)
    await keeper.upsert_chunks(Partition(partition.tenant, "other"), [chunk(7)])
    await keeper.upsert_chunks(Partition(f"{partition.tenant}x", partition.collection), [chunk(8)])
    found = await whole(keeper, partition, limit)
    expected = sorted(written, key=lambda one: one.chunk_id)
    assert list(map(as_tuple, found)) == list(map(as_tuple, expected))
    for one, other in zip(found, expected, strict=True):
        assert list(one.terms) == sorted(one.terms)
        np.testing.assert_allclose(one.vector, other.vector, atol=1e-6)
    assert [one.ordinal for one in await whole(keeper, partition, limit, "\u00fc")] == [0, 10, 2]
    assert await whole(keeper, partition, limit, "nobody") == []
    assert await whole(keeper, Partition(partition.tenant, "nowhere"), limit) == []


async def test_whole_chunks_written_elsewhere_are_found_there_as_they_were_here(
    keeper: ChunkStore, partition: Partition
) -> None:
    """A backup and its restore: another partition that gets what a walk gave answers in the same way."""
    await keeper.upsert_chunks(
        partition,
        [chunk(i, readers=i % 3, angle=0.02 * i, terms=("word",) * (1 + i % 4) + (f"t{i % 5}",)) for i in range(40)],
    )
    copy = Partition(partition.tenant, "copy")
    await keeper.upsert_chunks(copy, await whole(keeper, partition, 7))
    assert await keeper.count_chunks(copy) == 40
    for readers in (None, frozenset({1}), frozenset({0, 2})):
        dense = [await keeper.search_dense(part, direction(0.3), 10, readers) for part in (partition, copy)]
        lexical = [await keeper.search_lexical(part, ["t1", "word"], 40, readers) for part in (partition, copy)]
        assert ids(dense[0]) == ids(dense[1])
        assert {hit.chunk_id: pytest.approx(hit.score, rel=1e-4) for hit in lexical[0]} == {
            hit.chunk_id: hit.score for hit in lexical[1]
        }


async def test_a_walk_over_whole_chunks_meets_what_stays_and_nothing_by_half(
    keeper: ChunkStore, partition: Partition
) -> None:
    """While others write: what stays is met once, and payload, terms and vector are of the same write."""
    stay = {f"m{i}#1.{i}" for i in range(24)}
    await keeper.upsert_chunks(partition, [chunk(i, document=f"m{i}", angle=0.0, payload=b"0") for i in range(24)])
    ended = asyncio.Event()

    async def write() -> None:
        turn = 0
        while not ended.is_set():
            turn += 1
            angle = 0.1 * (turn % 10)
            again = [
                chunk(i, document=f"m{i}", angle=angle, payload=b"%d" % (turn % 10), terms=(f"t{turn % 10}",))
                for i in range(turn % 3, 24, 3)
            ]
            await keeper.upsert_chunks(partition, [*again, chunk(turn, document=f"a{turn % 4}")])
            await keeper.delete_chunks(partition, f"a{(turn + 2) % 4}")

    writing = asyncio.create_task(write())
    try:
        for _ in range(4):
            found = await whole(keeper, partition, 5)
            met = [one.chunk_id for one in found]
            assert stay <= set(met)
            assert len(set(met)) == len(met)
            for one in (one for one in found if one.chunk_id in stay):
                turn = int(one.payload)
                np.testing.assert_allclose(one.vector, direction(0.1 * turn), atol=1e-5)
                assert one.terms in {(f"t{turn}",), ("word",)}
    finally:
        ended.set()
        await writing


async def test_capabilities(store: VectorStore) -> None:
    capabilities = await store.capabilities()
    assert capabilities.engine in {"memory", "chroma-embedded", "chroma-server"}
    assert capabilities.dense
    assert capabilities.lexical


# --- stores that last ---------------------------------------------------------------------------------------------


@pytest.fixture(params=["chroma-embedded", "chroma-server"])
def reopen(request: pytest.FixtureRequest) -> Reopen:
    if request.param == "chroma-embedded":
        return open_embedded
    server: ChromaServer = request.getfixturevalue("chroma_server")
    return lambda directory: open_with_chroma_server(directory, server.host, server.port)


async def test_everything_outlives_a_restart(reopen: Reopen, tmp_path: Path, partition: Partition) -> None:
    store = await reopen(tmp_path)
    await store.upsert_chunks(partition, [chunk(i, readers=1, payload=b"\0%d" % i) for i in range(30)])
    await store.upsert_chunks(partition, [chunk(0, document="gone")])
    await store.delete_chunks(partition, "gone")
    await store.assign_readers(partition, "d", 2)
    await store.close()

    store = await reopen(tmp_path)
    try:
        assert await store.count_chunks(partition) == 30
        expected = [f"d#1.{i}" for i in range(5)]
        assert ids(await store.search_dense(partition, direction(0), 5, frozenset({2}))) == expected
        assert await store.search_dense(partition, direction(0), 5, frozenset({1})) == []
        assert len(await store.search_lexical(partition, ["word"], 50, frozenset({2}))) == 30
        assert await store.fetch_chunks(partition, ["d#1.7"]) == [FetchedChunk("d#1.7", "d", 1, 7, 2, b"\x007")]
        with pytest.raises(FailedPrecondition):
            await store.search_dense(partition, direction(0, 4), 5, None)
        await store.delete_partition(partition)
    finally:
        await store.close()


async def test_lexical_scores_do_not_tell_what_words_others_have(store: VectorStore, partition: Partition) -> None:
    """How rare a word is, is counted over what may be read: chunks of others move no score."""
    own = [
        chunk(0, document="own", readers=1, terms=("apple", "pear", "plum")),
        chunk(1, document="own", readers=1, terms=("apple", "fig", "plum")),
        chunk(2, document="own", readers=2, terms=("fig", "fig", "plum")),
    ]
    query, allowed = ["apple", "pear", "fig", "fig"], frozenset({1, 2, 99})
    await store.upsert_chunks(partition, own)
    before = {hit.chunk_id: hit.score for hit in await store.search_lexical(partition, query, 9, allowed)}
    unnarrowed = {hit.chunk_id: hit.score for hit in await store.search_lexical(partition, query, 9, None)}
    assert before == pytest.approx(unnarrowed, rel=1e-5)
    # As long as the others, since the average length is the partition's.
    await store.upsert_chunks(
        partition, [chunk(n, document="secret", readers=3, terms=("apple", "pear", "fig")) for n in range(20)]
    )
    after = {hit.chunk_id: hit.score for hit in await store.search_lexical(partition, query, 9, allowed)}
    assert after == pytest.approx(before, rel=1e-5)
    # Nor do chunks that are gone, which an index may still count.
    await store.delete_chunks(partition, "secret")
    gone = {hit.chunk_id: hit.score for hit in await store.search_lexical(partition, query, 9, allowed)}
    assert gone == pytest.approx(before, rel=1e-5)
    assert await store.search_lexical(partition, ["nowhere"], 9, allowed) == []
