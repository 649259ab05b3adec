"""Time-outs of one length, for any number of coroutines at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

_T = TypeVar("_T")


class _Run:
    __slots__ = ("cancelling", "ends", "late", "task")

    def __init__(self, task: asyncio.Task[Any], ends: float) -> None:
        self.task = task
        self.ends = ends
        self.cancelling = task.cancelling()
        self.late = False


class Timeouts:
    """Ends what takes longer than ``seconds``, as :func:`asyncio.timeout` does.

    That sets a timer for each, in a heap whose entries are compared in Python: for a call that is served it costs as much
    as the most expensive layers of the chain. What has one length ends in the order in which it began, so that a
    queue and a single timer do.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._running: dict[_Run, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    async def limit(self, work: Awaitable[_T], late: Callable[[], Exception]) -> _T:
        """What ``work`` returns or raises; what ``late`` makes if it took too long, and was cancelled for that alone."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a time-out ends a task, and there is none")
        loop = task.get_loop()
        run = _Run(task, loop.time() + self._seconds)
        self._running[run] = None
        if self._timer is None:
            self._timer = loop.call_at(run.ends, self._end, loop)
        try:
            return await work
        except asyncio.CancelledError as error:
            if run.late:
                run.late = False
                if task.uncancel() <= run.cancelling:
                    raise late() from error
            raise
        finally:
            self._running.pop(run, None)
            if run.late:  # it ended in another way all the same
                task.uncancel()

    def _end(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        while self._running:
            run = next(iter(self._running))
            if run.ends > now:
                self._timer = loop.call_at(run.ends, self._end, loop)
                return
            del self._running[run]
            run.late = True
            run.task.cancel()
