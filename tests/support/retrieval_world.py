"""A small world for retrieval's tests: a catalog, stores, and documents put into both as ingestion does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from services.catalog.memory import MemoryCatalog
from services.corpus.chunk import Passage, chunk_id
from services.corpus.document import DEFAULT_COLLECTION, Collection, Document, DocumentState, MediaType
from services.corpus.filter import MetadataValue
from services.corpus.principal import EVERYBODY, Access, Caller
from services.corpus.terms import analyze
from services.embedding.memory import HashingEmbedder
from services.embedding.ports import CrossEncoder, Embedder
from services.retrieval.economy import no_pressure
from services.retrieval.ports import Catalog, Clock, NamedStore, Pressure
from services.retrieval.retrieval import RetrievalPolicy, Retriever
from services.vectorstores.memory import MemoryVectorStore
from services.vectorstores.ports import (
    FetchedChunk,
    Partition,
    StoreCapabilities,
    StoredChunk,
    StoreHit,
    Vector,
    VectorStore,
)

NOW = datetime(2026, 1, 2, tzinfo=UTC)
TENANT = "acme"
ALICE = Caller(TENANT, "alice")
BOB = Caller(TENANT, "bob", groups=frozenset({"hr"}))


class StoreProxy:
    """A store that passes everything on; tests override what they want to see fail."""

    def __init__(self, inner: VectorStore | None = None) -> None:
        self.inner: VectorStore = inner if inner is not None else MemoryVectorStore()
        self.depths: list[int] = []

    async def upsert_chunks(self, partition: Partition, chunks: Sequence[StoredChunk]) -> None:
        await self.inner.upsert_chunks(partition, chunks)

    async def delete_chunks(self, partition: Partition, document_id: str, *, before_version: int | None = None) -> int:
        return await self.inner.delete_chunks(partition, document_id, before_version=before_version)

    async def delete_partition(self, partition: Partition) -> None:
        await self.inner.delete_partition(partition)

    async def assign_readers(self, partition: Partition, document_id: str, reader_set: int) -> None:
        await self.inner.assign_readers(partition, document_id, reader_set)

    async def search_dense(
        self, partition: Partition, vector: Vector, limit: int, reader_sets: frozenset[int] | None
    ) -> list[StoreHit]:
        self.depths.append(limit)
        return await self.inner.search_dense(partition, vector, limit, reader_sets)

    async def search_lexical(
        self, partition: Partition, terms: Sequence[str], limit: int, reader_sets: frozenset[int] | None
    ) -> list[StoreHit]:
        return await self.inner.search_lexical(partition, terms, limit, reader_sets)

    async def fetch_chunks(self, partition: Partition, chunk_ids: Sequence[str]) -> list[FetchedChunk]:
        return await self.inner.fetch_chunks(partition, chunk_ids)

    async def count_chunks(
        self, partition: Partition, document_id: str | None = None, *, before_version: int | None = None
    ) -> int:
        return await self.inner.count_chunks(partition, document_id, before_version=before_version)

    async def capabilities(self) -> StoreCapabilities:
        return await self.inner.capabilities()

    async def close(self) -> None:
        await self.inner.close()


class HangingStore(StoreProxy):
    """Never answers a search. ``stubborn`` ones do not even end when they are cancelled, until ``freed``."""

    def __init__(self, *, stubborn: bool = False) -> None:
        super().__init__()
        self.stubborn = stubborn
        self.freed = asyncio.Event()
        self.asked = asyncio.Semaphore(0)

    async def search_dense(
        self, partition: Partition, vector: Vector, limit: int, reader_sets: frozenset[int] | None
    ) -> list[StoreHit]:
        return await self._hang()

    async def search_lexical(
        self, partition: Partition, terms: Sequence[str], limit: int, reader_sets: frozenset[int] | None
    ) -> list[StoreHit]:
        return await self._hang()

    async def _hang(self) -> list[StoreHit]:
        self.asked.release()
        while not self.freed.is_set():
            try:
                await self.freed.wait()
            except asyncio.CancelledError:
                if not self.stubborn:
                    raise
        return []


class World:
    """Documents that exist in the catalog and in stores."""

    def __init__(self, stores: Mapping[str, VectorStore] | None = None, embedder: Embedder | None = None) -> None:
        self.catalog = MemoryCatalog()
        self.embedder = embedder or HashingEmbedder(64)
        self.stores: dict[str, VectorStore] = dict(stores or {"main": MemoryVectorStore()})

    def retriever(
        self,
        *,
        cross_encoder: CrossEncoder | None = None,
        policy: RetrievalPolicy | None = None,
        catalog: Catalog | None = None,
        pressure: Pressure = no_pressure,
        clock: Clock = time.monotonic,
    ) -> Retriever:
        """A retriever over all stores."""
        return Retriever(
            stores=[NamedStore(name, store) for name, store in self.stores.items()],
            catalog=catalog or self.catalog,
            embedder=self.embedder,
            cross_encoder=cross_encoder,
            policy=policy,
            pressure=pressure,
            clock=clock,
        )

    async def collection(self, name: str = DEFAULT_COLLECTION, *, model: str | None = None) -> None:
        """Make a collection unless it exists."""
        if await self.catalog.get_collection(TENANT, name) is None:
            known = self.embedder.model
            await self.catalog.create_collection(
                Collection(TENANT, name, model or known.name, known.dimension, None, None, NOW)
            )

    async def add(
        self,
        document_id: str,
        *texts: str,
        readers: Iterable[str] = (EVERYBODY,),
        metadata: Mapping[str, MetadataValue] | None = None,
        collection: str = DEFAULT_COLLECTION,
        stores: Iterable[str] | None = None,
        tenant: str = TENANT,
        activate: bool = True,
    ) -> int:
        """Ingest a document, one chunk per text; without ``activate`` its chunks are stored but not yet visible."""
        if tenant == TENANT:
            await self.collection(collection)
        access = Access(frozenset(readers))
        plan = await self.catalog.plan_version(tenant, collection, document_id, access)
        vectors = await self.embedder.embed_passages(texts)
        chunks = [
            StoredChunk(
                chunk_id=chunk_id(document_id, plan.version, ordinal),
                document_id=document_id,
                version=plan.version,
                ordinal=ordinal,
                reader_set=plan.reader_set,
                payload=Passage(text, 0, len(text)).to_payload(),
                vector=vectors[ordinal],
                terms=tuple(analyze(text)),
            )
            for ordinal, text in enumerate(texts)
        ]
        for name in self.stores if stores is None else stores:
            await self.stores[name].upsert_chunks(Partition(tenant, collection), chunks)
        if activate:
            await self.catalog.activate_version(
                Document(
                    tenant=tenant,
                    collection=collection,
                    document_id=document_id,
                    version=plan.version,
                    title=document_id.title(),
                    uri=f"https://example.org/{document_id}",
                    media_type=MediaType.TEXT,
                    metadata=dict(metadata or {}),
                    access=access,
                    owner="user:alice",
                    state=DocumentState.ACTIVE,
                    content_sha256="",
                    chunk_count=len(texts),
                    create_time=NOW,
                    update_time=NOW,
                )
            )
        return plan.version
