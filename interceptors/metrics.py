"""Measures every call, refused ones included: count, duration and outcome by method."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from interceptors._shapes import Call

Record = Callable[[str, str, float], None]
"""Takes a method's name, a status code's name and a duration in seconds."""


class Metrics:
    """Reports each call to ``record`` when it ends, however it ends."""

    def __init__(self, record: Record) -> None:
        self._record = record

    def around(self, call: Call) -> AbstractAsyncContextManager[None]:
        """Measure the rest of the chain and the handler."""
        return self._measure(call)

    @asynccontextmanager
    async def _measure(self, call: Call) -> AsyncIterator[None]:
        error: BaseException | None = None
        try:
            yield
        except BaseException as raised:
            error = raised
            raise
        finally:
            method = call.method.lstrip("/") if call.known else "unknown"
            self._record(method, call.outcome(error).name, time.monotonic() - call.start)
