"""A vector store in dictionaries: exact cosine and exact BM25, for tests (as the oracle) and throw-away runs.

Everything is computed by brute force on the caller's thread, so it suits thousands of chunks, not millions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from services.vectorstores import bm25
from services.vectorstores.checks import check_chunks, check_query_vector
from services.vectorstores.ports import (
    FetchedChunk,
    KeptPayload,
    Partition,
    PayloadChange,
    StoreCapabilities,
    StoredChunk,
    StoreHit,
    Vector,
)


@dataclass
class _Shelf:
    """One partition: its dimension is fixed by the first chunks and forgotten with the partition."""

    dimension: int
    chunks: dict[str, StoredChunk] = field(default_factory=dict)


class MemoryVectorStore:
    """Implements the ChunkStore port in memory; nothing survives the process."""

    def __init__(self) -> None:
        self._shelves: dict[Partition, _Shelf] = {}

    async def upsert_chunks(self, partition: Partition, chunks: Sequence[StoredChunk]) -> None:
        """Store chunks, replacing those of the same id (the last one wins within a call)."""
        if not chunks:
            return
        shelf = self._shelves.get(partition)
        dimension = check_chunks(chunks, shelf.dimension if shelf else None)
        if shelf is None:
            shelf = self._shelves[partition] = _Shelf(dimension)
        for chunk in chunks:
            # A copy: the caller may go on writing to its array.
            shelf.chunks[chunk.chunk_id] = replace(
                chunk, vector=np.array(chunk.vector, dtype=np.float32), terms=tuple(sorted(chunk.terms))
            )

    async def delete_chunks(self, partition: Partition, document_id: str, *, before_version: int | None = None) -> int:
        """Remove a document's chunks, or only those older than ``before_version``; return how many were removed."""
        shelf = self._shelves.get(partition)
        if shelf is None:
            return 0
        doomed = _of_document(shelf, document_id, before_version)
        for chunk_id in doomed:
            del shelf.chunks[chunk_id]
        return len(doomed)

    async def delete_partition(self, partition: Partition) -> None:
        """Remove everything that a partition holds, its dimension included."""
        self._shelves.pop(partition, None)

    async def assign_readers(self, partition: Partition, document_id: str, reader_set: int) -> None:
        """Move all chunks of a document to another reader set."""
        shelf = self._shelves.get(partition)
        if shelf is None:
            return
        for chunk in list(shelf.chunks.values()):
            if chunk.document_id == document_id:
                shelf.chunks[chunk.chunk_id] = replace(chunk, reader_set=reader_set)

    async def search_dense(
        self, partition: Partition, vector: Vector, limit: int, reader_sets: frozenset[int] | None
    ) -> list[StoreHit]:
        """The ``limit`` nearest chunks by cosine among the given reader sets, best first; exact."""
        shelf = self._shelves.get(partition)
        if shelf is None:
            return []
        check_query_vector(vector, shelf.dimension)
        allowed = _allowed(shelf, reader_sets)
        if not allowed:
            return []
        scores = np.stack([chunk.vector for chunk in allowed]) @ vector.astype(np.float32)
        return _best(zip(allowed, scores.tolist(), strict=True), limit)

    async def search_lexical(
        self, partition: Partition, terms: Sequence[str], limit: int, reader_sets: frozenset[int] | None
    ) -> list[StoreHit]:
        """The ``limit`` best chunks by BM25 (Robertson and Zaragoza 2009, eq. 3.15, with Lucene's idf).

        How much a word tells is counted over the chunks of the given reader sets alone, so that scores say nothing of
        others; the average length is that of the whole partition. A term that the query repeats counts as often.
        """
        shelf = self._shelves.get(partition)
        if shelf is None or not shelf.chunks:
            return []
        allowed = _allowed(shelf, reader_sets)
        total = len(allowed)
        mean_length = sum(len(chunk.terms) for chunk in shelf.chunks.values()) / len(shelf.chunks)
        wanted = Counter(terms)
        holding = Counter(term for chunk in allowed for term in set(chunk.terms) & wanted.keys())
        idf = {term: bm25.idf(total, n) for term, n in holding.items()}
        scored: list[tuple[StoredChunk, float]] = []
        for chunk in allowed:
            counts = Counter(term for term in chunk.terms if term in wanted)
            if not counts:
                continue
            norm = bm25.K1 * (1 - bm25.B + bm25.B * len(chunk.terms) / mean_length)
            score = sum(wanted[t] * idf[t] * n * (bm25.K1 + 1) / (n + norm) for t, n in counts.items())
            scored.append((chunk, score))
        return _best(scored, limit)

    async def fetch_chunks(self, partition: Partition, chunk_ids: Sequence[str]) -> list[FetchedChunk]:
        """The named chunks, in the order asked; unknown ids are left out."""
        shelf = self._shelves.get(partition)
        found = [shelf.chunks[chunk_id] for chunk_id in chunk_ids if chunk_id in shelf.chunks] if shelf else []
        return [_fetched(chunk) for chunk in found]

    async def list_payloads(
        self, tenant: str, *, after: tuple[str, str] = ("", ""), limit: int = 100
    ) -> list[KeptPayload]:
        """See the port."""
        kept = [
            KeptPayload(partition.collection, _fetched(chunk))
            for partition, shelf in self._shelves.items()
            if partition.tenant == tenant
            for chunk in shelf.chunks.values()
            if (partition.collection, chunk.chunk_id) > after
        ]
        return sorted(kept, key=lambda found: (found.collection, found.chunk.chunk_id))[:limit]

    async def replace_payloads(self, tenant: str, changes: Sequence[PayloadChange]) -> int:
        """See the port."""
        replaced = 0
        for change in changes:
            shelf = self._shelves.get(Partition(tenant, change.collection))
            chunk = shelf.chunks.get(change.chunk_id) if shelf else None
            if shelf is not None and chunk is not None and chunk.payload == change.expected:
                shelf.chunks[change.chunk_id] = replace(chunk, payload=change.payload)
                replaced += 1
        return replaced

    async def list_chunks(
        self, partition: Partition, *, document_id: str | None = None, after: str = "", limit: int = 100
    ) -> list[StoredChunk]:
        """See the port."""
        shelf = self._shelves.get(partition)
        found = [
            replace(chunk, vector=chunk.vector.copy())
            for chunk in (shelf.chunks.values() if shelf else ())
            if chunk.chunk_id > after and document_id in (None, chunk.document_id)
        ]
        return sorted(found, key=lambda chunk: chunk.chunk_id)[:limit]

    async def count_chunks(
        self, partition: Partition, document_id: str | None = None, *, before_version: int | None = None
    ) -> int:
        """How many chunks the partition, or a document in it, has."""
        shelf = self._shelves.get(partition)
        if shelf is None:
            return 0
        return len(shelf.chunks) if document_id is None else len(_of_document(shelf, document_id, before_version))

    async def capabilities(self) -> StoreCapabilities:
        """Dense and lexical."""
        return StoreCapabilities("memory", dense=True, lexical=True)

    async def close(self) -> None:
        """Forget everything."""
        self._shelves.clear()


def _fetched(chunk: StoredChunk) -> FetchedChunk:
    return FetchedChunk(
        chunk.chunk_id, chunk.document_id, chunk.version, chunk.ordinal, chunk.reader_set, chunk.payload
    )


def _allowed(shelf: _Shelf, reader_sets: frozenset[int] | None) -> list[StoredChunk]:
    return [chunk for chunk in shelf.chunks.values() if reader_sets is None or chunk.reader_set in reader_sets]


def _of_document(shelf: _Shelf, document_id: str, before_version: int | None) -> list[str]:
    return [
        chunk.chunk_id
        for chunk in shelf.chunks.values()
        if chunk.document_id == document_id and (before_version is None or chunk.version < before_version)
    ]


def _best(scored: Iterable[tuple[StoredChunk, float]], limit: int) -> list[StoreHit]:
    ranked = sorted(scored, key=lambda pair: (-pair[1], pair[0].chunk_id))
    return [StoreHit(c.chunk_id, c.document_id, c.version, score) for c, score in ranked[: max(limit, 0)]]
