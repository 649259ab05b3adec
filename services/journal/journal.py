"""The asyncio face of a journal: appends that wait at the same time share one write and one fdatasync.

While one group is on its way to the disk the next gathers; an append that comes alone waits for nobody. All of it
belongs to one event loop, the disk to one thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from services.corpus.errors import GroundwireError, ResourceExhausted, Unavailable
from services.journal.frames import MAX_PAYLOAD
from services.journal.ports import Files
from services.journal.segments import Segments, Trimmed, Visit

SEGMENT_BYTES = 16 * 1024 * 1024
_WRITE_BYTES = 4 * 1024 * 1024
_PENDING_BYTES = 64 * 1024 * 1024
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Append:
    payloads: Sequence[bytes]
    size: int
    done: asyncio.Future[int]


class Journal:
    """See the package. Every method is for the event loop that opened it."""

    def __init__(self, segments: Segments, thread: ThreadPoolExecutor, trimmed: Trimmed | None) -> None:
        self._segments = segments
        self._thread = thread
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._waiting: deque[_Append] = deque()
        self._pending_bytes = 0
        self._running = False
        self._closed = False
        self.trimmed = trimmed
        """The torn tail that was cut off when the journal was opened."""

    @classmethod
    async def open(
        cls,
        files: Files,
        *,
        replay: Visit | None = None,
        covered: int = 0,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> Self:
        """Read the whole journal (``replay`` gets every sequence number and payload, in another thread), and go on.

        Sequence numbers below ``covered`` must be there: what is missing of them is damage and not a torn tail. A
        journal takes ``files`` over, and gives them back when it is closed or cannot be opened. Raises
        DamagedJournalError, or Unavailable if the disk does not answer.
        """
        segments = Segments(files, segment_bytes=segment_bytes)
        thread = ThreadPoolExecutor(1, thread_name_prefix="journal")

        def recover() -> Trimmed | None:
            return segments.recover(replay or _nothing, covered=covered)

        try:
            trimmed = await asyncio.get_running_loop().run_in_executor(thread, recover)
        except BaseException as error:
            segments.close()
            thread.shutdown(wait=False)
            if isinstance(error, OSError):
                raise Unavailable(f"the journal cannot be opened: {error.strerror or 'the disk failed'}") from error
            raise
        return cls(segments, thread, trimmed)

    @property
    def first_sequence(self) -> int:
        """The oldest sequence number that is still there; :attr:`next_sequence` when none is."""
        return self._segments.first

    @property
    def next_sequence(self) -> int:
        """The sequence number behind the last durable payload."""
        return self._segments.next

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self._segments.size

    @property
    def failure(self) -> Unavailable | None:
        """Why the journal is closed for appends; None while it is not."""
        return self._segments.failure

    async def append(self, payloads: Sequence[bytes]) -> int:
        """Make ``payloads`` durable, in order; the first one's sequence number. See :meth:`submit`."""
        return await self.submit(payloads)

    def submit(self, payloads: Sequence[bytes]) -> asyncio.Future[int]:
        """Put ``payloads`` in line, behind all that were put there before; the future ends when they are durable.

        Futures end in the order of their calls. Raises Unavailable (as the future may) when the journal is closed,
        ResourceExhausted when too much waits for the disk, ValueError for a payload that is too large.
        """
        if self._closed:
            raise Unavailable("the journal is closed")
        if self._segments.failure is not None:
            raise Unavailable(self._segments.failure.message)
        size = sum(map(len, payloads))
        if size > MAX_PAYLOAD and max(map(len, payloads)) > MAX_PAYLOAD:
            raise ValueError(f"a payload has at most {MAX_PAYLOAD:,} bytes")
        done: asyncio.Future[int] = self._loop.create_future()
        if not payloads:
            done.set_result(self._segments.next)
            return done
        with self._lock:
            if self._pending_bytes and self._pending_bytes + size > _PENDING_BYTES:
                raise ResourceExhausted("too much waits for the disk")
            self._waiting.append(_Append(payloads, size, done))
            self._pending_bytes += size
            begin, self._running = not self._running, True
        if begin:
            self._thread.submit(self._drain)
        return done

    async def read(self, start: int, stop: int | None = None, *, batch: int = 256) -> AsyncIterator[tuple[int, bytes]]:
        """Durable payloads with their sequence numbers, from ``start`` (or the oldest) up to ``stop`` or the present end."""
        end = self.next_sequence if stop is None else min(stop, self.next_sequence)
        while start < end:
            found = await self.read_batch(start, min(batch, end - start))
            for sequence, payload in found:
                if sequence >= end:
                    return
                yield sequence, payload
            if not found:
                return
            start = found[-1][0] + 1

    async def read_batch(self, start: int, most: int) -> list[tuple[int, bytes]]:
        """At most ``most`` payloads from ``start`` (or the oldest) on; fewer at a segment's end, none at the very end."""
        try:
            return await asyncio.to_thread(self._segments.read, start, most)
        except OSError as error:
            raise Unavailable(f"the journal cannot be read: {error.strerror or 'the disk failed'}") from error

    async def reopen(self) -> None:
        """Begin a fresh segment after a failure; does nothing when there was none.

        Raises Unavailable while it fails again, DamagedJournalError if what was acknowledged cannot be read back.
        """
        await self._in_thread(self._segments.reopen)

    async def remove_before(self, sequence: int) -> None:
        """Remove whole segments with nothing but older payloads; those of an unfinished segment stay readable."""
        await self._in_thread(lambda: self._segments.remove_before(sequence))

    async def close(self) -> None:
        """Finish what waits, and give the files back."""
        if self._closed:
            return
        self._closed = True
        await asyncio.to_thread(self._thread.shutdown)
        self._segments.close()

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        if self._closed:
            raise Unavailable("the journal is closed")
        return await self._loop.run_in_executor(self._thread, work)

    def _drain(self) -> None:
        while True:
            with self._lock:
                group = self._take()
                if not group:
                    self._running = False
                    return
            result: int | GroundwireError
            try:
                result = self._segments.write([payload for append in group for payload in append.payloads])
            except GroundwireError as error:
                result = error
            with self._lock:
                self._pending_bytes -= sum(append.size for append in group)
            with contextlib.suppress(RuntimeError):  # the loop has ended, and with it everybody who would want to know
                self._loop.call_soon_threadsafe(_tell, group, result)

    def _take(self) -> list[_Append]:
        group: list[_Append] = []
        size = 0
        while self._waiting and (not group or size + self._waiting[0].size <= _WRITE_BYTES):
            size += self._waiting[0].size
            group.append(self._waiting.popleft())
        return group


def _tell(group: Sequence[_Append], result: int | GroundwireError) -> None:
    for append in group:
        if not append.done.done():  # else its caller has left
            if isinstance(result, GroundwireError):
                append.done.set_exception(Unavailable(result.message))
            else:
                append.done.set_result(result)
        if isinstance(result, int):
            result += len(append.payloads)


def _nothing(*_: Any) -> None:
    """For journals that are only written."""
