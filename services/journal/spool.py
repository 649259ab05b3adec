"""Store and forward: payloads are durable here until somebody else has them.

    spool = await Spool.open(files, deliver, max_bytes=…)
    spool.submit(Kind.PLAIN, b"", payload, then)     # ``then`` is told when the payload is durable, or cannot be
    spool.start()                                     # hands payloads on, in order, in batches, until ``deliver`` has all

Writing costs the same for one payload as for twenty. Where one comes at a time it is written at once; where several were
under way together lately it waits for as many, as databases do with commits: a few milliseconds, and a few more while
others keep coming.

``deliver`` may get a payload twice, after a crash: make payloads recognisable. A payload may *open* something under a
key, which a later one *closes*: what a crash left open is in :attr:`Spool.left_open` when the spool is opened again.

Each frame says how far delivery had come when it was written, so that a restart repeats little and nothing has to be
written for that alone. What is delivered is removed from time to time; what is still open is kept by writing it anew,
behind everything else, as a frame that is not delivered again.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from enum import IntEnum
from functools import partial
from typing import NamedTuple, Self

import structlog

from services.corpus.errors import DataLoss, GroundwireError, Unavailable
from services.journal.journal import Journal
from services.journal.ports import Files

Deliver = Callable[[Sequence[bytes]], Awaitable[None]]
"""Gets payloads in order and returns when they are safe; raises a GroundwireError to be asked again."""
Then = Callable[[GroundwireError | None], None]
"""Told that a payload is durable (None), or why it may not be: that the disk takes too long may be followed by None."""

# Small, because a segment is removed when all of it was delivered.
_SEGMENT_BYTES = 1024 * 1024
_COMPACT_BYTES = 4 * _SEGMENT_BYTES
_BATCH = 1000
_BATCH_BYTES = 4 * 1024 * 1024
_IN_MEMORY = 4096
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0
# Others are waited for until none has come for this long, and never longer than that; in seconds.
_QUIET, _LONGEST_GATHERING = 0.005, 0.015
# From how many on that were under way together lately others are expected.
_COMPANY = 2
_FORGETTING = 0.9
# Seconds that payloads are gathered before they are handed on, and after a batch of so many: handing on costs as much for
# one as for a hundred.
_LINGER, _BUSY_LINGER, _BUSY = 0.02, 0.1, 10
# Seconds after which whoever waits is told that the disk does not answer.
DISK_PATIENCE = 0.4
_REPAIR_INTERVAL = 0.5
_LAST_TRY = 2.0
_HEAD = struct.Struct(">BQH")  # kind, everything below this sequence number is delivered, length of the key
COMMAND_PREFIX = "command-"
"""How the names of the spools begin that belong to one command each."""
_log = structlog.get_logger(__name__)


class Kind(IntEnum):
    """What a payload means for its key."""

    PLAIN = 1
    OPENS = 2
    CLOSES = 3
    KEPT = 4
    """Was delivered, and is still open."""


class _Entry(NamedTuple):
    kind: Kind
    key: bytes
    payload: bytes
    then: Then


class Spool:
    """See the module. Belongs to the event loop that opened it."""

    def __init__(
        self, journal: Journal, deliver: Deliver, *, max_bytes: int, delivered: int, opened: dict[bytes, list[bytes]]
    ) -> None:
        self._journal = journal
        self._deliver = deliver
        self._max_bytes = max_bytes
        self._bytes = journal.size  # as of when it last changed: there may be hundreds of segments to sum up
        self._delivered = max(delivered, journal.first_sequence)
        self._opened = opened
        self._loop = asyncio.get_running_loop()
        self._gathered: list[_Entry] = []
        self._flushing: asyncio.Handle | None = None
        self._first = self._latest = 0.0  # when the first and the latest of those gathered came
        self._pending = 0
        self._company = 1.0  # how many were under way together lately
        self._recent: deque[tuple[int, bytes | None, int]] = deque()  # sequence, payload, size
        self._due = asyncio.Event()
        self._due.set()
        self._draining: asyncio.Task[None] | None = None
        self._repairing: asyncio.Task[None] | None = None
        self._undelivered = ""
        self.left_open = {key: tuple(payloads) for key, payloads in opened.items()}
        """What the process before this one opened and did not close: its payloads, by key."""

    @classmethod
    async def open(cls, files: Files, deliver: Deliver, *, max_bytes: int) -> Self:
        """Read what is there; takes the files over. Unavailable, DataLoss (damage that no crash explains)."""
        opened: dict[bytes, list[bytes]] = {}
        delivered = 0

        def replay(_sequence: int, frame: bytes) -> None:
            nonlocal delivered
            kind, delivered, key, payload = _read(frame)
            _note(opened, kind, key, payload)

        journal = await Journal.open(files, replay=replay, segment_bytes=_SEGMENT_BYTES)
        if journal.trimmed is not None:
            cut = journal.trimmed
            _log.warning("a torn tail was cut off", file=cut.file, offset=cut.offset, bytes=cut.size)
        return cls(journal, deliver, max_bytes=max_bytes, delivered=delivered, opened=opened)

    @property
    def waiting(self) -> int:
        """How many frames are durable and not delivered yet."""
        return self._journal.next_sequence - self._delivered

    @property
    def fill(self) -> float:
        """How full the spool is, 0 to 1 (and a little beyond)."""
        return self._bytes / self._max_bytes

    @property
    def failure(self) -> Unavailable | None:
        """Why nothing can be kept; None while all is well."""
        failure = self._journal.failure
        if failure is None and self._bytes >= self._max_bytes:
            return Unavailable("the spool is full")
        return failure

    def start(self) -> None:
        """Begin to deliver."""
        self._draining = asyncio.create_task(self._drain())

    async def deliver_all(self) -> None:
        """Hand on everything that is there, of a spool that was not started; what ``deliver`` raises."""
        while batch := await self._next_batch():
            await self._hand_on(batch)

    def submit(self, kind: Kind, key: bytes, payload: bytes, then: Then) -> None:
        """Keep ``payload``, behind all that were submitted before. Raises Unavailable when that is hopeless."""
        failure = self.failure
        if failure is not None:
            self._repair()
            raise Unavailable(failure.message)
        self._gathered.append(_Entry(kind, key, payload, then))
        self._pending += 1
        self._company = max(self._company, self._pending)
        self._latest = self._loop.time()
        if self._flushing is None:
            self._first = self._latest
            # At the soonest at the end of this turn of the loop.
            alone = self._company < _COMPANY  # and lately as well
            self._flushing = self._loop.call_soon(self._flush) if alone else self._wait_for_others()
        elif len(self._gathered) >= self._company:
            self._flushing.cancel()
            self._flush()

    async def close(self) -> None:
        """Give the files back; what is left is delivered next time. If it was started it tries once more, for a bounded time."""
        for task in (self._draining, self._repairing):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        if self._flushing is not None:
            self._flushing.cancel()
            self._flush()
        if self._draining is not None:
            with contextlib.suppress(TimeoutError, GroundwireError):
                async with asyncio.timeout(_LAST_TRY):
                    await self.deliver_all()
                    await self._compact()
        await self._journal.close()

    def _wait_for_others(self) -> asyncio.TimerHandle:
        until = min(self._latest + _QUIET, self._first + _LONGEST_GATHERING)
        return self._loop.call_at(until, self._flush_if_quiet, until)

    def _flush_if_quiet(self, until: float) -> None:
        if self._latest + _QUIET > until and until < self._first + _LONGEST_GATHERING:
            self._flushing = self._wait_for_others()
        else:
            self._flush()

    def _flush(self) -> None:
        group, self._gathered = self._gathered, []
        self._flushing = None
        self._company *= _FORGETTING
        delivered = self._delivered
        frames = [_HEAD.pack(kind, delivered, len(key)) + key + payload for kind, key, payload, _ in group]
        try:
            done = self._journal.submit(frames)
        except GroundwireError as error:
            self._fail(group, error)
            return
        timer = self._loop.call_later(DISK_PATIENCE, _tell_late, group)
        done.add_done_callback(partial(self._written, group, timer))

    def _written(self, group: Sequence[_Entry], timer: asyncio.TimerHandle, done: asyncio.Future[int]) -> None:
        timer.cancel()
        error = done.exception()
        if error is not None:
            self._fail(
                group, error if isinstance(error, GroundwireError) else Unavailable("the spool cannot be written")
            )
            return
        self._pending -= len(group)
        self._bytes = self._journal.size
        recent, sequence = self._recent, done.result()
        expected = recent[-1][0] + 1 if recent else self._delivered
        # What does not fit, and everything behind it, is read from the disk again when its turn comes.
        in_memory = sequence == expected and len(recent) < _IN_MEMORY
        for kind, key, payload, then in group:
            if kind is not Kind.PLAIN:
                _note(self._opened, kind, key, payload)
            if in_memory:
                recent.append((sequence, payload, len(payload)))
                sequence += 1
            then(None)
        self._due.set()

    def _fail(self, group: Sequence[_Entry], error: GroundwireError) -> None:
        self._pending -= len(group)
        self._repair()
        for entry in group:
            entry.then(error)

    # --- delivery --------------------------------------------------------------------------------------------------

    async def _drain(self) -> None:
        pause = _SHORTEST_PAUSE
        while True:
            await self._due.wait()
            await asyncio.sleep(_LINGER)
            self._due.clear()
            try:
                while batch := await self._next_batch():
                    await self._hand_on(batch)
                    pause = _SHORTEST_PAUSE
                    if len(batch) < _BATCH:
                        await asyncio.sleep(_LINGER if len(batch) < _BUSY else _BUSY_LINGER)
                if self._journal.size > _COMPACT_BYTES:
                    await self._compact()
                continue
            except GroundwireError as error:
                self._tell(error.message)
                self._repair()  # removing what is delivered may be what failed
            except Exception:  # noqa: BLE001 - an end of this loop would be an end of the record
                _log.exception("delivery failed unexpectedly")
            self._due.set()
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _hand_on(self, batch: Sequence[tuple[int, bytes | None, int]]) -> None:
        payloads = [payload for _, payload, _ in batch if payload is not None]
        if payloads:
            await self._deliver(payloads)
            if self._undelivered:
                _log.info("the spool is delivered again")
                self._undelivered = ""
        self._delivered = batch[-1][0] + 1
        while self._recent and self._recent[0][0] < self._delivered:
            self._recent.popleft()

    async def _next_batch(self) -> list[tuple[int, bytes | None, int]]:
        """What is next, as much as one delivery may take: from memory, or else from the disk."""
        if self._recent and self._recent[0][0] == self._delivered:
            return _cut(self._recent)
        if not self.waiting:
            return []
        frames = await self._journal.read_batch(self._delivered, _BATCH)
        found: list[tuple[int, bytes | None, int]] = []
        for sequence, frame in frames:
            kind, _, _, payload = _read(frame)
            found.append((sequence, None if kind is Kind.KEPT else payload, len(payload)))
        return _cut(found)

    async def _compact(self) -> None:
        """Remove what is delivered, once all is; what is still open moves to the end."""
        if self.waiting or self._pending or self._journal.failure is not None:
            return
        still_open = [
            _HEAD.pack(Kind.KEPT, self._delivered, len(key)) + key + payload
            for key, payloads in self._opened.items()
            for payload in payloads
        ]
        # Submitted in the same step in which nothing was pending: whatever is opened from here on comes behind it.
        first = self._journal.next_sequence
        if still_open:
            await self._journal.append(still_open)
            if self._delivered == first:
                self._delivered = first + len(still_open)
        await self._journal.remove_before(first)
        self._bytes = self._journal.size

    def _tell(self, why: str) -> None:
        if self._undelivered != why:
            self._undelivered = why
            _log.warning("the spool is not delivered: it keeps what comes", reason=why, waiting=self.waiting)

    # --- repair ----------------------------------------------------------------------------------------------------

    def _repair(self) -> None:
        if self._journal.failure is not None and (self._repairing is None or self._repairing.done()):
            _log.error("the spool cannot be written", reason=self._journal.failure.message)
            self._repairing = asyncio.create_task(self._reopen())

    async def _reopen(self) -> None:
        while self._journal.failure is not None:
            await asyncio.sleep(_REPAIR_INTERVAL)
            try:
                await self._journal.reopen()
                self._bytes = self._journal.size
            except GroundwireError as error:
                _log.debug("the spool still cannot be written", reason=error.message)
        _log.warning("the spool is written again, to a new segment")


async def kept(submit: Callable[[Then], None]) -> None:
    """Wait until what ``submit`` hands over is durable; Unavailable when it may not be."""
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def then(error: GroundwireError | None) -> None:
        if done.done():  # told once more, or nobody waits any more
            return
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)

    submit(then)
    await done


def _tell_late(group: Sequence[_Entry]) -> None:
    for entry in group:
        entry.then(Unavailable("the disk does not answer"))


def _read(frame: bytes) -> tuple[Kind, int, bytes, bytes]:
    try:
        kind, delivered, length = _HEAD.unpack_from(frame)
        kind = Kind(kind)
    except (struct.error, ValueError) as error:
        raise DataLoss("a frame of the spool is none, although its check sum is right") from error
    begin = _HEAD.size + length
    return kind, delivered, frame[_HEAD.size : begin], frame[begin:]


def _note(opened: dict[bytes, list[bytes]], kind: Kind, key: bytes, payload: bytes) -> None:
    if kind is Kind.CLOSES:
        opened.pop(key, None)
    elif kind is not Kind.PLAIN:
        known = opened.setdefault(key, [])
        if kind is Kind.OPENS or payload not in known:  # what was kept may be there in its first place, too
            known.append(payload)


def _cut(
    entries: Sequence[tuple[int, bytes | None, int]] | deque[tuple[int, bytes | None, int]],
) -> list[tuple[int, bytes | None, int]]:
    taken: list[tuple[int, bytes | None, int]] = []
    size = 0
    for entry in entries:
        size += entry[2]
        if taken and (size > _BATCH_BYTES or len(taken) == _BATCH):
            break
        taken.append(entry)
    return taken
