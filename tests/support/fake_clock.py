"""Time that a test moves."""

from __future__ import annotations


class FakeClock:
    """Monotonic seconds. The start is no round number: nothing may rely on time beginning at 0."""

    def __init__(self, now: float = 1000.375) -> None:
        self.now = now

    def __call__(self) -> float:
        """The time, in seconds."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
