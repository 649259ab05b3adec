"""The store writer: fewer writes, and still a fate of its own for every document."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest

from interceptors import current
from services.corpus.errors import DeadlineExceeded, GroundwireError, InvalidRequest, ResourceExhausted, Unavailable
from services.ingestion.store_writer import StoreWriter
from services.vectorstores.memory import MemoryVectorStore
from services.vectorstores.ports import Partition, StoredChunk
from tests.support.serving import until

HERE = Partition("acme", "default")
THERE = Partition("acme", "other")
# Nothing is written before a test says so.
NEVER = 3600.0


class RecordingStore(MemoryVectorStore):
    """Records every write; waits and fails as told."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[tuple[Partition, list[str]]] = []
        self.contexts: list[tuple[str, float | None]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.errors: list[Exception] = []
        self.poison: Exception = InvalidRequest([])

    async def upsert_chunks(self, partition: Partition, chunks: Sequence[StoredChunk]) -> None:
        self.writes.append((partition, [chunk.document_id for chunk in chunks]))
        self.contexts.append((current.request_id.get(), current.deadline.get()))
        await self.gate.wait()
        if self.errors:
            raise self.errors.pop(0)
        if any(chunk.document_id == "poison" for chunk in chunks):
            raise self.poison
        await super().upsert_chunks(partition, chunks)


def chunks(document_id: str, count: int = 1) -> list[StoredChunk]:
    vector = np.array([1.0, 0.0], dtype=np.float32)
    return [
        StoredChunk(f"{document_id}#1.{i}", document_id, 1, i, 1, b"payload", vector, ("term",)) for i in range(count)
    ]


@pytest.fixture
def store() -> RecordingStore:
    return RecordingStore()


async def settle() -> None:
    """Let everything run that can run now."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_lone_document_is_written_at_once(store: RecordingStore) -> None:
    writer = StoreWriter(store, most_wait=NEVER)
    await writer.upsert(HERE, chunks("a", 3))
    assert store.writes == [(HERE, ["a"] * 3)]
    assert await store.count_chunks(HERE) == 3


async def test_documents_that_are_ready_together_share_a_write(store: RecordingStore) -> None:
    writer = StoreWriter(store, most_wait=NEVER)
    with writer.preparing():
        tasks = [asyncio.create_task(writer.upsert(HERE, chunks(name))) for name in "abc"]
        await settle()
        assert store.writes == []
        assert not any(task.done() for task in tasks)
    await asyncio.gather(*tasks)
    assert store.writes == [(HERE, ["a", "b", "c"])]


async def test_enough_chunks_are_written_although_more_are_coming(store: RecordingStore) -> None:
    writer = StoreWriter(store, most_chunks=4, most_wait=NEVER)
    with writer.preparing():
        first = asyncio.create_task(writer.upsert(HERE, chunks("a", 2)))
        await settle()
        assert store.writes == []
        await asyncio.gather(first, writer.upsert(HERE, chunks("b", 2)))
        assert store.writes == [(HERE, ["a", "a", "b", "b"])]
        # What comes next waits again.
        waiting = asyncio.create_task(writer.upsert(HERE, chunks("c")))
        await settle()
        assert len(store.writes) == 1
    await waiting


async def test_nothing_waits_longer_than_it_may(store: RecordingStore) -> None:
    writer = StoreWriter(store, most_wait=0.01)
    with writer.preparing():
        await writer.upsert(HERE, chunks("a"))
    assert store.writes == [(HERE, ["a"])]


async def test_a_write_has_a_largest_size_and_a_large_document_one_of_its_own(store: RecordingStore) -> None:
    writer = StoreWriter(store, most_chunks=4, most_wait=NEVER)
    names = {"a": 3, "b": 3, "huge": 100, "c": 3}
    with writer.preparing():
        store.gate.clear()
        tasks = [asyncio.create_task(writer.upsert(HERE, chunks(name, count))) for name, count in names.items()]
        await settle()
        store.gate.set()
    await asyncio.gather(*tasks)
    assert [sorted(set(written)) for _, written in store.writes] == [["a", "b"], ["huge"], ["c"]]
    assert sum(len(written) for _, written in store.writes) == 109


async def test_partitions_are_never_mixed(store: RecordingStore) -> None:
    writer = StoreWriter(store, most_wait=NEVER)
    with writer.preparing():
        tasks = [
            asyncio.create_task(writer.upsert(partition, chunks(name)))
            for name, partition in (("a", HERE), ("b", THERE), ("c", HERE), ("d", THERE))
        ]
        await settle()
    await asyncio.gather(*tasks)
    assert store.writes == [(HERE, ["a", "c"]), (THERE, ["b", "d"])]


async def test_a_poisoned_document_fails_alone(store: RecordingStore) -> None:
    writer = StoreWriter(store, most_wait=NEVER)
    with writer.preparing():
        tasks = [asyncio.create_task(writer.upsert(HERE, chunks(name))) for name in ("a", "poison", "b")]
        await settle()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert results == [None, store.poison, None]
    assert await store.count_chunks(HERE) == 2


@pytest.mark.parametrize("error", [Unavailable("a"), ResourceExhausted("b"), DeadlineExceeded("c")])
async def test_a_store_that_is_away_is_not_asked_once_per_document(
    store: RecordingStore, error: GroundwireError
) -> None:
    writer = StoreWriter(store, most_wait=NEVER)
    store.errors = [error]
    with writer.preparing():
        tasks = [asyncio.create_task(writer.upsert(HERE, chunks(name))) for name in "abc"]
        await settle()
    assert await asyncio.gather(*tasks, return_exceptions=True) == [error] * 3
    assert len(store.writes) == 1
    await writer.upsert(HERE, chunks("d"))


async def test_a_store_that_never_answers_is_given_up(store: RecordingStore) -> None:
    writer = StoreWriter(store, most_wait=NEVER, most_write=0.01)
    store.gate.clear()
    with pytest.raises(Unavailable, match="in time"):
        await writer.upsert(HERE, chunks("a"))
    store.gate.set()
    await writer.upsert(HERE, chunks("b"))
    assert await store.count_chunks(HERE) == 1


# --- callers that leave ----------------------------------------------------------------------------------------------


async def test_chunks_whose_caller_left_are_not_written(store: RecordingStore) -> None:
    writer = StoreWriter(store, most_wait=NEVER)
    with writer.preparing():
        tasks = [asyncio.create_task(writer.upsert(HERE, chunks(name))) for name in "ab"]
        await settle()
        tasks[0].cancel()
        await settle()
    await tasks[1]
    assert tasks[0].cancelled()
    assert store.writes == [(HERE, ["b"])]


async def test_when_every_caller_left_nothing_is_written_and_the_next_one_is(store: RecordingStore) -> None:
    writer = StoreWriter(store, most_wait=NEVER)
    with writer.preparing():
        task = asyncio.create_task(writer.upsert(HERE, chunks("a")))
        await settle()
        task.cancel()
        await settle()
    await writer.close()
    assert store.writes == []
    await writer.upsert(HERE, chunks("b"))
    assert store.writes == [(HERE, ["b"])]


async def test_a_caller_that_leaves_during_the_write_takes_nobody_along(store: RecordingStore) -> None:
    writer = StoreWriter(store, most_wait=NEVER)
    store.gate.clear()
    with writer.preparing():
        tasks = [asyncio.create_task(writer.upsert(HERE, chunks(name))) for name in "ab"]
        await settle()
    await until(lambda: store.writes)
    tasks[0].cancel()
    await settle()
    assert tasks[0].cancelled()
    store.gate.set()
    await tasks[1]
    assert await store.count_chunks(HERE) == 2


async def test_a_worker_that_dies_leaves_nobody_waiting(store: RecordingStore) -> None:
    writer = StoreWriter(store, most_chunks=1, most_wait=NEVER)
    store.gate.clear()
    tasks = [asyncio.create_task(writer.upsert(HERE, chunks(name, 2))) for name in "abc"]
    await until(lambda: store.writes)
    assert writer._worker is not None
    writer._worker.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [Unavailable] * 3
    store.gate.set()
    await writer.upsert(HERE, chunks("d"))
    assert await store.count_chunks(HERE) == 1


async def test_a_write_keeps_its_first_callers_trace_but_nobodys_deadline(store: RecordingStore) -> None:
    writer = StoreWriter(store, most_wait=NEVER)

    async def call(request_id: str, deadline: float) -> None:
        current.request_id.set(request_id)
        current.deadline.set(deadline)
        await writer.upsert(HERE, chunks(request_id))
        assert (current.request_id.get(), current.deadline.get()) == (request_id, deadline)

    store.gate.clear()
    first = asyncio.create_task(call("first", 1.0))
    await until(lambda: store.writes)
    # The same worker goes on with these.
    others = [asyncio.create_task(call(name, 2.0)) for name in ("second", "third")]
    await settle()
    store.gate.set()
    await asyncio.gather(first, *others)
    assert store.contexts == [("first", None), ("second", None)]


# --- the end ---------------------------------------------------------------------------------------------------------


async def test_close_waits_for_the_write(store: RecordingStore) -> None:
    writer = StoreWriter(store, most_wait=NEVER)
    await writer.close()
    store.gate.clear()
    task = asyncio.create_task(writer.upsert(HERE, chunks("a")))
    await until(lambda: store.writes)
    closing = asyncio.create_task(writer.close())
    await settle()
    assert not closing.done()
    store.gate.set()
    await closing
    await task
    assert await store.count_chunks(HERE) == 1


async def test_close_gives_up_a_store_that_never_answers(store: RecordingStore) -> None:
    writer = StoreWriter(store, most_wait=NEVER)
    store.gate.clear()
    task = asyncio.create_task(writer.upsert(HERE, chunks("a")))
    await until(lambda: store.writes)
    await writer.close(patience=0.01)
    with pytest.raises(Unavailable) as caught:
        await task
    assert caught.value.reason == "DRAINING"
