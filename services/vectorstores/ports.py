"""The VectorStore port: keep chunks, find them by meaning or by words, give them back.

``VectorStore`` is what ingestion writes to and retrieval asks. ``VectorIndex``, ``LexicalIndex`` and
``ChunkTable`` are the three engines that :class:`services.vectorstores.indexed.IndexedStore` joins into one.

Stores know nothing of people: a chunk carries the number of its *reader set*, the catalog says which callers
may read that set, and a search is narrowed to the numbers it is given. The catalog re-checks every hit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Partition:
    """One tenant's collection; nothing is ever shared or searched across partitions."""

    tenant: str
    collection: str

    @property
    def key(self) -> str:
        r"""40 hex digits that name this partition in an engine, whatever its tenant and collection are called.

        The length keeps ("a", "b\0c") apart from ("a\0b", "c").
        """
        text = f"{len(self.tenant)}:{self.tenant}\0{self.collection}"
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:40]


@dataclass(frozen=True, slots=True)
class StoredChunk:
    """A chunk on its way into a store.

    ``payload`` is opaque to the store. ``vector`` has unit length, shape (dimension,). ``terms`` are the stems
    (or keyed hashes of stems), repeated as they occur; a store keeps them sorted, never in the order of the text.
    ``reader_set`` is the catalog's number for the set of principals that may read the document.
    """

    chunk_id: str
    document_id: str
    version: int
    ordinal: int
    reader_set: int
    payload: bytes
    vector: Vector
    terms: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class IndexedTerms:
    """What a lexical index needs of a chunk."""

    chunk_id: str
    reader_set: int
    terms: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StoreHit:
    """One search hit. ``score`` is cosine similarity (dense, -1..1) or BM25 (lexical, > 0); higher is better."""

    chunk_id: str
    document_id: str
    version: int
    score: float


@dataclass(frozen=True, slots=True)
class FetchedChunk:
    """What a store gives back for a chunk id."""

    chunk_id: str
    document_id: str
    version: int
    ordinal: int
    reader_set: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class KeptPayload:
    """A chunk with its payload as it is kept, and the collection that it belongs to."""

    collection: str
    chunk: FetchedChunk


@dataclass(frozen=True, slots=True)
class PayloadChange:
    """Put ``payload`` in the place of ``expected``, which is what the chunk had when it was looked at."""

    collection: str
    chunk_id: str
    expected: bytes
    payload: bytes


@dataclass(frozen=True, slots=True)
class StoreCapabilities:
    """What an adapter can do: callers skip what it cannot instead of failing."""

    engine: str
    dense: bool
    lexical: bool


class VectorStore(Protocol):
    """Keeps the chunks of many partitions.

    All methods may raise Unavailable (the engine did not answer; safe to repeat) and, on dimensions that do not
    fit the partition, FailedPrecondition. Searching or deleting in a partition that was never written is not an
    error: the result is empty. Every write is idempotent, and visible to searches when its call returns.
    """

    async def upsert_chunks(self, partition: Partition, chunks: Sequence[StoredChunk]) -> None:
        """Store chunks, replacing those of the same id, all or (on an error) possibly some of them."""

    async def delete_chunks(self, partition: Partition, document_id: str, *, before_version: int | None = None) -> int:
        """Remove a document's chunks, or only those older than ``before_version``; return how many were removed."""

    async def delete_partition(self, partition: Partition) -> None:
        """Remove everything that a partition holds."""

    async def assign_readers(self, partition: Partition, document_id: str, reader_set: int) -> None:
        """Move all chunks of a document to another reader set."""

    async def search_dense(
        self, partition: Partition, vector: Vector, limit: int, reader_sets: frozenset[int] | None
    ) -> list[StoreHit]:
        """The ``limit`` nearest chunks by cosine among the given reader sets (None: all), best first.

        The result equals the top of a brute-force search over the allowed chunks (up to the engine's own
        approximation): a store deepens its search until it is full or exhausted, it never just filters a top-k.
        """

    async def search_lexical(
        self, partition: Partition, terms: Sequence[str], limit: int, reader_sets: frozenset[int] | None
    ) -> list[StoreHit]:
        """The ``limit`` best chunks by BM25 that share at least one term, best first; same narrowing.

        How rare a term is, is counted over the chunks of the given reader sets: scores of what a caller may read must
        not tell whether what they may not read holds a word.
        """

    async def fetch_chunks(self, partition: Partition, chunk_ids: Sequence[str]) -> list[FetchedChunk]:
        """The named chunks, in the order asked; unknown ids are left out."""

    async def count_chunks(
        self, partition: Partition, document_id: str | None = None, *, before_version: int | None = None
    ) -> int:
        """How many chunks the partition holds.

        With a ``document_id``, how many :meth:`delete_chunks` would still have to remove for the same arguments: those
        that are written or removed by half count, too.
        """

    async def capabilities(self) -> StoreCapabilities:
        """What this store can do."""

    async def close(self) -> None:
        """Release files and connections; everything written is durable before this returns."""


