"""IndexedStore: a chunk table, a vector index and a lexical index joined into one VectorStore.

The order of writes makes every interruption harmless. Upsert: reserve rows, vectors, terms, rows ready. Delete:
hide rows, terms, vectors, remove rows. So an engine never holds what the table does not list, a search never
returns what is not ready, and repeating an interrupted call (or opening the store again) finishes or undoes it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from services.corpus.errors import Unavailable, Violations
from services.vectorstores.checks import check_chunks, check_query_vector
from services.vectorstores.chunk_table import ChunkTable
from services.vectorstores.directory_lock import DirectoryLock
from services.vectorstores.ports import (
    FetchedChunk,
    IndexedTerms,
    KeptPayload,
    LexicalIndex,
    Partition,
    PayloadChange,
    StoreCapabilities,
    StoredChunk,
    StoreHit,
    Vector,
    VectorIndex,
)

Result = TypeVar("Result")

# Stored vectors are single precision and come from a quantized model: further decimals mean nothing.
_SCORE_DECIMALS = 6
# Above this many allowed chunks an exact search, which reads all their vectors, is never the cheaper way.
_EXACT_LIMIT = 2_000
# Reading a vector from Chroma costs about three times as much as one more hit of a search (26 and 8 µs measured).
_VECTOR_COST = 3
# How much deeper than selectivity alone suggests the first search goes, and how the next ones grow. A graph index
# is least exact at the end of what it returns: the margin also keeps the hits that are used away from there.
_MARGIN = 2
_DEEPEN = 4


class IndexedStore:
    """Implements ChunkStore over three synchronous engines, in threads of its own: one writes, several read.

    ``lock`` is released after everything is closed. ``exact_limit`` is the largest allowed set (in chunks) that
    is ever searched by brute force.
    """

    def __init__(
        self,
        chunks: ChunkTable,
        vectors: VectorIndex,
        lexical: LexicalIndex,
        *,
        lock: DirectoryLock | None = None,
        readers: int = 4,
        exact_limit: int = _EXACT_LIMIT,
    ) -> None:
        self._chunks = chunks
        self._vectors = vectors
        self._lexical = lexical
        self._lock = lock
        self._exact_limit = exact_limit
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="store-write")
        self._readers = ThreadPoolExecutor(readers, thread_name_prefix="store-read")
        self._closing: asyncio.Future[None] | None = None

    def recover(self) -> None:
        """Undo half-written upserts and finish half-done deletes of an earlier process; call before first use."""
        for partition, ids in self._chunks.unfinished().items():
            self._erase(partition, ids)

    # --- the port: hand over to a thread --------------------------------------------------------------------------

    async def upsert_chunks(self, partition: Partition, chunks: Sequence[StoredChunk]) -> None:
        """Store chunks, replacing those of the same id (the last one wins within a call)."""
        if chunks:
            await self._run(self._writer, lambda: self._upsert(partition, chunks))

    async def delete_chunks(self, partition: Partition, document_id: str, *, before_version: int | None = None) -> int:
        """Remove a document's chunks, or only those older than ``before_version``; return how many were removed."""

        def delete() -> int:
            ids = self._chunks.ids_of_document(partition, document_id, before_version)
            self._erase(partition, ids)
            return len(ids)

        return await self._run(self._writer, delete)

    async def delete_partition(self, partition: Partition) -> None:
        """Remove everything that a partition holds, its dimension included."""

        def drop() -> None:
            self._chunks.hide_partition(partition)
            self._lexical.drop(partition)
            self._vectors.drop(partition)
            self._chunks.remove_partition(partition)

        await self._run(self._writer, drop)

    async def assign_readers(self, partition: Partition, document_id: str, reader_set: int) -> None:
        """Move all chunks of a document to another reader set.

        The table changes first, and narrows both kinds of search from then on; an interruption before the lexical
        index follows hides chunks from lexical searches until the call is repeated, and shows none too many.
        """

        def assign() -> None:
            self._lexical.upsert(partition, self._chunks.set_readers(partition, document_id, reader_set))

        violations = Violations()
        violations.require(0 <= reader_set < 2**63, "reader_set", "must be between 0 and 2^63 - 1")
        violations.raise_if_any()
        await self._run(self._writer, assign)

    async def search_dense(
        self, partition: Partition, vector: Vector, limit: int, reader_sets: frozenset[int] | None
    ) -> list[StoreHit]:
        """The ``limit`` nearest chunks by cosine among the given reader sets, best first."""
        return await self._run(self._readers, lambda: self._search_dense(partition, vector, limit, reader_sets))

    async def search_lexical(
        self, partition: Partition, terms: Sequence[str], limit: int, reader_sets: frozenset[int] | None
    ) -> list[StoreHit]:
        """The ``limit`` best chunks by BM25 that share at least one term, best first."""

        def narrowed(depth: int) -> list[tuple[str, float]]:
            return self._lexical.search(partition, terms, depth, reader_sets)

        return await self._run(self._readers, lambda: self._deepened(partition, narrowed, limit, limit, reader_sets))

    async def fetch_chunks(self, partition: Partition, chunk_ids: Sequence[str]) -> list[FetchedChunk]:
        """The named chunks, in the order asked; unknown ids are left out."""
        return await self._run(self._readers, lambda: self._chunks.fetch(partition, chunk_ids))

    async def list_payloads(
        self, tenant: str, *, after: tuple[str, str] = ("", ""), limit: int = 100
    ) -> list[KeptPayload]:
        """A page of all payloads of a tenant, as they are kept."""
        return await self._run(self._readers, lambda: self._chunks.payloads(tenant, after, limit))

    async def replace_payloads(self, tenant: str, changes: Sequence[PayloadChange]) -> int:
        """Put other payloads in the place of those that are as expected; return how many."""
        return await self._run(self._writer, lambda: self._chunks.replace_payloads(tenant, changes))

    async def list_chunks(
        self, partition: Partition, *, document_id: str | None = None, after: str = "", limit: int = 100
    ) -> list[StoredChunk]:
        """A page of whole chunks; between two writes, so that none is half of one and half of another."""
        return await self._run(self._writer, lambda: self._whole(partition, document_id, after, limit))

    async def count_chunks(
        self, partition: Partition, document_id: str | None = None, *, before_version: int | None = None
    ) -> int:
        """How many chunks the partition, or a document in it, has; of a document, those not ready as well."""

        def count() -> int:
            if document_id is None:
                return sum(self._chunks.tallies(partition).values())
            return len(self._chunks.ids_of_document(partition, document_id, before_version))

        return await self._run(self._readers, count)

    async def capabilities(self) -> StoreCapabilities:
        """Dense and lexical."""
        return StoreCapabilities(self._vectors.engine, dense=True, lexical=True)

    async def close(self) -> None:
        """Finish what runs, then release files and connections; calling it again waits for the first."""
        if self._closing is None:
            self._closing = asyncio.ensure_future(asyncio.to_thread(self.close_now))
        await asyncio.shield(self._closing)

    def close_now(self) -> None:
        """The same, blocking, for one caller."""
        self._readers.shutdown(wait=True)
        self._writer.shutdown(wait=True)
        try:
            self._lexical.close()
            self._vectors.close()
            self._chunks.close()
        finally:
            if self._lock is not None:
                self._lock.release()

    async def _run(self, executor: Executor, work: Callable[[], Result]) -> Result:
        try:
            future = executor.submit(work)
        except RuntimeError as error:
            raise Unavailable("the store is closed") from error
        return await asyncio.wrap_future(future)

    # --- the work, in a thread ------------------------------------------------------------------------------------

    def _upsert(self, partition: Partition, given: Sequence[StoredChunk]) -> None:
        dimension = check_chunks(given, self._chunks.dimension(partition))
        chunks = list({chunk.chunk_id: chunk for chunk in given}.values())
        self._chunks.reserve(partition, dimension, chunks)
        matrix = np.stack([chunk.vector for chunk in chunks]).astype(np.float32, copy=False)
        self._vectors.upsert(partition, [chunk.chunk_id for chunk in chunks], matrix)
        self._lexical.upsert(partition, [IndexedTerms(c.chunk_id, c.reader_set, c.terms) for c in chunks])
        self._chunks.put(partition, chunks)

    def _whole(self, partition: Partition, document_id: str | None, after: str, limit: int) -> list[StoredChunk]:
        while rows := self._chunks.whole(partition, document_id, after, limit):
            vectors = dict(zip(*self._vectors.vectors(partition, [chunk.chunk_id for chunk, _ in rows]), strict=True))
            found = [
                StoredChunk(
                    chunk_id=chunk.chunk_id,
                    document_id=chunk.document_id,
                    version=chunk.version,
                    ordinal=chunk.ordinal,
                    reader_set=chunk.reader_set,
                    payload=chunk.payload,
                    vector=vectors[chunk.chunk_id],
                    terms=terms,
                )
                for chunk, terms in rows
                if chunk.chunk_id in vectors
            ]
            if found:
                return found
            after = rows[-1][0].chunk_id  # an empty page would be taken for the end
        return []

    def _erase(self, partition: Partition, ids: Sequence[str]) -> None:
        if not ids:
            return
        self._chunks.hide(partition, ids)
        self._lexical.delete(partition, ids)
        self._vectors.delete(partition, ids)
        self._chunks.remove(partition, ids)

    def _search_dense(
        self, partition: Partition, vector: Vector, limit: int, reader_sets: frozenset[int] | None
    ) -> list[StoreHit]:
        dimension = self._chunks.dimension(partition)
        if dimension is None:
            return []
        check_query_vector(vector, dimension)
        tallies = self._chunks.tallies(partition)
        readable = [reader_set for reader_set in tallies if reader_sets is None or reader_set in reader_sets]
        allowed = sum(tallies[reader_set] for reader_set in readable)
        wanted = min(limit, allowed)
        if wanted < 1:
            return []
        # The engine searches unfiltered, so that many hits are needed for `wanted` of them to be allowed.
        depth = wanted
        if reader_sets is not None:
            depth = math.ceil(_MARGIN * wanted * sum(tallies.values()) / allowed)
        exact_is_possible = allowed <= self._exact_limit
        if exact_is_possible and allowed * _VECTOR_COST <= depth:
            return self._search_exactly(partition, vector, limit, readable)

        def unfiltered(depth: int) -> list[tuple[str, float]]:
            return self._vectors.search(partition, vector, depth)

        hits = self._deepened(partition, unfiltered, depth, limit, reader_sets)
        if len(hits) < wanted and exact_is_possible:
            # A graph index may not reach every vector, however deep it is searched.
            return self._search_exactly(partition, vector, limit, readable)
        # The graph's own digits would tell which way the search went, and with it how many others' chunks there are.
        return self._scored(partition, vector, [hit.chunk_id for hit in hits], reader_sets)

    def _deepened(
        self,
        partition: Partition,
        search: Callable[[int], list[tuple[str, float]]],
        depth: int,
        limit: int,
        reader_sets: frozenset[int] | None,
    ) -> list[StoreHit]:
        """Search ever deeper until ``limit`` hits are ready and allowed by the table, or there are no more."""
        if limit < 1 or (reader_sets is not None and not reader_sets):
            return []
        while True:
            found = search(depth)
            hits = self._known(partition, found, reader_sets)
            if len(hits) >= limit or len(found) < depth:
                return hits[:limit]
            depth *= _DEEPEN

    def _search_exactly(
        self, partition: Partition, vector: Vector, limit: int, reader_sets: Sequence[int]
    ) -> list[StoreHit]:
        ids = self._chunks.ids_of_reader_sets(partition, reader_sets)
        return self._scored(partition, vector, ids, frozenset(reader_sets))[:limit]

    def _scored(
        self, partition: Partition, vector: Vector, ids: Sequence[str], reader_sets: frozenset[int] | None
    ) -> list[StoreHit]:
        """The allowed hits among ``ids``, best first, with scores from the stored vectors, to six decimals.

        Double precision and rounding make a score the same for every number of vectors that are multiplied at once,
        but for a value within about 1e-15 of the middle between two decimals.
        """
        found, matrix = self._vectors.vectors(partition, ids)
        if not found:
            return []
        scores = (matrix.astype(np.float64) @ vector.astype(np.float64)).round(_SCORE_DECIMALS)
        return self._known(partition, list(zip(found, scores.tolist(), strict=True)), reader_sets)

    def _known(
        self, partition: Partition, found: Sequence[tuple[str, float]], reader_sets: frozenset[int] | None
    ) -> list[StoreHit]:
        """The hits that the table has ready and allowed, best first, equal scores by id."""
        rows = self._chunks.rows(partition, [chunk_id for chunk_id, _ in found])
        hits = [
            StoreHit(chunk_id, row.document_id, row.version, score)
            for chunk_id, score in found
            if (row := rows.get(chunk_id)) is not None and (reader_sets is None or row.reader_set in reader_sets)
        ]
        return sorted(hits, key=lambda hit: (-hit.score, hit.chunk_id))
