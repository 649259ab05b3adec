"""Looks again, while calls are open, whether what let them in still holds."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from interceptors._shapes import Call

_T = TypeVar("_T")


class _Open:
    __slots__ = ("call", "cancelling", "check", "refusal", "task")

    def __init__(self, call: Call, task: asyncio.Task[Any]) -> None:
        self.call = call
        self.task = task
        self.cancelling = task.cancelling()
        self.refusal: Exception | None = None
        self.check: asyncio.Task[None] | None = None


class Rechecks:
    """Runs ``check`` for every open call, once in ``seconds``; a call for which it raises ends with that.

    One task looks after all of them, and only while there are any. Each check is a task of its own: one that waits for
    something holds up no other call's, and is not begun again before it has ended.
    """

    def __init__(self, seconds: float, check: Callable[[Call], Awaitable[Any]]) -> None:
        self._seconds = seconds
        self._check = check
        self._open: dict[_Open, None] = {}
        self._looking: asyncio.Task[None] | None = None

    async def hold(self, call: Call, work: Awaitable[_T]) -> _T:
        """What ``work`` returns or raises; what ``check`` raised for ``call`` if that came first."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a call runs in a task, and there is none")
        held = _Open(call, task)
        self._open[held] = None
        if self._looking is None:
            # In a context of its own: the first call's identity and deadline are not those of the others.
            self._looking = asyncio.create_task(self._look(), context=contextvars.Context())
        try:
            return await work
        except asyncio.CancelledError:
            refusal, held.refusal = held.refusal, None
            if refusal is None or task.uncancel() > held.cancelling:
                raise
        finally:
            self._open.pop(held, None)
            if held.check is not None:
                held.check.cancel()
            if held.refusal is not None:  # it ended in another way all the same
                task.uncancel()
        # Outside of the handler, so that nothing hangs on it as its context.
        raise refusal

    async def _look(self) -> None:
        try:
            while self._open:
                await asyncio.sleep(self._seconds)
                for held in self._open:
                    if held.check is None or held.check.done():
                        held.check = asyncio.create_task(self._look_at(held))
        finally:
            self._looking = None

    async def _look_at(self, held: _Open) -> None:
        try:
            await self._check(held.call)
        except asyncio.CancelledError:
            if held not in self._open:
                raise  # the call has ended
            self._end(held, RuntimeError("a check was cancelled"))
        except Exception as error:  # noqa: BLE001 - whatever it is: what cannot be told does not hold
            self._end(held, error)

    def _end(self, held: _Open, refusal: Exception) -> None:
        if held in self._open:
            del self._open[held]
            held.refusal = refusal
            held.task.cancel()
