"""Bounds every call's time and tells the code behind it how much is left."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from interceptors import current
from interceptors._shapes import Call, Layer, Proceed
from interceptors.timeouts import Timeouts

Cap = Callable[[str], float | None]
"""The longest that a method may take, in seconds, when its caller does not say; None for watches."""


class Deadline(Layer):
    """Caps calls without a deadline and never starts work whose time has already run out.

    A caller's own deadline is gRPC's to watch: it cancels the call's task. ``expired`` makes the exception for a call
    that ran out of time.
    """

    def __init__(self, cap: Cap, expired: Callable[[], Exception]) -> None:
        self._cap = cap
        self._expired = expired
        self._timeouts: dict[float, Timeouts] = {}

    async def around(self, call: Call, proceed: Proceed) -> Any:
        """Run the rest under the caller's deadline or the cap."""
        remaining: float | None = call.context.time_remaining()  # None where the caller set no deadline
        if remaining is not None:
            if remaining <= 0:
                raise self._expired()
            current.deadline.set(time.monotonic() + remaining)
            return await proceed(call)
        seconds = self._cap(call.method)
        if seconds is None:
            return await proceed(call)
        current.deadline.set(time.monotonic() + seconds)
        timeouts = self._timeouts.get(seconds)
        if timeouts is None:
            timeouts = self._timeouts[seconds] = Timeouts(seconds)
        return await timeouts.limit(proceed(call), self._expired)
