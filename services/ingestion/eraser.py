"""Removing what deleted documents have left in the stores, until a count says that nothing is left.

Every erasure is in the catalog before its document's deletion is reported, and what was done is written there as it is
done. So whatever is unfinished, because a store was away or a process was killed, is found there and taken up again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import Context, copy_context
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog

from interceptors import current
from services.corpus.erasure import Erasure
from services.corpus.errors import DeadlineExceeded, FailedPrecondition, GroundwireError, ResourceExhausted, Unavailable
from services.ingestion.ports import Catalog, VectorStore
from services.vectorstores.ports import Partition

_log = structlog.get_logger(__name__)
_PAGE = 100


@dataclass(frozen=True)
class ErasingPolicy:
    """How patiently things are erased; times in seconds.

    One attempt at one erasure ends after ``most_attempt``. While something is unfinished it is tried again after
    ``first_wait``, then after twice as long each time, up to ``most_wait``, which is also how often the catalog is looked
    into when nothing is known to be unfinished: another process may have left something.

    ``latest_write`` is for how long after a deletion chunks of a version that was on its way may still arrive.
    """

    most_attempt: float = 60.0
    first_wait: float = 1.0
    most_wait: float = 30.0
    latest_write: timedelta = timedelta(minutes=20)


@dataclass
class _Attempt:
    """One attempt at an erasure: how far it has come by now and, in the end, what stopped it."""

    erasure: Erasure
    problem: Exception | None = None
    task: asyncio.Task[None] | None = None

    @property
    def nobody_answered(self) -> bool:
        """Whether it is no use to try others now."""
        return isinstance(self.problem, Unavailable | DeadlineExceeded | ResourceExhausted)

    async def ended(self, within: float | None = None) -> None:
        """Wait for its end, at most so many seconds; whoever stops waiting does not stop it."""
        if self.task is not None:
            await asyncio.wait([self.task], timeout=within)


class _OvertakenError(Exception):
    """Another process is at the same erasure: what it wrote counts, and what was counted here is out of date."""


class Eraser:
    """Erases from ``stores``, by their names. Safe to use concurrently, also by several processes of one catalog."""

    def __init__(
        self,
        catalog: Catalog,
        stores: Mapping[str, VectorStore],
        policy: ErasingPolicy | None = None,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._catalog = catalog
        self._stores = dict(stores)
        self._policy = policy or ErasingPolicy()
        self._now = now
        self._attempts: dict[str, _Attempt] = {}
        self._unfinished = asyncio.Event()
        self._background: asyncio.Task[None] | None = None

    @property
    def places(self) -> tuple[str, ...]:
        """The names of the stores."""
        return tuple(self._stores)

    def start(self) -> None:
        """Take up what is unfinished, now and from then on."""
        self._background = asyncio.create_task(self._follow(), context=Context())

    async def close(self, patience: float = 5.0) -> None:
        """End the background, and give attempts that run ``patience`` seconds; the next start goes on with the rest."""
        if self._background is not None:
            self._background.cancel()
            await asyncio.wait([self._background])
        running = [attempt.task for attempt in self._attempts.values() if attempt.task is not None]
        if running:
            _, stuck = await asyncio.wait(running, timeout=patience)
            for task in stuck:
                task.cancel()
                await asyncio.wait([task])

    async def erase(self, erasure: Erasure, patience: float) -> Erasure:
        """How far ``erasure`` comes within ``patience`` seconds; what is left goes on in the background. Never fails."""
        if erasure.complete_time is not None:
            return erasure
        attempt = self._attempt(erasure)
        await attempt.ended(patience)
        return attempt.erasure

    # --- in the background ---------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        wait = self._policy.first_wait
        while True:
            self._unfinished.clear()
            if await self._finish_all():
                wait = self._policy.first_wait
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._policy.most_wait):
                        await self._unfinished.wait()
            await asyncio.sleep(wait)
            wait = min(wait * 2, self._policy.most_wait)

    async def _finish_all(self) -> bool:
        """Try everything that is unfinished once, unless nobody answers; whether nothing is left."""
        finished, after = True, ""
        try:
            while page := await self._catalog.unfinished_erasures(after=after, limit=_PAGE):
                for erasure in page:
                    attempt = self._attempt(erasure)
                    await attempt.ended()
                    if attempt.nobody_answered:
                        return False
                    finished = finished and attempt.erasure.complete_time is not None
                after = page[-1].receipt_id
        except GroundwireError as error:
            _log.warning("unfinished erasures cannot be looked up", reason=error.reason)
            return False
        except Exception as error:  # noqa: BLE001 - whatever goes wrong, the next round must come
            _log.exception("erasing failed unexpectedly", exc_info=error)
            return False
        return finished

    # --- one erasure ---------------------------------------------------------------------------------------------

    def _attempt(self, erasure: Erasure) -> _Attempt:
        """The attempt at ``erasure`` that runs, or a new one."""
        running = self._attempts.get(erasure.receipt_id)
        if running is not None:
            return running
        # It goes on when the call that began it has ended, and it is the service's own work: nobody else's deadline
        # or identity is about it.
        context = copy_context()
        context.run(current.deadline.set, None)
        context.run(current.credential.set, None)
        attempt = self._attempts[erasure.receipt_id] = _Attempt(erasure)
        attempt.task = asyncio.create_task(self._run(attempt), context=context)
        attempt.task.add_done_callback(lambda _: self._attempts.pop(erasure.receipt_id))
        return attempt

    async def _run(self, attempt: _Attempt) -> None:
        erasure, problem = attempt.erasure, "no answer in time"
        try:
            async with asyncio.timeout(self._policy.most_attempt):
                await self._erase(attempt)
        except TimeoutError:
            attempt.problem = DeadlineExceeded(problem)
        except GroundwireError as error:
            attempt.problem, problem = error, error.reason
        except Exception as error:  # noqa: BLE001 - a deletion must not fail, nor the others' with it
            attempt.problem, problem = error, type(error).__name__
            _log.exception("erasing failed unexpectedly", receipt_id=erasure.receipt_id, exc_info=error)
        if attempt.problem is not None:
            _log.warning("an erasure is not complete yet", receipt_id=erasure.receipt_id, reason=problem)
        if attempt.erasure.complete_time is None:
            self._unfinished.set()

    async def _erase(self, attempt: _Attempt) -> None:
        try:
            for step in attempt.erasure.steps:
                if step.complete_time is None:
                    await self._clear(attempt, step.place)
        except _OvertakenError:
            erasure = attempt.erasure
            attempt.erasure = await self._catalog.find_erasure(erasure.tenant, erasure.receipt_id) or erasure

    async def _clear(self, attempt: _Attempt, place: str) -> None:
        store = self._stores.get(place)
        if store is None:
            raise FailedPrecondition(f"there is no store {place} any more")
        erasure = attempt.erasure
        partition, document_id = Partition(erasure.tenant, erasure.collection), erasure.document_id
        version = erasure.before_version
        # What is there is written down before it is removed: a process that is killed in between knows it afterwards.
        count = await store.count_chunks(partition, document_id, before_version=version)
        await self._record(attempt, place, count)
        if count:
            await store.delete_chunks(partition, document_id, before_version=version)
            left = await store.count_chunks(partition, document_id, before_version=version)
            await self._record(attempt, place, left)

    async def _record(self, attempt: _Attempt, place: str, count: int) -> None:
        before, now = attempt.erasure, self._now()
        final = not before.unsettled or now > before.block_time + self._policy.latest_write
        after = before.counted(place, count, now, final=final)
        if after == before:
            return
        if not await self._catalog.record_erasure(before, after):
            raise _OvertakenError
        attempt.erasure = after
