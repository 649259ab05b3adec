"""IndexedStore against the memory store: the same chunks, the same answers, whatever the narrowing."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.vectorstores.chroma import ChromaVectorIndex
from services.vectorstores.chunk_table import ChunkTable
from services.vectorstores.indexed import IndexedStore
from services.vectorstores.memory import MemoryVectorStore
from services.vectorstores.ports import Partition, StoredChunk, StoreHit, VectorStore
from services.vectorstores.tantivy_index import TantivyLexicalIndex

DIMENSION = 6
_numbers = itertools.count()

# At most 40 terms: up to there tantivy's one-byte document lengths are exact.
contents = st.lists(
    st.tuples(
        st.integers(0, 3),  # document
        st.integers(0, 4),  # reader set
        st.integers(0, 2**32 - 1),  # seed of the vector
        st.lists(st.sampled_from("abcdefg"), max_size=40),
    ),
    min_size=1,
    max_size=40,
)
reader_sets = st.none() | st.frozensets(st.integers(0, 5), max_size=4)


@pytest.fixture(scope="module", params=[0, 2_000], ids=["deepening", "exact-when-small"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[IndexedStore]:
    directory: Path = tmp_path_factory.mktemp("store")
    opened = IndexedStore(
        ChunkTable(directory / "chunks.sqlite3", vector_engine="chroma-embedded"),
        ChromaVectorIndex.embedded(directory / "vectors"),
        TantivyLexicalIndex(directory / "terms", max_open=3, max_writers=2),
        exact_limit=request.param,
    )
    yield opened
    opened.close_now()


def unit(seed: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    vector = np.random.default_rng(seed).standard_normal(DIMENSION).astype(np.float32)
    return vector / np.linalg.norm(vector)


def assert_same_ranking(actual: list[StoreHit], ranked: list[StoreHit], limit: int) -> None:
    """``actual`` is a top-``limit`` of ``ranked``, all hits of the oracle; equal scores may come in any order."""
    assert len(actual) == min(limit, len(ranked))
    truth = {hit.chunk_id: hit for hit in ranked}
    assert len({hit.chunk_id for hit in actual}) == len(actual)
    for hit, expected in zip(actual, ranked, strict=False):
        # The same score at each rank, and each chunk with its own score, document and version.
        assert hit.score == pytest.approx(expected.score, rel=1e-3, abs=1e-5)
        own = truth[hit.chunk_id]
        assert hit.score == pytest.approx(own.score, rel=1e-3, abs=1e-5)
        assert (hit.document_id, hit.version) == (own.document_id, own.version)


@settings(deadline=None, max_examples=12)
@given(
    rows=contents,
    pieces=st.integers(1, 3),
    moved=st.none() | st.tuples(st.integers(0, 3), st.integers(0, 4)),
    allowed=reader_sets,
    limit=st.integers(1, 45),
    query=st.lists(st.sampled_from("abcdefgz"), min_size=1, max_size=6),
    seed=st.integers(0, 2**32 - 1),
)
def test_searches_equal_the_oracle(
    store: IndexedStore,
    rows: list[tuple[int, int, int, list[str]]],
    pieces: int,
    moved: tuple[int, int] | None,
    allowed: frozenset[int] | None,
    limit: int,
    query: list[str],
    seed: int,
) -> None:
    partition = Partition("tenant", f"c{next(_numbers)}")
    chunks = [
        StoredChunk(f"{i}", f"d{document}", 1, i, readers, b"", unit(vector), tuple(terms))
        for i, (document, readers, vector, terms) in enumerate(rows)
    ]

    async def compare() -> None:
        oracle = MemoryVectorStore()
        both: list[VectorStore] = [oracle, store]
        for each in both:
            for piece in range(pieces):
                await each.upsert_chunks(partition, chunks[piece::pieces])
        # Replaced and deleted chunks stay in tantivy's statistics until a merge: compare scores before moving.
        everything = len(chunks)
        assert_same_ranking(
            await store.search_lexical(partition, query, limit, allowed),
            await oracle.search_lexical(partition, query, everything, allowed),
            limit,
        )
        for each in both:
            if moved is not None:
                await each.assign_readers(partition, f"d{moved[0]}", moved[1])
        assert_same_ranking(
            await store.search_dense(partition, unit(seed), limit, allowed),
            await oracle.search_dense(partition, unit(seed), everything, allowed),
            limit,
        )
        found = await store.search_lexical(partition, query, everything, allowed)
        expected = await oracle.search_lexical(partition, query, everything, allowed)
        assert {hit.chunk_id for hit in found} == {hit.chunk_id for hit in expected}
        await store.delete_partition(partition)

    asyncio.run(compare())


@settings(deadline=None, max_examples=10)
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("upsert"), st.integers(0, 2), st.integers(1, 3), st.integers(0, 3)),
            st.tuples(st.just("delete"), st.integers(0, 2), st.integers(0, 3), st.just(0)),
            st.tuples(st.just("assign"), st.integers(0, 2), st.just(0), st.integers(0, 3)),
            st.tuples(st.just("drop"), st.just(0), st.just(0), st.just(0)),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_any_history_leaves_what_the_oracle_has(store: IndexedStore, steps: list[tuple[str, int, int, int]]) -> None:
    partition = Partition("history", f"c{next(_numbers)}")
    known = [f"d{document}#{version}.{i}" for document in range(3) for version in range(1, 4) for i in range(3)]

    async def apply(each: VectorStore, step: tuple[str, int, int, int]) -> int | None:
        kind, number, version, readers = step
        document = f"d{number}"
        match kind:
            case "upsert":
                chunks = [
                    StoredChunk(f"{document}#{version}.{i}", document, version, i, readers, b"%d" % readers,
                                unit(100 * number + 10 * version + i), (f"t{i}", "all"))
                    for i in range(3)
                ]  # fmt: skip
                await each.upsert_chunks(partition, chunks)
            case "delete":
                return await each.delete_chunks(partition, document, before_version=version or None)
            case "assign":
                await each.assign_readers(partition, document, readers)
            case _:
                await each.delete_partition(partition)
        return None

    async def compare() -> None:
        oracle = MemoryVectorStore()
        for step in steps:
            assert await apply(store, step) == await apply(oracle, step)
            assert await store.count_chunks(partition) == await oracle.count_chunks(partition)
            assert await store.fetch_chunks(partition, known) == await oracle.fetch_chunks(partition, known)
            for allowed in (None, frozenset({1}), frozenset({0, 2, 3})):
                assert_same_ranking(
                    await store.search_dense(partition, unit(1), 4, allowed),
                    await oracle.search_dense(partition, unit(1), len(known), allowed),
                    4,
                )
                for term in ("t1", "all"):
                    found = await store.search_lexical(partition, [term], len(known), allowed)
                    expected = await oracle.search_lexical(partition, [term], len(known), allowed)
                    assert {hit.chunk_id for hit in found} == {hit.chunk_id for hit in expected}
        await store.delete_partition(partition)

    asyncio.run(compare())
