"""Batches that concurrent calls share: one turn of a thread computes texts of different calls.

Short documents have one or two chunks, and a turn costs less for several texts. A row must depend on its own text
alone, never on the others of the batch: ``compute`` sees to that, because the others may be another tenant's. A
thread that becomes free takes the text that has waited longest and fills the batch with waiting ones of like length,
whoever sent them. Nobody waits for a batch to fill.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from services.corpus.errors import Unavailable
from services.embedding.threads import ModelThreads
from services.embedding.tokens import TokenIds

Compute: TypeAlias = Callable[[Sequence[TokenIds]], NDArray[np.float32]]
"""From a batch of texts, as token ids, to one row per text. Called in a worker thread."""


@dataclass(eq=False)
class _Call:
    """One caller's texts: rows are filled in by whichever threads come to them."""

    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[None]
    rows: NDArray[np.float32]
    missing: int


@dataclass(frozen=True)
class _Text:
    call: _Call
    row: int
    tokens: TokenIds = field(repr=False)


class SharedBatches:
    """Runs ``compute`` over all callers' texts in ``threads``, at most ``batch_tokens`` at once, padding included.

    A text that is longer than that goes alone.
    """

    def __init__(self, threads: ModelThreads, compute: Compute, *, batch_tokens: int) -> None:
        self._threads = threads
        self._compute = compute
        self._batch_tokens = batch_tokens
        self._lock = threading.Lock()
        self._waiting: list[_Text] = []

    async def run(self, texts: Sequence[TokenIds], dimension: int) -> NDArray[np.float32]:
        """One row per text, in the order given. Raises what ``compute`` raised, and Unavailable once closed.

        A caller that is cancelled takes its waiting texts with it.
        """
        rows = np.zeros((len(texts), dimension), dtype=np.float32)
        if not texts:
            return rows
        loop = asyncio.get_running_loop()
        call = _Call(loop, loop.create_future(), rows, len(texts))
        with self._lock:
            self._waiting.extend(_Text(call, row, tokens) for row, tokens in enumerate(texts))
        try:
            for _ in texts:  # as many turns as texts; a turn that finds nothing left costs nothing
                self._threads.submit(self._turn)
            await call.done
        finally:
            with self._lock:
                self._waiting = [text for text in self._waiting if text.call is not call]
        return rows

    def close(self) -> None:
        """Refuse everything that still waits; its threads must have ended."""
        with self._lock:
            refused, self._waiting = self._waiting, []
        for text in refused:
            _finish(text.call, Unavailable("the model is shut down"))

    def _turn(self) -> None:
        batch = self._take()
        if not batch:
            return
        try:
            rows = self._compute([text.tokens for text in batch])
        except Exception as error:  # noqa: BLE001 - handed to everybody whom it concerns
            for text in batch:
                _finish(text.call, error)
            return
        for text, row in zip(batch, rows, strict=True):
            text.call.rows[text.row] = row
        self._count(batch)

    def _take(self) -> list[_Text]:
        with self._lock:
            if not self._waiting:
                return []
            first = self._waiting[0]
            batch, longest = [first], len(first.tokens)
            alike = sorted(self._waiting[1:], key=lambda text: abs(len(text.tokens) - len(first.tokens)))
            for text in alike:
                padded = max(longest, len(text.tokens))
                if (len(batch) + 1) * padded > self._batch_tokens:
                    break
                batch.append(text)
                longest = padded
            taken = set(map(id, batch))
            self._waiting = [text for text in self._waiting if id(text) not in taken]
            return batch

    def _count(self, batch: Sequence[_Text]) -> None:
        with self._lock:
            for text in batch:
                text.call.missing -= 1
            complete = {id(text.call): text.call for text in batch if text.call.missing == 0}
        for call in complete.values():
            _finish(call, None)


def _finish(call: _Call, error: Exception | None) -> None:
    def tell() -> None:
        if call.done.done():  # cancelled, or failed with another text already
            return
        if error is None:
            call.done.set_result(None)
        else:
            call.done.set_exception(error)

    try:
        call.loop.call_soon_threadsafe(tell)
    except RuntimeError:
        return  # the loop has ended, and with it everybody who would want to know
