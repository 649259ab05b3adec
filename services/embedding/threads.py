"""Threads for inference: native code that releases the GIL, at a priority below the event loop's where it is bulk."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from services.corpus.errors import Unavailable

_T = TypeVar("_T")
_MOST_THREADS = 4


def usable_cores() -> int:
    """How many inference threads to start when nobody says: the cores this process may use, at most four.

    The cap is there because a container's CPU quota does not show in its affinity mask.
    """
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, min(cores, _MOST_THREADS))


class ModelThreads:
    """A pool of threads that runs short pieces of inference in the order given.

    It belongs to no event loop: any loop may await :meth:`run`. ``niceness`` (0 to 19) lowers the priority of the
    pool's threads alone (Linux; elsewhere it has no effect) and is inherited by threads that they start.
    """

    def __init__(self, name: str, *, threads: int, niceness: int = 0) -> None:
        self.threads = threads
        self._closed = False
        self._executor = ThreadPoolExecutor(
            threads, thread_name_prefix=name, initializer=_lower_priority, initargs=(niceness,)
        )

    async def run(self, piece: Callable[[], _T]) -> _T:
        """Await ``piece`` run in the pool; a caller that is cancelled takes a waiting piece out of the queue.

        Raises:
            Unavailable: The pool was closed before the piece began.
        """
        if self._closed:
            raise _closed()
        return await asyncio.wrap_future(self._executor.submit(self._unless_closed, piece))

    def submit(self, piece: Callable[[], object]) -> None:
        """Have ``piece`` run in the pool without waiting for it; it must report its own errors.

        Raises:
            Unavailable: The pool was closed.
        """
        if self._closed:
            raise _closed()
        self._executor.submit(self._unless_closed, piece)

    async def close(self) -> None:
        """Let running pieces end, refuse the waiting ones, and end the threads. Closing twice is fine."""
        self._closed = True
        await asyncio.to_thread(self._executor.shutdown)

    def _unless_closed(self, piece: Callable[[], _T]) -> _T:
        if self._closed:
            raise _closed()
        return piece()


def _closed() -> Unavailable:
    return Unavailable("the model is shut down")


def _lower_priority(niceness: int) -> None:
    if niceness and sys.platform == "linux":
        # On Linux a nice value belongs to the thread. A sandbox may forbid the call; full speed is a fine fall-back.
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)
