"""Measures every call, refused ones included: count, duration and outcome by method."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from interceptors._shapes import Call, Layer, Proceed

Record = Callable[[str, str, float], None]
"""Takes a method's name, a status code's name and a duration in seconds."""


class Metrics(Layer):
    """Reports each call to ``record`` when it ends, however it ends."""

    def __init__(self, record: Record) -> None:
        self._record = record

    async def around(self, call: Call, proceed: Proceed) -> Any:
        """Measure the rest of the chain and the handler."""
        error: BaseException | None = None
        try:
            return await proceed(call)
        except BaseException as raised:
            error = raised
            raise
        finally:
            self._record(call.name, call.outcome(error).name, time.monotonic() - call.start)
