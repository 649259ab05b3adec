"""Writing to the store in company: chunks of documents that are ready at about the same time share one call.

A store's write costs about the same for one chunk as for dozens (a commit and an fsync in each engine), and on a
small machine that cost is taken from the embedder. So while more documents are on their way, ready ones gather for a
moment; as soon as nothing more is coming, what has gathered is written at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from services.corpus.errors import Unavailable
from services.vectorstores.ports import Partition, StoredChunk, VectorStore

MOST_CHUNKS = 64
MOST_WAIT = 1.0


@dataclass(frozen=True)
class _Entry:
    partition: Partition
    chunks: Sequence[StoredChunk]
    done: asyncio.Future[None]


class StoreWriter:
    """Coalesces concurrent upserts of one store. One document's error is never another's.

    What gathers is written when it has ``most_chunks``, when its first document has waited ``most_wait`` seconds, or
    when no document is :meth:`preparing` any more.
    """

    def __init__(self, store: VectorStore, *, most_chunks: int = MOST_CHUNKS, most_wait: float = MOST_WAIT) -> None:
        self._store = store
        self._most_chunks = most_chunks
        self._most_wait = most_wait
        self._waiting: list[_Entry] = []
        self._preparing = 0
        self._enough = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None

    @contextmanager
    def preparing(self) -> Iterator[None]:
        """While this is entered a document is on its way: what is ready may wait for it."""
        self._preparing += 1
        try:
            yield
        finally:
            self._preparing -= 1
            self._notice()

    async def upsert(self, partition: Partition, chunks: Sequence[StoredChunk]) -> None:
        """Return when ``chunks`` are durable and searchable; raise what the store raised for them."""
        entry = _Entry(partition, chunks, asyncio.get_running_loop().create_future())
        self._waiting.append(entry)
        self._notice()
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        await entry.done

    async def close(self) -> None:
        """Wait for what is being written."""
        if self._worker is not None:
            await asyncio.wait([self._worker])

    def _notice(self) -> None:
        if self._preparing == 0 or sum(len(entry.chunks) for entry in self._waiting) >= self._most_chunks:
            self._enough.set()
        else:
            self._enough.clear()

    async def _work(self) -> None:
        while self._waiting:
            try:
                async with asyncio.timeout(self._most_wait):
                    await self._enough.wait()
            except TimeoutError:
                pass
            await self._write(self._take())
            self._notice()

    def _take(self) -> list[_Entry]:
        """The documents of the first one's partition, as many as go into one write."""
        partition = self._waiting[0].partition
        taken: list[_Entry] = []
        kept: list[_Entry] = []
        count = 0
        for entry in self._waiting:
            if entry.partition == partition and (not taken or count + len(entry.chunks) <= 2 * self._most_chunks):
                taken.append(entry)
                count += len(entry.chunks)
            else:
                kept.append(entry)
        self._waiting = kept
        return taken

    async def _write(self, taken: Sequence[_Entry]) -> None:
        try:
            await self._store.upsert_chunks(taken[0].partition, [chunk for entry in taken for chunk in entry.chunks])
        except Exception as error:  # noqa: BLE001 - handed to whom it concerns
            if len(taken) > 1 and not isinstance(error, Unavailable):
                for entry in taken:  # find out whose fault it is
                    await self._write([entry])
                return
            for entry in taken:
                if not entry.done.done():
                    entry.done.set_exception(error)
            return
        for entry in taken:
            if not entry.done.done():
                entry.done.set_result(None)
