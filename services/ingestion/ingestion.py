"""Taking documents in: parse, chunk, embed, store, and only then make the new version visible.

Each document of a batch has a fate of its own. A version becomes visible in one step, when all its chunks are
stored; whatever fails before leaves the old version as it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar

import structlog

from services.corpus.chunk import Passage, chunk_id
from services.corpus.document import Collection, Document, DocumentState
from services.corpus.errors import (
    DeadlineExceeded,
    DiskFull,
    FailedPrecondition,
    GroundwireError,
    ResourceExhausted,
    Unavailable,
)
from services.corpus.principal import Access, Caller
from services.corpus.terms import analyze
from services.ingestion.batch import Draft, Failure, Identified, Outcome, identify, not_reached
from services.ingestion.media_type import detect_media_type
from services.ingestion.ownership import may_manage, principal_of
from services.ingestion.parsed import ChunkLimits, ParseFailure, SplitDocument
from services.ingestion.ports import Catalog, DocumentParser, Embedder, VectorStore, VersionPlan
from services.ingestion.store_writer import StoreWriter
from services.vectorstores.ports import Partition, StoredChunk

_log = structlog.get_logger(__name__)
_T = TypeVar("_T")


@dataclass(frozen=True)
class IngestionLimits:
    """Bounds of one service. ``in_flight`` documents are parsed and embedded at a time, over all callers."""

    max_document_bytes: int = 32 * 1024 * 1024
    in_flight: int = 32
    chunks: ChunkLimits = field(default_factory=ChunkLimits)


class _Failed(Exception):
    """A document's failure on its way to its Outcome."""

    def __init__(self, reason: str, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.retryable = retryable


class _Turns:
    """A lock per key, kept only while somebody holds it or waits for it."""

    def __init__(self) -> None:
        self._locks: dict[tuple[str, str, str], tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def of(self, key: tuple[str, str, str]) -> AsyncIterator[None]:
        lock, users = self._locks.get(key, (asyncio.Lock(), 0))
        self._locks[key] = lock, users + 1
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks.pop(key)
            if users > 1:
                self._locks[key] = lock, users - 1


class Ingestor:
    """The ingestion domain. Safe to use concurrently."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        parser: DocumentParser,
        embedder: Embedder,
        store: VectorStore,
        limits: IngestionLimits | None = None,
        require_keys: Callable[[str], Awaitable[object]] | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._catalog = catalog
        self._parser = parser
        self._embedder = embedder
        self._store = store
        self._writer = StoreWriter(store)
        self._limits = limits or IngestionLimits()
        self._require_keys = require_keys
        self._slots = asyncio.Semaphore(self._limits.in_flight)
        # Two versions of one document must not overtake each other between planning and activation.
        self._turns = _Turns()
        self._now = now

    async def ingest(
        self, caller: Caller, collection: Collection, drafts: Sequence[Draft], *, patience: float | None = None
    ) -> list[Outcome]:
        """Take a batch in; one Outcome per draft, in the order given. Never raises for a document's sake.

        After ``patience`` seconds, documents that are not in yet are given up as NOT_REACHED, so that the caller
        learns about the others.

        Raises FailedPrecondition when the collection was built with another embedding model, and what
        ``require_keys`` raises for a tenant whose documents cannot be sealed (KeysDestroyed).
        """
        if self._require_keys is not None:
            await self._require_keys(caller.tenant)
        model = self._embedder.model
        if (collection.embedding_model, collection.dimension) != (model.name, model.dimension):
            raise FailedPrecondition(
                f"the collection {collection.name} was built with the embedding model {collection.embedding_model}, "
                f"this service runs {model.name}; rebuild it with `groundwire reindex {collection.name}`",
                reason="EMBEDDING_MISMATCH",
                metadata={
                    "collection": collection.name,
                    "collection_model": collection.embedding_model,
                    "service_model": model.name,
                },
            )
        if not drafts:
            return []
        # In a thread: tens of megabytes take a while. All at once: documents must start in the order given.
        identified = await asyncio.to_thread(identify, caller, drafts)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._ingest_one(caller, collection, draft)) for draft in identified]
            _, late = await asyncio.wait(tasks, timeout=patience)
            for task in late:
                task.cancel()
        return [
            task.result() if not task.cancelled() else not_reached(draft)
            for task, draft in zip(tasks, identified, strict=True)
        ]

    async def close(self) -> None:
        """Let the last write end."""
        await self._writer.close()

    async def _ingest_one(self, caller: Caller, collection: Collection, sent: Identified) -> Outcome:
        index, document_id, draft = sent.index, sent.document_id, sent.draft
        if draft.violations:
            listed = "; ".join(f"{violation.field}: {violation.description}" for violation in draft.violations)
            return Outcome(
                index,
                document_id,
                reason=Failure.INVALID_FIELD.value,
                message=f"The description is wrong: {listed}.",
                violations=draft.violations,
            )
        try:
            async with self._turns.of((caller.tenant, collection.name, document_id)):
                return await self._take_in(caller, collection, sent)
        except ParseFailure as failure:
            _log.info("document cannot be read", reason=failure.reason.value, detail=failure.detail)
            reason, message, retryable = failure.reason.value, failure.message, failure.reason.transient
        except _Failed as failed:
            reason, message, retryable = failed.reason, failed.message, failed.retryable
        except Exception as error:  # noqa: BLE001 - one document's defect must not be the batch's
            _log.exception("document failed unexpectedly", exc_info=error)
            reason, retryable = Failure.INTERNAL.value, True
            message = "An internal error; the request id finds it in the service's logs."
        return Outcome(index, document_id, reason=reason, message=message, retryable=retryable)

    async def _take_in(self, caller: Caller, collection: Collection, sent: Identified) -> Outcome:
        document_id, draft = sent.document_id, sent.draft
        if len(draft.content) > self._limits.max_document_bytes:
            mib = self._limits.max_document_bytes // (1024 * 1024)
            raise _Failed(Failure.TOO_LARGE.value, f"The document is larger than {mib} MiB; split it into parts.")
        media_type = detect_media_type(draft.media_type, draft.uri, draft.content)
        access = draft.access or collection.default_access or Access(frozenset({caller.user}))
        owner = await self._catalog_call(self._catalog.find_owner(caller.tenant, collection.name, document_id))
        if owner is not None and not await self._may_replace(caller, collection.name, document_id, owner):
            # Before anything of the document is compared: neither time nor error may tell more than that it is there.
            raise _in_use()
        current = await self._current(caller.tenant, collection.name, document_id) if owner is not None else None
        if current is not None and _same(current, draft, sent.digest, access):
            return Outcome(sent.index, document_id, current.version, current.chunk_count, unchanged=True)
        with self._writer.preparing():
            async with self._slots:
                split = await self._parser.split(draft.content, media_type, self._limits.chunks)
                plan = await self._catalog_call(
                    self._catalog.plan_version(caller.tenant, collection.name, document_id, access)
                )
                title = draft.title or split.title or document_id
                chunks = await self._embed(document_id, plan, title, split)
        partition = Partition(caller.tenant, collection.name)
        await self._store_call(self._writer.upsert(partition, chunks))
        now = self._now()
        document = Document(
            tenant=caller.tenant,
            collection=collection.name,
            document_id=document_id,
            version=plan.version,
            title=title,
            uri=draft.uri,
            media_type=media_type,
            metadata=draft.metadata,
            access=access,
            owner=caller.user,
            state=DocumentState.ACTIVE,
            content_sha256=sent.digest,
            chunk_count=len(chunks),
            create_time=now,
            update_time=now,
        )
        if not await self._catalog_call(self._catalog.activate_version(document)):
            return await self._overtaken(caller, partition, document, sent.index)
        await self._remove_older(partition, document_id, plan.version)
        return Outcome(sent.index, document_id, plan.version, len(chunks))

    async def _may_replace(self, caller: Caller, collection: str, document_id: str, owner: str) -> bool:
        """Whether the caller owns the document, or is an administrator who can read it.

        An owner wrote what is there, and may replace it also when only others read it. An administrator who could replace
        what they cannot read would own it then, and would learn from the answer whether they guessed its contents.
        """
        if owner == principal_of(caller):
            return True
        if not may_manage(caller, owner):
            return False
        readable = self._catalog.find_readable(caller.tenant, collection, [document_id], caller.principals)
        return document_id in await self._catalog_call(readable)

    async def _current(self, tenant: str, collection: str, document_id: str) -> Document | None:
        found = await self._catalog_call(self._catalog.get_document(tenant, collection, document_id))
        return found if found is not None and found.state is DocumentState.ACTIVE else None

    async def _overtaken(self, caller: Caller, partition: Partition, document: Document, index: int) -> Outcome:
        """Another process activated a later version, or deleted the document, while this version was on its way.

        As if this version had come first: nothing of it may stay behind, above all not after a deletion. Of a later
        version that is not the caller's to replace, the answer tells that the id is in use and no more.
        """
        current = await self._current(document.tenant, document.collection, document.document_id)
        shown = current or document
        await self._remove_older(
            partition, document.document_id, current.version if current is not None else document.version + 1
        )
        if not await self._may_replace(caller, shown.collection, shown.document_id, shown.owner):
            raise _in_use()
        return Outcome(index, document.document_id, shown.version, shown.chunk_count)

    async def _embed(self, document_id: str, plan: VersionPlan, title: str, split: SplitDocument) -> list[StoredChunk]:
        texts = [_embedded_text(title, passage) for passage in split.passages]
        vectors = await _answered(
            self._embedder.embed_passages(texts), Failure.EMBEDDER_UNAVAILABLE, "The embedding model"
        )

        def make() -> list[StoredChunk]:
            return [
                StoredChunk(
                    chunk_id=chunk_id(document_id, plan.version, ordinal),
                    document_id=document_id,
                    version=plan.version,
                    ordinal=ordinal,
                    reader_set=plan.reader_set,
                    payload=passage.to_payload(),
                    vector=vectors[ordinal],
                    terms=tuple(analyze(texts[ordinal])),
                )
                for ordinal, passage in enumerate(split.passages)
            ]

        # In a thread, because stemming a large document takes seconds.
        return await asyncio.to_thread(make)

    async def _remove_older(self, partition: Partition, document_id: str, version: int) -> None:
        if version == 1:
            return
        # The catalog names the current version and retrieval checks it: chunks that stay behind are never shown.
        try:
            await self._store.delete_chunks(partition, document_id, before_version=version)
        except GroundwireError as error:
            _log.warning("older chunks stay until the next version", reason=error.reason)

    async def _store_call(self, work: Awaitable[_T]) -> _T:
        return await _answered(work, Failure.STORE_UNAVAILABLE, "The vector store")

    async def _catalog_call(self, work: Awaitable[_T]) -> _T:
        return await _answered(work, Failure.STORE_UNAVAILABLE, "The catalog")


def _in_use() -> _Failed:
    return _Failed(Failure.PERMISSION_DENIED.value, "This document id belongs to somebody else; choose another one.")


async def _answered(work: Awaitable[_T], failure: Failure, who: str) -> _T:
    try:
        return await work
    except DiskFull as error:
        raise _Failed(
            failure.value, f"{who} did not take it: {error.message}, and try again.", retryable=True
        ) from error
    except (Unavailable, DeadlineExceeded, ResourceExhausted) as error:
        raise _Failed(failure.value, f"{who} did not answer; try again.", retryable=True) from error
    except GroundwireError as error:
        # It did answer: what it said names the remedy, and trying again is none.
        _log.warning("document refused", by=who, reason=error.reason)
        raise _Failed(failure.value, f"{who} refused the document: {error.message}") from error


def _embedded_text(title: str, passage: Passage) -> str:
    """What is embedded and indexed: the passage under its title and headings, so that it is found by its topic."""
    topic = " › ".join(dict.fromkeys([title, *passage.headings]))
    return f"{topic}\n{passage.text}"


def _same(current: Document, draft: Draft, digest: str, access: Access) -> bool:
    return (
        current.content_sha256 == digest
        and current.access == access
        and current.metadata == draft.metadata
        and current.uri == draft.uri
        and (not draft.title or current.title == draft.title)
    )
