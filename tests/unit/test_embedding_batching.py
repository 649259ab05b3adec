"""Batches that calls share: every text goes through once, within the bound, and to whom it belongs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from services.corpus.errors import Unavailable
from services.embedding.batching import SharedBatches
from services.embedding.threads import ModelThreads
from services.embedding.tokens import TokenIds


class Model:
    """Gives each text a row with its own first token, and keeps count."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.seen: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.began = threading.Event()

    def __call__(self, batch: Sequence[TokenIds]) -> NDArray[np.float32]:
        self.began.set()
        assert self.gate.wait(60)
        self.batches.append([len(tokens) for tokens in batch])
        self.seen.extend(int(tokens[0]) for tokens in batch)
        if any(tokens[0] < 0 for tokens in batch):
            raise ValueError("a text that the model chokes on")
        return np.array([[tokens[0]] for tokens in batch], dtype=np.float32)


def text(name: int, length: int) -> TokenIds:
    return np.full(length, name, dtype=np.int64)


@given(
    calls=st.lists(st.lists(st.integers(1, 600), max_size=8), max_size=8),
    limit=st.integers(1, 1024),
    threads=st.integers(1, 3),
)
@settings(deadline=None, max_examples=100)
def test_every_text_goes_through_once_and_comes_back_in_order(calls: list[list[int]], limit: int, threads: int) -> None:
    model = Model()
    numbers = iter(range(10_000))
    named = [[text(next(numbers), length) for length in lengths] for lengths in calls]

    async def run() -> list[NDArray[np.float32]]:
        pool = ModelThreads("test", threads=threads)
        batches = SharedBatches(pool, model, batch_tokens=limit)
        rows = await asyncio.gather(*(batches.run(texts, 1) for texts in named))
        await pool.close()
        return rows

    for texts, rows in zip(named, asyncio.run(run()), strict=True):
        assert rows[:, 0].tolist() == [int(tokens[0]) for tokens in texts]
    assert sorted(model.seen) == list(range(sum(map(len, calls))))
    assert all(len(batch) == 1 or len(batch) * max(batch) <= limit for batch in model.batches)


async def test_waiting_texts_of_several_calls_share_a_batch() -> None:
    model = Model()
    model.gate.clear()
    pool = ModelThreads("test", threads=1)
    batches = SharedBatches(pool, model, batch_tokens=100)
    first = asyncio.create_task(batches.run([text(0, 90)], 1))
    await asyncio.to_thread(model.began.wait, 60)
    others = [asyncio.create_task(batches.run([text(name, 10)], 1)) for name in (1, 2, 3)]
    await asyncio.sleep(0)  # each has put its text into the queue when it is first run
    model.gate.set()
    await asyncio.gather(first, *others)
    assert model.batches == [[90], [10, 10, 10]]
    await pool.close()


async def test_a_cancelled_call_takes_its_waiting_texts_with_it() -> None:
    model = Model()
    model.gate.clear()
    pool = ModelThreads("test", threads=1)
    batches = SharedBatches(pool, model, batch_tokens=10)
    first = asyncio.create_task(batches.run([text(0, 10)], 1))
    await asyncio.to_thread(model.began.wait, 60)
    doomed = asyncio.create_task(batches.run([text(1, 10), text(2, 10)], 1))
    kept = asyncio.create_task(batches.run([text(3, 10)], 1))
    await asyncio.sleep(0)
    doomed.cancel()
    await asyncio.wait([doomed])
    model.gate.set()
    await asyncio.gather(first, kept)
    assert model.seen == [0, 3]
    await pool.close()


async def test_an_error_reaches_its_caller_and_no_other() -> None:
    pool = ModelThreads("test", threads=1)
    batches = SharedBatches(pool, Model(), batch_tokens=1)  # each text alone
    bad, good = await asyncio.gather(
        batches.run([text(-1, 5)], 1), batches.run([text(7, 5)], 1), return_exceptions=True
    )
    assert isinstance(bad, ValueError)
    assert isinstance(good, np.ndarray)
    assert good[0, 0] == 7
    await pool.close()


async def test_closing_refuses_what_waits() -> None:
    model = Model()
    model.gate.clear()
    pool = ModelThreads("test", threads=1)
    batches = SharedBatches(pool, model, batch_tokens=10)
    running = asyncio.create_task(batches.run([text(0, 10)], 1))
    await asyncio.to_thread(model.began.wait, 60)
    waiting = asyncio.create_task(batches.run([text(1, 10)], 1))
    await asyncio.sleep(0)
    closing = asyncio.create_task(pool.close())
    await asyncio.sleep(0)
    model.gate.set()
    await closing
    batches.close()
    assert (await running)[0, 0] == 0
    with pytest.raises(Unavailable):
        await waiting
    with pytest.raises(Unavailable):
        await batches.run([text(2, 10)], 1)
