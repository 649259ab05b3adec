"""Bounds every call's time and tells the code behind it how much is left."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from interceptors import current
from interceptors._shapes import Call

Cap = Callable[[str], float | None]
"""The longest that a method may take, in seconds, when its caller does not say; None for watches."""


class Deadline:
    """Caps calls without a deadline and never starts work whose time has already run out.

    ``expired`` makes the exception for a call that ran out of time.
    """

    def __init__(self, cap: Cap, expired: Callable[[], Exception]) -> None:
        self._cap = cap
        self._expired = expired

    def around(self, call: Call) -> AbstractAsyncContextManager[None]:
        """Run the rest under the caller's deadline or the cap."""
        return self._bound(call)

    @asynccontextmanager
    async def _bound(self, call: Call) -> AsyncIterator[None]:
        remaining: float | None = call.context.time_remaining()  # None where the caller set no deadline
        seconds = remaining if remaining is not None else self._cap(call.method)
        if seconds is None:
            yield
            return
        if seconds <= 0:
            raise self._expired()
        current.deadline.set(time.monotonic() + seconds)
        try:
            async with asyncio.timeout(seconds) as bound:
                yield
        except TimeoutError as error:
            if not bound.expired():
                raise
            raise self._expired() from error
