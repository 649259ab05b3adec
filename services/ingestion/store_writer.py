"""Writing to the store in company: chunks of documents that are ready at the same time share one call.

A store's write costs about the same for one chunk as for dozens (a commit and an fsync in each engine). While one
write is under way the next documents gather, and go together when it has ended; nobody waits for a timer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from services.corpus.errors import Unavailable
from services.vectorstores.ports import Partition, StoredChunk, VectorStore

_MOST_CHUNKS = 256


class StoreWriter:
    """Coalesces concurrent upserts of one store. One document's error is never another's."""

    def __init__(self, store: VectorStore) -> None:
        self._store = store
        self._waiting: list[tuple[Partition, Sequence[StoredChunk], asyncio.Future[None]]] = []
        self._worker: asyncio.Task[None] | None = None

    async def upsert(self, partition: Partition, chunks: Sequence[StoredChunk]) -> None:
        """Return when ``chunks`` are durable and searchable; raise what the store raised for them."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((partition, chunks, done))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        await done

    async def close(self) -> None:
        """Wait for what is being written."""
        if self._worker is not None:
            await asyncio.wait([self._worker])

    async def _work(self) -> None:
        while self._waiting:
            partition = self._waiting[0][0]
            taken: list[tuple[Sequence[StoredChunk], asyncio.Future[None]]] = []
            kept = []
            count = 0
            for entry in self._waiting:
                fits = entry[0] == partition and (not taken or count + len(entry[1]) <= _MOST_CHUNKS)
                if fits:
                    taken.append(entry[1:])
                    count += len(entry[1])
                else:
                    kept.append(entry)
            self._waiting = kept
            await self._write(partition, taken)

    async def _write(
        self, partition: Partition, taken: list[tuple[Sequence[StoredChunk], asyncio.Future[None]]]
    ) -> None:
        try:
            await self._store.upsert_chunks(partition, [chunk for chunks, _ in taken for chunk in chunks])
        except Exception as error:  # noqa: BLE001 - handed to whom it concerns
            if len(taken) == 1 or isinstance(error, Unavailable):
                for _, done in taken:
                    if not done.done():
                        done.set_exception(error)
                return
            for entry in taken:  # find out whose fault it is
                await self._write(partition, [entry])
            return
        for _, done in taken:
            if not done.done():
                done.set_result(None)
