"""Counts of the latest seconds, kept in buckets: what is counted costs the same however much there is of it."""

from __future__ import annotations

from collections import deque


class RollingCounts:
    """How often each of several kinds of event happened in the latest ``window`` seconds.

    Time goes in steps of ``window / buckets`` seconds, and the step that has begun is one of ``buckets``: an event is
    counted for more than ``window - window / buckets`` and at most ``window`` seconds. Times are monotonic seconds.
    """

    def __init__(self, kinds: int, *, window: float, buckets: int) -> None:
        if kinds < 1 or buckets < 1 or not window > 0:
            raise ValueError("a rolling count needs at least one kind, one bucket and a window above 0 seconds")
        self._width = window / buckets
        self._buckets = buckets
        self._totals = [0] * kinds
        # Only steps in which something happened, oldest first: never more than `buckets` of them.
        self._steps: deque[tuple[int, list[int]]] = deque()

    def add(self, now: float, amounts: tuple[int, ...]) -> None:
        """Count ``amounts``, one for each kind, at the time ``now``."""
        step = self._forget(now)
        if not self._steps or self._steps[-1][0] != step:
            self._steps.append((step, [0] * len(self._totals)))
        counts = self._steps[-1][1]
        for kind, amount in enumerate(amounts):
            counts[kind] += amount
            self._totals[kind] += amount

    def totals(self, now: float) -> tuple[int, ...]:
        """The counts at the time ``now``, one for each kind."""
        self._forget(now)
        return tuple(self._totals)

    def clear(self) -> None:
        """Forget everything."""
        self._steps.clear()
        self._totals = [0] * len(self._totals)

    def _forget(self, now: float) -> int:
        step = int(now // self._width)
        while self._steps and self._steps[0][0] <= step - self._buckets:
            for kind, amount in enumerate(self._steps.popleft()[1]):
                self._totals[kind] -= amount
        return step
