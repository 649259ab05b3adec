"""Catalog and index of one moment, while both are written.

The index is walked first, page by page, while everything goes on. Then the catalog is read, and what it calls current
and the walk has not met whole (because it was written or replaced meanwhile) is walked again; and so on, until little is
left. For that rest the catalog's write lock is taken: nothing can be activated or deleted, so what is current is whole in
the index and stays there. The catalog is copied before the lock is given back. This copy is the moment: what was deleted
before it is not in the backup, and what is deleted after it is.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from services.backup.collecting import Collected
from services.backup.databases import copy_database
from services.backup.folder import Folder, Told
from services.backup.parts import Part, Parts
from services.catalog.contents import Contents, KeptDocument, read_contents
from services.catalog.sqlite import WriteLock
from services.corpus.errors import Unavailable
from services.vectorstores.ports import ChunkPages, Partition, StoredChunk

CATALOG = "catalog.sqlite3"
_PAGE = 200


@dataclass(frozen=True)
class Pace:
    """When to stop the world. ``few`` documents may be left for the time in which the catalog is held.

    Rounds without the lock end after ``rounds``, however many are left. It is held for at most ``hold`` seconds, and
    tried ``tries`` times. A page of the index may take ``page`` seconds.
    """

    few: int = 20
    rounds: int = 6
    hold: float = 20.0
    tries: int = 3
    page: float = 60.0


@dataclass(frozen=True)
class Gathered:
    """What was gathered, as of ``time``."""

    time: datetime
    contents: Contents
    parts: Sequence[Part]
    chunks: Counter[Partition]
    lacking: Sequence[KeptDocument]


class Catalog:
    """The catalog in ``path``, read and copied beside the process that writes it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = WriteLock(path)

    def close(self) -> None:
        """Release its lock's file."""
        self._lock.close()

    async def read(self) -> Contents:
        """What it holds now."""
        async with self.held():
            return await self.read_held()

    async def read_held(self) -> Contents:
        """The same, while it is held."""
        return await asyncio.to_thread(read_contents, self._path)

    async def copy_held(self, folder: Folder) -> datetime:
        """Copy it while it is held; when that was."""
        await asyncio.to_thread(copy_database, self._path, folder.path(CATALOG))
        return datetime.now(UTC)

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Keep everybody from changing it."""
        holding = self._lock.held()
        # Waiting for it cannot be given up: whoever is cancelled meanwhile must not leave it taken.
        taking = asyncio.ensure_future(asyncio.to_thread(holding.__enter__))
        try:
            await asyncio.shield(taking)
        except asyncio.CancelledError:
            taking.add_done_callback(lambda taken: None if taken.exception() else holding.__exit__(None, None, None))
            raise
        try:
            yield
        finally:
            holding.__exit__(None, None, None)


class Gathering:
    """One walk for one backup. ``begun`` is told how many chunks there may be, ``told`` of each page."""

    def __init__(
        self,
        store: ChunkPages,
        catalog: Catalog,
        folder: Folder,
        *,
        begun: Callable[[int], None] = lambda _: None,
        told: Told = lambda _: None,
        pace: Pace = Pace(),
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._folder = folder
        self._parts = Parts(folder)
        self._collected = Collected()
        self._begun = begun
        self._told = told
        self._pace = pace

    async def run(self) -> Gathered:
        """Gather everything; Unavailable if the store does not answer, or changes outrun the walk."""
        try:
            await self._walk_until_little_is_left()
            moment, contents = await self._finish_held()
            self._folder.adopt(CATALOG)
        finally:
            await asyncio.to_thread(self._parts.close)
        documents = contents.documents
        await asyncio.to_thread(self._parts.settle, self._collected.keep(documents))
        return Gathered(
            moment, contents, self._parts.parts, self._collected.count(documents), self._collected.lacking(documents)
        )

    async def _walk_until_little_is_left(self) -> None:
        before = await self._catalog.read()
        self._begun(sum(document.chunks for document in before.documents))
        self._collected.begin()
        for collection in before.collections:
            await self._walk(Partition(collection.tenant, collection.name))
        walked: Sequence[KeptDocument] = before.documents
        for _ in range(self._pace.rounds):
            now = await self._catalog.read()
            self._collected.ended(walked, now.documents)
            walked = self._collected.missing(now.documents)
            if len(walked) <= self._pace.few:
                return
            await self._walk_documents(walked)

    async def _finish_held(self) -> tuple[datetime, Contents]:
        for _ in range(self._pace.tries):
            try:
                async with self._catalog.held():
                    contents = await self._catalog.read_held()
                    walked = self._collected.missing(contents.documents)
                    await self._walk_documents(walked, until=time.monotonic() + self._pace.hold)
                    self._collected.ended(walked, contents.documents)
                    return await self._catalog.copy_held(self._folder), contents
            except TimeoutError:
                now = await self._catalog.read()
                await self._walk_documents(self._collected.missing(now.documents))
        raise Unavailable("documents change faster than they can be copied, or the store is too slow; try again later")

    async def _walk_documents(self, documents: Sequence[KeptDocument], *, until: float | None = None) -> None:
        """Walk over documents; TimeoutError between two pages when it is later than ``until``."""
        if not documents:
            return
        self._collected.begin()
        # In the order of partitions, so that one file takes those of each.
        for document in sorted(documents, key=lambda one: (one.tenant, one.collection, one.document_id)):
            await self._walk(Partition(document.tenant, document.collection), document.document_id, until=until)

    async def _walk(self, partition: Partition, document_id: str | None = None, *, until: float | None = None) -> None:
        after = ""
        while page := await self._page(partition, document_id, after):
            self._collected.met(partition, page)
            await asyncio.to_thread(self._parts.write, partition, self._collected.round, page)
            self._told(len(page))
            after = page[-1].chunk_id
            if until is not None and time.monotonic() > until:
                raise TimeoutError

    async def _page(self, partition: Partition, document_id: str | None, after: str) -> list[StoredChunk]:
        try:
            async with asyncio.timeout(self._pace.page):
                return await self._store.list_chunks(partition, document_id=document_id, after=after, limit=_PAGE)
        except TimeoutError as error:
            raise Unavailable("the store did not answer in time", metadata={"dependency": "store"}) from error
