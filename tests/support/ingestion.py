"""A small world for ingestion's tests: the real domain over memory adapters that fail when they are told to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from services.catalog.memory import MemoryCatalog
from services.catalog.ports import VersionPlan
from services.corpus.chunk import Passage, chunk_id
from services.corpus.document import Collection, Document, MediaType
from services.corpus.erasure import Erasure
from services.corpus.principal import Access, Caller
from services.embedding.memory import HashingEmbedder
from services.ingestion.adapters.parsing.in_process import InProcessParser
from services.ingestion.batch import Draft, Outcome
from services.ingestion.eraser import Eraser, ErasingPolicy
from services.ingestion.erasure import Erasures
from services.ingestion.ingestion import IngestionLimits, Ingestor
from services.ingestion.library import Library
from services.ingestion.parsed import ChunkLimits, DocumentParser, SplitDocument
from services.vectorstores.memory import MemoryVectorStore
from services.vectorstores.ports import FetchedChunk, Partition, StoredChunk

TENANT = "acme"
ALICE = Caller(TENANT, "alice")
BOB = Caller(TENANT, "bob", groups=frozenset({"hr"}))
ADMIN = Caller(TENANT, "root", permissions=frozenset({"admin:*"}))
IMPATIENT = ErasingPolicy(first_wait=0.001, most_wait=0.01, latest_write=timedelta(hours=1))
SMALL = ChunkLimits(target_chars=16, max_chars=32, overlap_chars=0)

Hook = Callable[[str], Exception | None]
"""Is told before (``upsert_chunks``) and after (``upsert_chunks done``) an operation; may return an error to raise."""


class Faults:
    """Where tests say what fails. ``log`` has every operation."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.hook: Hook | None = None
        self._errors: dict[str, list[Exception]] = {}
        self._holds: dict[str, asyncio.Event] = {}
        self.held: set[str] = set()

    def fail(self, operation: str, *errors: Exception) -> None:
        """Let the next calls of ``operation`` fail, one after another."""
        self._errors.setdefault(operation, []).extend(errors)

    def hold(self, operation: str) -> asyncio.Event:
        """Let every call of ``operation`` wait until the event is set; ``held`` tells that one does."""
        return self._holds.setdefault(operation, asyncio.Event())

    def let_pass(self, operation: str) -> None:
        """Let later calls pass; those that wait already go on to."""
        del self._holds[operation]

    async def strike(self, operation: str) -> None:
        """Called by the adapters."""
        self.log.append(operation)
        if (event := self._holds.get(operation)) is not None:
            self.held.add(operation)
            await event.wait()
        errors = self._errors.get(operation)
        error = errors.pop(0) if errors else self.hook(operation) if self.hook else None
        if error is not None:
            raise error
        # Like a real adapter, this one gives way to others; a cancellation arrives here.
        await asyncio.sleep(0)


class FlakyStore(MemoryVectorStore):
    """A store that fails as told, before or after it has written."""

    def __init__(self, faults: Faults) -> None:
        super().__init__()
        self._faults = faults

    async def upsert_chunks(self, partition: Partition, chunks: Sequence[StoredChunk]) -> None:
        await self._faults.strike("upsert_chunks")
        await super().upsert_chunks(partition, chunks)
        await self._faults.strike("upsert_chunks done")

    async def delete_chunks(self, partition: Partition, document_id: str, *, before_version: int | None = None) -> int:
        await self._faults.strike("delete_chunks")
        return await super().delete_chunks(partition, document_id, before_version=before_version)

    async def count_chunks(
        self, partition: Partition, document_id: str | None = None, *, before_version: int | None = None
    ) -> int:
        if document_id is not None:
            await self._faults.strike("count_chunks")
        return await super().count_chunks(partition, document_id, before_version=before_version)

    async def assign_readers(self, partition: Partition, document_id: str, reader_set: int) -> None:
        await self._faults.strike("assign_readers")
        await super().assign_readers(partition, document_id, reader_set)


