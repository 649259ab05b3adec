"""IndexedStore: interruptions, recovery, locks and formats."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.corpus.errors import DataLoss, FailedPrecondition, Unavailable
from services.vectorstores.checks import dimension_mismatch
from services.vectorstores.chunk_table import ChunkTable
from services.vectorstores.directory_lock import DirectoryLock
from services.vectorstores.embedded import open_embedded, open_with_chroma_server
from services.vectorstores.indexed import IndexedStore
from services.vectorstores.ports import IndexedTerms, Partition, StoredChunk, Vector
from services.vectorstores.tantivy_index import TantivyLexicalIndex
from tests.support.vector_index import DictVectorIndex

PARTITION = Partition("acme", "default")


def unit(seed: int) -> Vector:
    vector = np.random.default_rng(seed).standard_normal(4).astype(np.float32)
    return vector / np.linalg.norm(vector)


def chunk(ordinal: int, *, document: str = "d", version: int = 1, readers: int = 0, word: str = "word") -> StoredChunk:
    chunk_id = f"{document}#{version}.{ordinal}"
    return StoredChunk(chunk_id, document, version, ordinal, readers, word.encode(), unit(ordinal), (word,))


class PowerCutError(Exception):
    """Stands for the process ending at this point."""


class Interrupted:
    """An engine whose writes stop at a given point, counted over all engines together.

    ``before`` ends the process before that write happens, otherwise after it.
    """

    WRITES = frozenset(
        {"upsert", "delete", "drop", "reserve", "put", "hide", "remove", "hide_partition", "remove_partition"}
        | {"set_readers"}
    )

    def __init__(self, engine: Any, clock: list[int], stop_at: int, *, before: bool) -> None:
        self._engine, self._clock, self._stop_at, self._before = engine, clock, stop_at, before

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._engine, name)
        if name not in self.WRITES:
            return method

        def write(*args: Any) -> Any:
            self._clock[0] += 1
            if self._clock[0] == self._stop_at and self._before:
                raise PowerCutError
            result = method(*args)
            if self._clock[0] == self._stop_at:
                raise PowerCutError
            return result

        return write


async def upsert(store: IndexedStore) -> None:
    await store.upsert_chunks(PARTITION, [chunk(i, version=2, word="fresh", readers=1) for i in range(3)])


async def replace(store: IndexedStore) -> None:
    await store.upsert_chunks(PARTITION, [chunk(i, word="fresh", readers=1) for i in range(3)])


async def delete(store: IndexedStore) -> None:
    await store.delete_chunks(PARTITION, "d")


async def assign(store: IndexedStore) -> None:
    await store.assign_readers(PARTITION, "d", 5)


async def drop(store: IndexedStore) -> None:
    await store.delete_partition(PARTITION)


async def state(store: IndexedStore) -> dict[str, Any]:
    """Everything that a caller can see of the partition."""
    ids = [f"{d}#{v}.{i}" for d in ("d", "e") for v in (1, 2) for i in range(4)]
    seen: dict[str, Any] = {
        "count": await store.count_chunks(PARTITION),
        "fetched": await store.fetch_chunks(PARTITION, ids),
    }
    for allowed in (None, frozenset({0}), frozenset({1}), frozenset({5})):
        dense = await store.search_dense(PARTITION, unit(0), 20, allowed)
        seen[f"dense {allowed}"] = [hit.chunk_id for hit in dense]
        for word in ("word", "fresh"):
            lexical = await store.search_lexical(PARTITION, [word], 20, allowed)
            seen[f"{word} {allowed}"] = {hit.chunk_id for hit in lexical}
    return seen


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("stop_at", [1, 2, 3, 4])
@pytest.mark.parametrize("operation", [upsert, replace, delete, assign, drop])
async def test_an_interrupted_write_shows_nothing_wrong_and_repeating_it_completes_it(
    tmp_path: Path, operation: Any, stop_at: int, before: bool
) -> None:
    def open_store(
        name: str, vectors: DictVectorIndex, *, stop: int | None = None
    ) -> tuple[IndexedStore, ChunkTable, TantivyLexicalIndex]:
        (tmp_path / name).mkdir(exist_ok=True)
        chunks = ChunkTable(tmp_path / name / "chunks.sqlite3", vector_engine="dict")
        lexical = TantivyLexicalIndex(tmp_path / name / "terms")
        clock = [0]
        engines: list[Any] = [chunks, vectors, lexical]
        if stop is not None:
            engines = [Interrupted(engine, clock, stop, before=before) for engine in engines]
        return IndexedStore(*engines), chunks, lexical

    existing = [*(chunk(i) for i in range(4)), chunk(0, document="e")]

    # What is right: the same without an interruption.
    expected_vectors = DictVectorIndex()
    undisturbed, _, _ = open_store("undisturbed", expected_vectors)
    await undisturbed.upsert_chunks(PARTITION, existing)
    at_first = await state(undisturbed)
    await operation(undisturbed)
    expected = await state(undisturbed)
    await undisturbed.close()

    vectors = DictVectorIndex()
    store, _, _ = open_store("interrupted", vectors)
    await store.upsert_chunks(PARTITION, existing)
    await store.close()

    store, _, _ = open_store("interrupted", vectors, stop=stop_at)
    try:
        await operation(store)
        interrupted = False
    except PowerCutError:
        interrupted = True
    assert interrupted or operation is assign, "every other operation has at least four writes"
    half = await state(store)
    await store.close()

    # Nobody ever sees a chunk that neither the state before nor the state after shows to the same readers.
    for view, seen in half.items():
        if view not in {"count", "fetched"} and not (operation is replace and "None" not in view):
            assert set(seen) <= set(at_first[view]) | set(expected[view]), view

    # After a restart nothing is left that the table does not list as ready …
    store, _, _ = open_store("interrupted", vectors)
    store.recover()
    ready = {found.chunk_id for found in (await state(store))["fetched"]}
    assert set(vectors.kept.get(PARTITION, {})) == ready
    # … and repeating the call makes it complete.
    await operation(store)
    assert await state(store) == expected
    assert set(vectors.kept.get(PARTITION, {})) == set(expected_vectors.kept.get(PARTITION, {}))
    await store.close()


@pytest.mark.parametrize("operation", [upsert, delete])
@pytest.mark.parametrize("stop_at", [1, 2, 3])
async def test_what_is_written_or_removed_by_half_is_still_counted_as_the_documents(
    tmp_path: Path, operation: Any, stop_at: int
) -> None:
    table, vectors = ChunkTable(tmp_path / "chunks.sqlite3", vector_engine="dict"), DictVectorIndex()
    lexical = TantivyLexicalIndex(tmp_path / "terms")
    if operation is delete:
        whole = IndexedStore(table, vectors, lexical)
        await upsert(whole)
    clock = [0]
    engines: list[Any] = [Interrupted(engine, clock, stop_at, before=False) for engine in (table, vectors, lexical)]
    store = IndexedStore(*engines)
    with pytest.raises(PowerCutError):
        await operation(store)
    assert await store.count_chunks(PARTITION) == 0
    assert await store.count_chunks(PARTITION, "d") == 3
    assert await store.delete_chunks(PARTITION, "d") == 3
    assert await store.count_chunks(PARTITION, "d") == 0
    assert not vectors.kept.get(PARTITION)
    await store.close()


async def test_hits_that_the_table_does_not_know_are_dropped_and_made_up_for(tmp_path: Path) -> None:
    vectors = DictVectorIndex()
    lexical = TantivyLexicalIndex(tmp_path / "terms")
    store = IndexedStore(ChunkTable(tmp_path / "chunks.sqlite3", vector_engine="dict"), vectors, lexical)
    await store.upsert_chunks(PARTITION, [chunk(i) for i in range(6)])
    near = unit(99)
    vectors.upsert(PARTITION, [f"ghost{i}" for i in range(50)], np.stack([near] * 50))
    lexical.upsert(PARTITION, [_ghost(i) for i in range(50)])
    assert len(await store.search_dense(PARTITION, near, 6, None)) == 6
    assert len(await store.search_lexical(PARTITION, ["word"], 6, None)) == 6
    await store.close()


def _ghost(number: int) -> IndexedTerms:
    return IndexedTerms(f"ghost{number}", 0, ("word", "word"))


async def test_narrowed_searches_ask_for_little_and_go_deeper_only_when_short(tmp_path: Path) -> None:
    vectors = DictVectorIndex()
    store = IndexedStore(
        ChunkTable(tmp_path / "chunks.sqlite3", vector_engine="dict"), vectors, TantivyLexicalIndex(tmp_path / "terms"),
        exact_limit=0,
    )  # fmt: skip
    await store.upsert_chunks(PARTITION, [chunk(i, readers=i % 10) for i in range(1000)])
    hits = await store.search_dense(PARTITION, unit(5), 5, frozenset({5}))
    assert hits[0].chunk_id == "d#1.5"
    assert len(hits) == 5
    assert vectors.depths[0] == 100, "5 hits at a selectivity of one tenth, and as many again"
    assert vectors.depths[-1] < 1000, "most of the partition is never looked at"
    await store.close()


async def test_scores_are_the_same_through_the_graph_and_exactly(tmp_path: Path) -> None:
    """Others' chunks move a search from the graph to the exact way: what a caller sees stays the same (A1)."""
    random = np.random.default_rng(11)

    def wide(ordinal: int, readers: int) -> StoredChunk:
        vector = random.standard_normal(96).astype(np.float32)
        made = chunk(ordinal, readers=readers, document=f"d{readers}")
        return dataclasses.replace(made, vector=vector / np.linalg.norm(vector))

    store = await open_embedded(tmp_path)
    await store.upsert_chunks(PARTITION, [wide(ordinal, 1) for ordinal in range(20)])
    queries = [wide(0, 0).vector for _ in range(8)]
    before = [await store.search_dense(PARTITION, query, 5, frozenset({1})) for query in queries]  # by the graph
    await store.upsert_chunks(PARTITION, [wide(ordinal, 2) for ordinal in range(200)])
    after = [await store.search_dense(PARTITION, query, 5, frozenset({1})) for query in queries]  # exactly
    assert after == before
    await store.close()


