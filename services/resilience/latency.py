"""How long calls took lately: what a hedged read waits for before it asks a second endpoint."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

# The sorted copy is renewed when one in so many samples has come or gone: sorting then costs a few microseconds a call,
# and a quantile is off by three ranks in a hundred at most. Up to 63 samples it is exact.
_STALE_SHARE = 32
_ROUNDING = 1e-9


class LatencyWindow:
    """The latest samples, at most ``capacity`` of them and none older than ``window`` seconds.

    Not thread-safe: one event loop owns it.
    """

    def __init__(
        self, *, window: float = 30.0, capacity: int = 512, minimum: int = 20, clock: Callable[[], float]
    ) -> None:
        """Keep samples by ``clock``, in monotonic seconds.

        Raises:
            ValueError: ``window`` is not above 0 seconds, or not ``1 <= minimum <= capacity``.
        """
        if not window > 0 or not 1 <= minimum <= capacity:
            raise ValueError("a latency window needs a window above 0 seconds and 1 <= minimum <= capacity")
        self._window = window
        self._minimum = minimum
        self._clock = clock
        self._samples: deque[tuple[float, float]] = deque(maxlen=capacity)
        self._sorted: list[float] = []
        self._changes = 0

    def record(self, seconds: float) -> None:
        """Add how long a call took."""
        now = self._clock()
        self._forget(now)
        self._samples.append((now, seconds))
        self._changes += 1

    def quantile(self, q: float) -> float | None:
        """The nearest-rank quantile in seconds, ``q`` from 0 to 1; None below ``minimum`` samples.

        Raises:
            ValueError: ``q`` is not from 0 to 1.
        """
        if not 0 <= q <= 1:
            raise ValueError(f"a quantile is from 0 to 1, not {q}")
        self._forget(self._clock())
        if len(self._samples) < self._minimum:
            return None
        if self._changes >= max(1, len(self._samples) // _STALE_SHARE):
            self._sorted = sorted(seconds for _, seconds in self._samples)
            self._changes = 0
        # 0.07 * 100 is a little above 7 in floating point; the 7th of 100 is meant all the same.
        rank = math.ceil(q * len(self._sorted) - _ROUNDING)
        return self._sorted[max(0, rank - 1)]

    def _forget(self, now: float) -> None:
        while self._samples and self._samples[0][0] <= now - self._window:
            self._samples.popleft()
            self._changes += 1