class FlakyCatalog(MemoryCatalog):
    """A catalog that fails as told; like a database, it may do what it was asked to and then not say so."""

    def __init__(self, faults: Faults) -> None:
        super().__init__()
        self._faults = faults

    async def find_owner(self, tenant: str, collection: str, document_id: str) -> str | None:
        await self._faults.strike("find_owner")
        return await super().find_owner(tenant, collection, document_id)

    async def get_document(self, tenant: str, collection: str, document_id: str) -> Document | None:
        await self._faults.strike("get_document")
        return await super().get_document(tenant, collection, document_id)

    async def plan_version(self, tenant: str, collection: str, document_id: str, access: Access) -> VersionPlan:
        await self._faults.strike("plan_version")
        return await super().plan_version(tenant, collection, document_id, access)

    async def activate_version(self, document: Document) -> bool:
        await self._faults.strike("activate_version")
        activated = await super().activate_version(document)
        await self._faults.strike("activate_version done")
        return activated

    async def mark_deleted(
        self,
        tenant: str,
        collection: str,
        document_id: str,
        *,
        owner: str | None = None,
        stores: Sequence[str] = (),
    ) -> Erasure | None:
        await self._faults.strike("mark_deleted")
        return await super().mark_deleted(tenant, collection, document_id, owner=owner, stores=stores)

    async def unfinished_erasures(self, *, after: str = "", limit: int = 100) -> list[Erasure]:
        await self._faults.strike("unfinished_erasures")
        return await super().unfinished_erasures(after=after, limit=limit)

    async def record_erasure(self, before: Erasure, after: Erasure) -> bool:
        await self._faults.strike("record_erasure")
        return await super().record_erasure(before, after)


class FlakyEmbedder(HashingEmbedder):
    """An embedder that fails as told."""

    def __init__(self, faults: Faults) -> None:
        super().__init__(16)
        self._faults = faults

    async def embed_passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        await self._faults.strike("embed_passages")
        return await super().embed_passages(texts)


class FailingParser:
    """A parser that raises what it was given for documents that begin with ``bad``."""

    def __init__(self, error: Exception) -> None:
        self._error = error
        self._inner = InProcessParser()

    async def split(self, content: bytes, media_type: MediaType, limits: ChunkLimits) -> SplitDocument:
        if content.startswith(b"bad"):
            raise self._error
        return await self._inner.split(content, media_type, limits)

    async def close(self) -> None:
        pass


@dataclass
class World:
    """Everything that ingestion needs, and ways to look at what came of it."""

    parser: DocumentParser = field(default_factory=InProcessParser)
    limits: IngestionLimits = field(default_factory=lambda: IngestionLimits(chunks=SMALL))

    def __post_init__(self) -> None:
        self.faults = Faults()
        self.catalog = FlakyCatalog(self.faults)
        self.store = FlakyStore(self.faults)
        self.embedder = FlakyEmbedder(self.faults)
        self.ingestor = Ingestor(
            catalog=self.catalog, parser=self.parser, embedder=self.embedder, store=self.store, limits=self.limits
        )
        self.library = Library(self.catalog, self.store, self.embedder.model)
        self.moved = timedelta(0)
        """How far ahead the erasers' clock is."""
        self.eraser = self.make_eraser()
        self.erasures = Erasures(self.catalog, self.eraser)

    def make_eraser(self) -> Eraser:
        """An eraser of another process, or of this one after a restart."""
        return Eraser(self.catalog, {"store": self.store}, IMPATIENT, now=lambda: datetime.now(UTC) + self.moved)

    async def collection(self, name: str = "default", caller: Caller = ALICE) -> Collection:
        return await self.library.collection(caller, name)

    async def ingest(
        self, *drafts: Draft, caller: Caller = ALICE, collection: str = "default", patience: float | None = None
    ) -> list[Outcome]:
        return await self.ingestor.ingest(caller, await self.collection(collection, caller), drafts, patience=patience)

    async def document(self, document_id: str, collection: str = "default") -> Document | None:
        """What the catalog has, whoever may read it; no fault strikes."""
        return await MemoryCatalog.get_document(self.catalog, TENANT, collection, document_id)

    async def chunks(self, document: Document) -> list[FetchedChunk]:
        """The chunks of a document's current version that are in the store, in order."""
        ids = [chunk_id(document.document_id, document.version, i) for i in range(document.chunk_count)]
        return await self.store.fetch_chunks(Partition(TENANT, document.collection), ids)

    async def passages(self, document_id: str, collection: str = "default") -> list[Passage]:
        """What can be read of a document."""
        document = await self.document(document_id, collection)
        assert document is not None
        return [Passage.from_payload(chunk.payload) for chunk in await self.chunks(document)]

    async def text(self, document_id: str, collection: str = "default") -> str:
        """What can be read of a document, with one blank where passages meet."""
        return " ".join(passage.text for passage in await self.passages(document_id, collection))

    async def assert_consistent(self, collection: str = "default") -> None:
        """The catalog names no version of which a chunk is missing from the store."""
        for caller in (ALICE, BOB):
            for document in await self.catalog.list_readable(TENANT, collection, caller.principals, limit=1000):
                assert document.chunk_count > 0
                found = await self.chunks(document)
                assert len(found) == document.chunk_count, document
                assert all(chunk.version == document.version for chunk in found)
