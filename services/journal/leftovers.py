"""Hands on what lies in spools whose processes have ended and will not come back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import structlog

from services.corpus.errors import FailedPrecondition, GroundwireError, Unavailable
from services.journal.files import DirectoryFiles
from services.journal.spool import Deliver, Spool

Close = Callable[[bytes, Sequence[bytes]], bytes]
"""Makes the payload that ends what a key's payloads opened: nobody can say how it went."""

_PAUSE = 1.0
_BATCH = 500
# Nothing is written but to tidy up.
_NO_LIMIT = 1 << 40
_log = structlog.get_logger(__name__)


class Leftovers:
    """Looks every ``interval`` seconds, and at once, into the spools that ``found`` names.

    One that a process has is left alone: the process has its lock. Of any other the payloads are delivered in order,
    then ``close``'s for what is still open, and then its directory is removed. A process that is killed in between
    leaves it for the next, which delivers some of it once more: payloads are recognisable (see ``spool``).
    """

    def __init__(self, found: Callable[[], list[Path]], deliver: Deliver, close: Close, *, interval: float) -> None:
        self._found = found
        self._deliver = deliver
        self._close = close
        self._interval = interval
        self._task: asyncio.Task[None] | None = None
        self._delivery: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._told: set[str] = set()

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._follow())

    async def close(self) -> None:
        """Stop; a spool that is being taken up is left to whoever comes next, as far as it is not delivered."""
        # The task itself is never cancelled: it would keep a lock, which belongs to a thread's result.
        self._stopping.set()
        if self._delivery is not None:
            self._delivery.cancel()
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _follow(self) -> None:
        while not self._stopping.is_set():
            for path in await asyncio.to_thread(self._found):
                try:
                    files = await asyncio.to_thread(_Held.open_left, path)
                except (FailedPrecondition, FileNotFoundError):
                    continue  # its process is still running, or somebody else was faster
                except OSError as error:
                    self._tell(path.name, error)
                    continue
                try:
                    await self._take(files)
                except Exception as error:  # noqa: BLE001 - the others still can be
                    self._tell(path.name, error)
                if self._stopping.is_set():
                    return
            await self._pause(self._interval)

    async def _take(self, files: _Held) -> None:
        try:
            spool = await Spool.open(files, self._hand_on, max_bytes=_NO_LIMIT)
            try:
                await self._insistently(spool)
            finally:
                await spool.close()
            await asyncio.to_thread(files.discard)
        finally:
            files.give_back()
        _log.info("took up the spool of a process that has ended", spool=files.directory.name)

    async def _insistently(self, spool: Spool) -> None:
        """Deliver everything; while the receiver does not answer, again and again, as the spool's process would."""
        while True:
            try:
                await spool.deliver_all()
                closing = [self._close(key, opened) for key, opened in spool.left_open.items()]
                for start in range(0, len(closing), _BATCH):
                    await self._hand_on(closing[start : start + _BATCH])
            except Unavailable:
                if self._stopping.is_set():
                    raise
                await self._pause(_PAUSE)
            else:
                return

    async def _hand_on(self, payloads: Sequence[bytes]) -> None:
        if self._stopping.is_set():
            raise Unavailable("this process is stopping")
        self._delivery = asyncio.ensure_future(self._deliver(payloads))
        await asyncio.wait([self._delivery])
        if self._delivery.cancelled():
            raise Unavailable("this process is stopping")
        self._delivery.result()

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    def _tell(self, name: str, error: Exception) -> None:
        if name not in self._told and not self._stopping.is_set():
            self._told.add(name)
            unexpected = None if isinstance(error, GroundwireError | OSError) else error
            _log.error("a spool cannot be taken up", spool=name, reason=str(error), exc_info=unexpected)


class _Held(DirectoryFiles):
    """Stays locked when its spool is closed: nobody may come between that and the removal."""

    def release(self) -> None:
        """See :meth:`give_back`."""

    def give_back(self) -> None:
        """Let others use the directory."""
        super().release()