async def test_writes_and_searches_stay_off_the_event_loop(tmp_path: Path) -> None:
    threads: set[str] = set()

    class Watching(DictVectorIndex):
        def upsert(self, partition: Partition, ids: Sequence[str], vectors: Vector) -> None:
            threads.add(threading.current_thread().name)
            super().upsert(partition, ids, vectors)

        def search(self, partition: Partition, vector: Vector, limit: int) -> list[tuple[str, float]]:
            threads.add(threading.current_thread().name)
            return super().search(partition, vector, limit)

    store = IndexedStore(
        ChunkTable(tmp_path / "chunks.sqlite3", vector_engine="dict"),
        Watching(),
        TantivyLexicalIndex(tmp_path / "terms"),
    )
    await asyncio.gather(*(store.upsert_chunks(PARTITION, [chunk(i)]) for i in range(4)))
    await store.search_dense(PARTITION, unit(0), 1, None)
    assert {name.rsplit("_", 1)[0] for name in threads} == {"store-write", "store-read"}
    assert len([name for name in threads if name.startswith("store-write")]) == 1
    await store.close()


async def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = IndexedStore(
        ChunkTable(tmp_path / "chunks.sqlite3", vector_engine="dict"),
        DictVectorIndex(),
        TantivyLexicalIndex(tmp_path / "terms"),
    )
    await asyncio.gather(store.close(), store.close())
    await store.close()
    with pytest.raises(Unavailable):
        await store.count_chunks(PARTITION)
    with pytest.raises(Unavailable):
        await store.upsert_chunks(PARTITION, [chunk(0)])


