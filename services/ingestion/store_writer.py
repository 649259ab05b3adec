"""Writing to the store in company: chunks of documents that are ready at about the same time share one call.

A store's write costs about the same for one chunk as for dozens (a commit and an fsync in each engine), and on a
small machine that cost is taken from the embedder. So while more documents are on their way, ready ones gather for a
moment; as soon as nothing more is coming, what has gathered is written at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import Context, copy_context
from dataclasses import dataclass, field

from interceptors import current
from services.corpus.errors import DeadlineExceeded, ResourceExhausted, Unavailable
from services.vectorstores.ports import Partition, StoredChunk, VectorStore

MOST_CHUNKS = 64
MOST_WAIT = 1.0
MOST_WRITE = 60.0


@dataclass(frozen=True, eq=False)
class _Entry:
    partition: Partition
    chunks: Sequence[StoredChunk]
    done: asyncio.Future[None]
    context: Context = field(default_factory=copy_context)


class StoreWriter:
    """Coalesces concurrent upserts of one store. One document's error is never another's.

    What gathers is written when it has ``most_chunks``, when its first document has waited ``most_wait`` seconds, or
    when no document is :meth:`preparing` any more. A write that takes longer than ``most_write`` seconds has failed.
    """

    def __init__(
        self,
        store: VectorStore,
        *,
        most_chunks: int = MOST_CHUNKS,
        most_wait: float = MOST_WAIT,
        most_write: float = MOST_WRITE,
    ) -> None:
        self._store = store
        self._most_chunks = most_chunks
        self._most_wait = most_wait
        self._most_write = most_write
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
        """Return when ``chunks`` are durable and searchable; raise what the store raised for them.

        Chunks whose caller is cancelled while they wait are not written; those that are being written still are.
        """
        entry = _Entry(partition, chunks, asyncio.get_running_loop().create_future())
        self._waiting.append(entry)
        self._notice()
        if self._worker is None or self._worker.done():
            # In a context of its own: it goes on to serve other calls when this one has ended.
            self._worker = asyncio.create_task(self._work(), context=Context())
        try:
            await entry.done
        finally:
            if entry in self._waiting:
                self._waiting.remove(entry)
                self._notice()

    async def close(self, patience: float = 5.0) -> None:
        """Wait for what is being written; after ``patience`` seconds, give it up."""
        if self._worker is None:
            return
        _, stuck = await asyncio.wait([self._worker], timeout=patience)
        for task in stuck:
            task.cancel()
            await asyncio.wait([task])

    def _notice(self) -> None:
        if self._preparing == 0 or sum(len(entry.chunks) for entry in self._waiting) >= self._most_chunks:
            self._enough.set()
        else:
            self._enough.clear()

    async def _work(self) -> None:
        try:
            while self._waiting:
                try:
                    async with asyncio.timeout(self._most_wait):
                        await self._enough.wait()
                except TimeoutError:
                    pass
                if taken := self._take():
                    await self._write(taken)
                self._notice()
        finally:
            # Only a cancelled worker leaves anybody behind: nobody may wait for an answer that never comes.
            _fail(self._waiting, _given_up())

    def _take(self) -> list[_Entry]:
        """The documents of the first one's partition, as many as go into one write."""
        taken: list[_Entry] = []
        kept: list[_Entry] = []
        count = 0
        for entry in self._waiting:
            fits = not taken or (
                entry.partition == taken[0].partition and count + len(entry.chunks) <= 2 * self._most_chunks
            )
            (taken if fits else kept).append(entry)
            count += len(entry.chunks) if fits else 0
        self._waiting = kept
        return taken

    async def _write(self, taken: Sequence[_Entry]) -> None:
        try:
            await self._upsert(taken)
        except Exception as error:  # noqa: BLE001 - handed to whom it concerns
            if len(taken) > 1 and not isinstance(error, Unavailable | ResourceExhausted | DeadlineExceeded):
                for entry in taken:  # find out whose fault it is
                    await self._write([entry])
                return
            _fail(taken, error)
        except BaseException:
            _fail(taken, _given_up())
            raise
        else:
            for entry in taken:
                if not entry.done.done():
                    entry.done.set_result(None)

    async def _upsert(self, taken: Sequence[_Entry]) -> None:
        # A write that several calls share is traced with the first one, but ends with none of them: their deadlines
        # and cancellations are about their own waiting. Nor does it speak for one of them: it is the service's own.
        context = taken[0].context
        context.run(current.deadline.set, None)
        context.run(current.credential.set, None)
        chunks = [chunk for entry in taken for chunk in entry.chunks]
        write = asyncio.create_task(_upsert(self._store, taken[0].partition, chunks), context=context)
        try:
            async with asyncio.timeout(self._most_write):
                await write
        except TimeoutError as error:
            raise Unavailable("the vector store did not answer in time") from error


def _fail(entries: Sequence[_Entry], error: Exception) -> None:
    for entry in entries:
        if not entry.done.done():
            entry.done.set_exception(error)


def _given_up() -> Unavailable:
    return Unavailable("the service is stopping", reason="DRAINING")


async def _upsert(store: VectorStore, partition: Partition, chunks: Sequence[StoredChunk]) -> None:
    await store.upsert_chunks(partition, chunks)
