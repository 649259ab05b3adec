"""Doing less for each call while there is too much to do: a ladder with hysteresis. Pure.

The idea is that of Klein et al., "Brownout: Building More Robust Cloud Applications" (ICSE 2014): optional parts of the
work are left out under pressure, so that everybody still gets an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum


class BrownoutStep(IntEnum):
    """What is left out; each step includes those before it."""

    NONE = 0
    SKIP_RERANK = 1
    FEWER_CANDIDATES = 2
    LEXICAL_ONLY = 3


@dataclass(frozen=True, slots=True)
class BrownoutPolicy:
    """When the ladder moves; times in seconds.

    ``enter`` is the pressure that leads to each step, once it has lasted for ``rise``. A step is left when pressure was
    below ``leave`` of what leads to it for ``calm``. A step that was left too early, because the pressure is back
    within ``relapse``, is kept twice as long the next time, up to ``most_calm``.
    """

    enter: Sequence[float] = (1.0, 2.0, 4.0)
    leave: float = 0.5
    rise: float = 0.5
    calm: float = 1.0
    relapse: float = 10.0
    most_calm: float = 2.5


def no_pressure() -> float:
    """The pressure where nobody measures any."""
    return 0.0


class Brownout:
    """The ladder. ``clock`` gives monotonic seconds; ``pressure`` is 1 where the work begins to pile up."""

    def __init__(
        self,
        clock: Callable[[], float],
        pressure: Callable[[], float] = no_pressure,
        policy: BrownoutPolicy | None = None,
    ) -> None:
        self._clock = clock
        self._policy = policy or BrownoutPolicy()
        self._step = BrownoutStep.NONE
        self._pressed_since: float | None = None
        self._calm_since: float | None = None
        self._left = float("-inf")
        self._calm = self._policy.calm
        self.pressure = pressure
        self.entered = dict.fromkeys(BrownoutStep, 0)
        """How often each step was reached from below."""

    def step(self) -> BrownoutStep:
        """Where the ladder stands now; looks at the pressure."""
        self.observe(self.pressure(), self._clock())
        return self._step

    def observe(self, pressure: float, now: float) -> None:
        """Take in the pressure of this moment and move if it is time."""
        policy = self._policy
        if self._step < len(policy.enter) and pressure >= policy.enter[self._step]:
            self._calm_since = None
            if self._pressed_since is None:
                self._pressed_since = now
            if now - self._pressed_since >= policy.rise:
                self._climb(now)
            return
        self._pressed_since = None
        if self._step is BrownoutStep.NONE or pressure >= policy.leave * policy.enter[self._step - 1]:
            self._calm_since = None
            return
        if self._calm_since is None:
            self._calm_since = now
        # Nobody may have looked for a while: several steps may be due.
        while self._step and now - self._calm_since >= (needed := self._needed()):
            self._step = BrownoutStep(self._step - 1)
            self._calm_since += needed
            self._left = now

    def _climb(self, now: float) -> None:
        if self._step is BrownoutStep.NONE:
            relapsed = now - self._left <= self._policy.relapse
            self._calm = min(2 * self._calm, self._policy.most_calm) if relapsed else self._policy.calm
        self._step = BrownoutStep(self._step + 1)
        self.entered[self._step] += 1
        self._pressed_since = now

    def _needed(self) -> float:
        return self._calm if self._step is BrownoutStep.SKIP_RERANK else self._policy.calm