# --- opening ------------------------------------------------------------------------------------------------------

_WRITER = """
import asyncio, sys
from pathlib import Path
import numpy as np
from services.vectorstores.embedded import open_embedded
from services.vectorstores.ports import Partition, StoredChunk

async def main():
    store = await open_embedded(Path(sys.argv[1]))
    print("open", flush=True)
    for i in range(100_000):
        vector = np.random.default_rng(i).standard_normal(4).astype(np.float32)
        vector /= np.linalg.norm(vector)
        chunks = [StoredChunk(f"{i}.{n}", f"d{i}", 1, n, 0, b"p", vector, ("word", f"w{i}")) for n in range(4)]
        await store.upsert_chunks(Partition("acme", "default"), chunks)
        print(i, flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("acknowledged", [1, 7])
async def test_what_was_acknowledged_survives_a_kill(tmp_path: Path, acknowledged: int) -> None:
    root = Path(__file__).parents[2]
    with subprocess.Popen(  # noqa: ASYNC220 (nothing else runs on this test's loop)
        [sys.executable, "-c", _WRITER, str(tmp_path / "data")],
        stdout=subprocess.PIPE,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"open\n"
            with pytest.raises(FailedPrecondition, match="in use by another groundwire store"):
                await open_embedded(tmp_path / "data")
            while int(process.stdout.readline()) < acknowledged:
                pass
        finally:
            process.send_signal(signal.SIGKILL)
        written = [int(line) for line in process.stdout.read().split()]
    last = max([acknowledged, *written])

    store = await open_embedded(tmp_path / "data")
    try:
        # At most one more call was under way: either all of it is there, or none.
        count = await store.count_chunks(PARTITION)
        assert count in {4 * (last + 1), 4 * (last + 2)}
        assert len(await store.search_dense(PARTITION, unit(0), 4 * (last + 3), None)) == count
        assert len(await store.search_lexical(PARTITION, ["word"], 4 * (last + 3), None)) == count
        for i in range(last + 1):
            found = await store.search_lexical(PARTITION, [f"w{i}"], 10, None)
            assert {hit.chunk_id for hit in found} == {f"{i}.{n}" for n in range(4)}
    finally:
        await store.close()


async def test_one_directory_is_open_once(tmp_path: Path) -> None:
    store = await open_embedded(tmp_path)
    with pytest.raises(FailedPrecondition, match="in use by another groundwire store"):
        await open_embedded(tmp_path)
    await store.close()
    store = await open_embedded(tmp_path)
    await store.close()


def test_the_lock_can_be_released_twice(tmp_path: Path) -> None:
    lock = DirectoryLock.acquire(tmp_path / "new")
    lock.release()
    again = DirectoryLock.acquire(tmp_path / "new")
    lock.release()
    with pytest.raises(FailedPrecondition):
        DirectoryLock.acquire(tmp_path / "new")
    again.release()


async def test_an_unknown_format_is_refused_and_left_alone(tmp_path: Path) -> None:
    await (await open_embedded(tmp_path)).close()
    with closing(sqlite3.connect(tmp_path / "chunks.sqlite3")) as database:
        database.execute("UPDATE meta SET value = '2' WHERE key = 'format'")
        database.commit()
    for _ in range(2):  # the refusal itself leaves the directory unlocked
        with pytest.raises(FailedPrecondition, match="has format 2"):
            await open_embedded(tmp_path)


async def test_another_vector_engine_is_refused(tmp_path: Path) -> None:
    await (await open_embedded(tmp_path)).close()
    with pytest.raises(FailedPrecondition, match="chroma-embedded, not chroma-server"):
        await open_with_chroma_server(tmp_path, "127.0.0.1", 1)


async def test_a_damaged_table_is_data_loss(tmp_path: Path) -> None:
    (tmp_path / "chunks.sqlite3").write_bytes(b"this is no database at all" * 100)
    with pytest.raises(DataLoss):
        await open_embedded(tmp_path)


async def test_a_server_that_is_not_there_is_unavailable_and_holds_no_lock(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(Unavailable):
            await open_with_chroma_server(tmp_path, "127.0.0.1", 1)


async def test_a_mismatch_that_only_the_engine_sees_comes_through(tmp_path: Path) -> None:
    class Refusing(DictVectorIndex):
        def upsert(self, partition: Partition, ids: Sequence[str], vectors: Vector) -> None:
            raise dimension_mismatch()

    store = IndexedStore(
        ChunkTable(tmp_path / "chunks.sqlite3", vector_engine="dict"),
        Refusing(),
        TantivyLexicalIndex(tmp_path / "terms"),
    )
    with pytest.raises(FailedPrecondition):
        await store.upsert_chunks(PARTITION, [chunk(0)])
    assert await store.count_chunks(PARTITION) == 0
    await store.close()
