"""Group commit: writes that wait at the same time share one transaction, and one wait for the disk.

A commit costs more than the statements in it, and SQLite takes one writer at a time. While one transaction is being
committed the next writes gather, and go together when it has ended; a write that comes alone waits for nobody.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine

_T = TypeVar("_T")
_MOST = 64


@dataclass(frozen=True)
class _Write:
    work: Callable[[Connection], Any]
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[Any]


@dataclass(frozen=True)
class _Ending:
    write: _Write
    result: Any = None
    error: Exception | None = None


class GroupCommit:
    """Runs writes in one thread. Each is as durable, and fails as much for itself, as in a transaction of its own.

    ``work`` must depend on nothing but the database: when one of a group fails, the group is rolled back and each of
    it is run again alone. ``lock`` is held while a transaction lasts.
    """

    def __init__(self, engine: Engine, lock: Callable[[], AbstractContextManager[object]] = nullcontext) -> None:
        self._engine = engine
        self._exclusive = lock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="catalog-write")
        self._lock = threading.Lock()
        self._waiting: list[_Write] = []
        self._running = False

    async def run(self, work: Callable[[Connection], _T]) -> _T:
        """The result of ``work``, once it is durable; raises what it raised, or what the commit did."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[_T] = loop.create_future()
        with self._lock:
            self._waiting.append(_Write(work, loop, done))
            begin, self._running = not self._running, True
        if begin:
            self._thread.submit(self._drain)
        return await done

    def close(self) -> None:
        """Finish what waits; blocking."""
        self._thread.shutdown()

    def _drain(self) -> None:
        while True:
            with self._lock:
                group, self._waiting = self._waiting[:_MOST], self._waiting[_MOST:]
                if not group:
                    self._running = False
                    return
            endings = self._together(group) if len(group) > 1 else None
            for ending in endings or [self._alone(write) for write in group]:
                _tell(ending)

    def _together(self, group: Sequence[_Write]) -> list[_Ending] | None:
        """All in one transaction; None, and nothing has happened, if any of them failed."""
        try:
            with self._exclusive(), self._engine.begin() as connection:
                return [_Ending(write, write.work(connection)) for write in group]
        except Exception:  # noqa: BLE001 - whose it is shows when each is run alone
            return None

    def _alone(self, write: _Write) -> _Ending:
        try:
            with self._exclusive(), self._engine.begin() as connection:
                result = write.work(connection)
        except Exception as error:  # noqa: BLE001 - handed to whom it concerns
            return _Ending(write, error=error)
        return _Ending(write, result)


def _tell(ending: _Ending) -> None:
    def tell() -> None:
        done = ending.write.done
        if done.done():  # its caller has left
            return
        if ending.error is not None:
            done.set_exception(ending.error)
        else:
            done.set_result(ending.result)

    try:
        ending.write.loop.call_soon_threadsafe(tell)
    except RuntimeError:
        return  # the loop has ended, and with it everybody who would want to know
