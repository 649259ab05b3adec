"""How many attempts may be made beyond the first ones: retries, and hedges, must not multiply the load of weak peers.

The idea is the per-client retry budget of Google's "Site Reliability Engineering", chapter 21 ("Deciding to Retry"):
what may be tried again is a share of what is asked. The shape, a share and a floor over a window of ten seconds, is that
of Finagle's ``RetryBudget``.
"""

from __future__ import annotations

from collections.abc import Callable

from services.resilience.rolling import RollingCounts

_BUCKETS = 10
# 0.29 * 100 is a little below 29 in floating point; the share of 100 calls is 29 all the same.
_ROUNDING = 1e-9


class RetryBudget:
    """Extra attempts: whenever one is made, there were at most ``floor + ratio * first attempts`` within ``window``.

    ``floor`` attempts are there however few calls there are, so that a quiet client can try again too. An extra attempt
    is given back up to a tenth of a window late and a first attempt forgotten up to a tenth early, never the other way
    round: counting in steps never allows more than exact counting would. Not thread-safe: one event loop owns it.
    """

    def __init__(self, *, ratio: float = 0.2, floor: int = 3, window: float = 10.0, clock: Callable[[], float]) -> None:
        """Count by ``clock``, in monotonic seconds.

        Raises:
            ValueError: ``ratio`` or ``floor`` is below 0, or ``window`` is not above 0 seconds.
        """
        if not ratio >= 0 or floor < 0:
            raise ValueError(f"a retry budget needs a ratio and a floor of at least 0, not {ratio} and {floor}")
        self._ratio = ratio
        self._floor = floor
        self._clock = clock
        self._first = RollingCounts(1, window=window, buckets=_BUCKETS)
        self._extra = RollingCounts(1, window=window + window / _BUCKETS, buckets=_BUCKETS + 1)

    def call(self) -> None:
        """Count the first attempt of a call."""
        self._first.add(self._clock(), (1,))

    def spend(self) -> bool:
        """Take one extra attempt; False, and nothing is taken, when none is left."""
        now = self._clock()
        if self._left(now) < 1:
            return False
        self._extra.add(now, (1,))
        return True

    @property
    def available(self) -> int:
        """How many extra attempts could be made now."""
        return max(0, self._left(self._clock()))

    def _left(self, now: float) -> int:
        """May be below 0: the calls that paid for an attempt can be forgotten before it is."""
        (first,), (extra,) = self._first.totals(now), self._extra.totals(now)
        return int(self._floor + self._ratio * first + _ROUNDING) - extra