class PayloadPages(Protocol):
    """What re-encryption needs of a store: all payloads of a tenant as they are kept, and others in their place.

    It stands apart from :class:`VectorStore`, because a store that seals what goes through it hides just this.
    Methods may raise Unavailable; repeating them does no harm.
    """

    async def list_payloads(
        self, tenant: str, *, after: tuple[str, str] = ("", ""), limit: int = 100
    ) -> list[KeptPayload]:
        """At most ``limit`` by (collection, chunk id) in the order of their code points, those after ``after``.

        None is the end. Chunks that exist from the beginning of a walk to its end are all met, once each, whatever is
        written meanwhile.
        """

    async def replace_payloads(self, tenant: str, changes: Sequence[PayloadChange]) -> int:
        """Make those changes whose chunk still has what is expected, durably; return how many.

        What a search finds does not change. Terms that an earlier release kept in the order of the text are sorted.
        """


class ChunkPages(Protocol):
    """What a backup needs of a store: its chunks, whole, as they are kept.

    It stands apart from :class:`VectorStore` for the same reason as :class:`PayloadPages`. Writing them back is
    :meth:`VectorStore.upsert_chunks`. May raise Unavailable; repeating a page does no harm.
    """

    async def list_chunks(
        self, partition: Partition, *, document_id: str | None = None, after: str = "", limit: int = 100
    ) -> list[StoredChunk]:
        """At most ``limit`` chunks of a partition, or of one document in it, by chunk id, those after ``after``.

        Ids are in the order of their code points. None is the end; a page that is shorter than ``limit`` is not. Chunks
        that exist from the beginning of a walk to its end are all met, once each, whatever is written meanwhile, and
        each as one write left it. A chunk whose vector the engine has lost is left out.
        """


class ChunkStore(VectorStore, PayloadPages, ChunkPages, Protocol):
    """A store that keeps payloads itself, or speaks for one that does."""


# --- the engines inside an IndexedStore; synchronous, called from worker threads ----------------------------------


class VectorIndex(Protocol):
    """Nearest neighbours by cosine, by id. Calls may come from several threads, writes one at a time."""

    engine: str

    def upsert(self, partition: Partition, ids: Sequence[str], vectors: Vector) -> None:
        """Store rows of ``vectors`` (shape (n, dimension), unit rows) under ``ids``, each named at most once."""

    def delete(self, partition: Partition, ids: Sequence[str]) -> None:
        """Remove ids; unknown ones are ignored."""

    def drop(self, partition: Partition) -> None:
        """Remove the whole partition."""

    def search(self, partition: Partition, vector: Vector, limit: int) -> list[tuple[str, float]]:
        """The nearest ids with their cosine similarity, best first."""

    def vectors(self, partition: Partition, ids: Sequence[str]) -> tuple[list[str], Vector]:
        """The stored vectors of those of ``ids`` that exist, for an exact search over a small allowed set."""

    def close(self) -> None:
        """Flush and release."""


class LexicalIndex(Protocol):
    """BM25 over terms that the caller analysed. Calls may come from several threads, writes one at a time."""

    def upsert(self, partition: Partition, entries: Sequence[IndexedTerms]) -> None:
        """Index terms under their chunk ids (each at most once), replacing earlier ones; searchable on return."""

    def delete(self, partition: Partition, ids: Sequence[str]) -> None:
        """Remove ids; unknown ones are ignored."""

    def drop(self, partition: Partition) -> None:
        """Remove the whole partition."""

    def search(
        self, partition: Partition, terms: Sequence[str], limit: int, reader_sets: frozenset[int] | None
    ) -> list[tuple[str, float]]:
        """The best ids with their BM25 score, best first."""

    def close(self) -> None:
        """Flush and release."""
