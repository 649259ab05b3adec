"""A VectorStore that keeps no text: payloads are sealed and terms are keyed hashes before they leave this process.

It wraps any other store, on the side of those that hold the tenants' keys (ingestion and retrieval): the store's own
process, its files and its backups never see a word. What still shows is said in docs/encryption.md.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence

from services.security.encryption import KeysShredded, SealBroken
from services.security.keyed_terms import KeyedTerms
from services.security.sealed import Place, Sealer, field_of
from services.vectorstores.ports import (
    FetchedChunk,
    Partition,
    StoreCapabilities,
    StoredChunk,
    StoreHit,
    Vector,
    VectorStore,
)


class SealedVectorStore:
    """Implements the VectorStore port over ``inner``, which it owns.

    A payload that does not open at its own place (it was changed, or swapped with another chunk's) is left out, as if
    the store did not have it; the sealer's hook has been told. Of a tenant whose keys were destroyed nothing is found.
    """

    def __init__(self, inner: VectorStore, sealer: Sealer, terms: KeyedTerms) -> None:
        self._inner = inner
        self._sealer = sealer
        self._terms = terms

    async def upsert_chunks(self, partition: Partition, chunks: Sequence[StoredChunk]) -> None:
        """See the port."""

        def seal() -> list[StoredChunk]:
            return [
                dataclasses.replace(
                    chunk,
                    payload=self._sealer.seal(
                        partition.tenant,
                        *_place(partition, chunk.document_id, chunk.version, chunk.ordinal),
                        chunk.payload,
                    ),
                    # Sorted by hash: the order of the words would tell much more than the words that a chunk shares.
                    terms=tuple(sorted(self._terms.hash(partition.tenant, chunk.terms))),
                )
                for chunk in chunks
            ]

        # In a thread: sealing costs some ten microseconds per kilobyte, and fresh keys may have to be fetched.
        await self._inner.upsert_chunks(partition, await asyncio.to_thread(seal))

    async def delete_chunks(self, partition: Partition, document_id: str, *, before_version: int | None = None) -> int:
        """See the port."""
        return await self._inner.delete_chunks(partition, document_id, before_version=before_version)

    async def delete_partition(self, partition: Partition) -> None:
        """See the port."""
        await self._inner.delete_partition(partition)

    async def assign_readers(self, partition: Partition, document_id: str, reader_set: int) -> None:
        """See the port."""
        await self._inner.assign_readers(partition, document_id, reader_set)

    async def search_dense(
        self, partition: Partition, vector: Vector, limit: int, reader_sets: frozenset[int] | None
    ) -> list[StoreHit]:
        """See the port."""
        if await self._sealer.is_shredded(partition.tenant):
            return []
        return await self._inner.search_dense(partition, vector, limit, reader_sets)

    async def search_lexical(
        self, partition: Partition, terms: Sequence[str], limit: int, reader_sets: frozenset[int] | None
    ) -> list[StoreHit]:
        """See the port."""
        try:
            hashed = await self._terms.hash_query(partition.tenant, terms)
        except KeysShredded:
            return []
        return await self._inner.search_lexical(partition, sorted(hashed), limit, reader_sets)

    async def fetch_chunks(self, partition: Partition, chunk_ids: Sequence[str]) -> list[FetchedChunk]:
        """See the port."""
        fetched = await self._inner.fetch_chunks(partition, chunk_ids)
        places = [_place(partition, chunk.document_id, chunk.version, chunk.ordinal) for chunk in fetched]
        try:
            opened = await self._sealer.open_many(
                partition.tenant, zip(places, (chunk.payload for chunk in fetched), strict=True)
            )
        except KeysShredded:
            return []
        return [
            dataclasses.replace(chunk, payload=payload)
            for chunk, payload in zip(fetched, opened, strict=True)
            if not isinstance(payload, SealBroken)
        ]

    async def count_chunks(
        self, partition: Partition, document_id: str | None = None, *, before_version: int | None = None
    ) -> int:
        """See the port."""
        return await self._inner.count_chunks(partition, document_id, before_version=before_version)

    async def capabilities(self) -> StoreCapabilities:
        """See the port."""
        return await self._inner.capabilities()

    async def close(self) -> None:
        """See the port."""
        await self._inner.close()


def _place(partition: Partition, document_id: str, version: int, ordinal: int) -> Place:
    return Place(document_id, version, chunk_field(partition.collection, ordinal))


def chunk_field(collection: str, ordinal: int) -> str:
    """The field that the text of a chunk is sealed for."""
    return field_of("chunk", collection, ordinal)
