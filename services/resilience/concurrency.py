"""How many calls at once a server does well with, learned from how long they take. Pure.

The rule is Gradient2 of Netflix's concurrency-limits (github.com/Netflix/concurrency-limits, ``Gradient2Limit``):

    gradient = clamp(tolerance x normal duration / recent duration, 0.5, 1)
    limit    = smoothed(limit x gradient + headroom)

so that the limit falls while calls take longer than they normally do, and grows by the headroom while they do not. A
gradient was chosen over AIMD because AIMD needs a duration that counts as too long, which no single number can say of
methods between a millisecond and a minute. Three things differ from Netflix's class:

* Durations are compared with the normal one *of their own kind*, so that slow and quick methods share one limit.
* What is normal is learned while there is room, never while calls wait: an average that follows an overload comes to
  call it normal, and the limit climbs for hours.
* If calls have waited for so long that what is normal is only remembered, the limit drops to its minimum for a moment
  and it is measured again, as Envoy's adaptive concurrency filter (minRTT) and BBR (ProbeRTT,
  draft-ietf-ccwg-bbr) do.
* When half of a limit was taken away and calls take just as long, they do not get in each other's way: what they wait
  for (a remote model) has become slower, and that is the new normal. Gradient2 would go on to its minimum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

# How far what is normal moves with each window: quickly down, slowly up.
_DOWN = 0.25
_UP = 0.05
_RECENT = 0.1
# A limit that was lowered comes back with this time constant while nobody needs it, in seconds (compare the restart
# window after idling, RFC 5681, section 4.1).
_FORGET = 10.0
# What is left of the duration after the limit was halved, if halving was of no use; calls that share a core give 0.5.
_NO_GAIN = 0.8


@dataclass(frozen=True, slots=True)
class LimitPolicy:
    """Bounds and pace of one adaptive limit; times in seconds.

    It is looked at when a window of ``window`` seconds has seen ``samples`` ended calls. After ``probe_after`` seconds
    of waiting calls the normal durations are measured again, for ``probe_most`` seconds or twice the longest of them.
    """

    initial: int = 64
    minimum: int = 2
    maximum: int = 512
    tolerance: float = 1.5
    headroom: float = 2.0
    smoothing: float = 0.2
    window: float = 0.5
    samples: int = 5
    probe_after: float = 180.0
    probe_most: float = 5.0

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.maximum:
            raise ValueError("the minimum must be 1 or more, and not above the maximum")


@dataclass(slots=True)
class _Sum:
    """Of one kind, in one window: all ended calls, and those of them that were completed."""

    count: int = 0
    total: float = 0.0
    done: int = 0
    done_total: float = 0.0


@dataclass(slots=True)
class _Window:
    since: float
    kinds: dict[str, _Sum] = field(default_factory=dict)
    count: int = 0
    busiest: int = 0
    crowded: bool = False

    def add(self, kind: str, seconds: float, *, completed: bool) -> None:
        summed = self.kinds.get(kind)
        if summed is None:
            summed = self.kinds[kind] = _Sum()
        summed.count += 1
        summed.total += seconds
        self.count += 1
        if completed:
            summed.done += 1
            summed.done_total += seconds


@dataclass(slots=True)
class _Fall:
    """Since when, and from where, the limit is falling; ``worst`` is the most that durations were stretched."""

    limit: float
    worst: float


class GradientLimit:
    """An adaptive concurrency limit. All times are seconds of one monotonic clock, which callers hand in."""

    def __init__(self, policy: LimitPolicy, now: float) -> None:
        self._policy = policy
        self._initial = float(min(max(policy.initial, policy.minimum), policy.maximum))
        self._limit = self._initial
        self._window = _Window(now)
        self._normal: dict[str, float] = {}
        self._usual: dict[str, float] = {}
        self._measured = -math.inf
        self._probing: float | None = None
        self._fall: _Fall | None = None
        self._trial: _Window | None = None
        self._seen = now

    def current(self, now: float) -> int:
        """How many calls may run at once now."""
        if self._probing is not None:
            if now - self._probing <= max(self._policy.probe_most, 2.0 * max(self._normal.values(), default=0.0)):
                return self._policy.minimum
            # Nothing ended soon enough to learn from.
            self._probing, self._measured = None, now
        return int(self._limit)

    @property
    def probing(self) -> bool:
        """Whether the limit is at its minimum to measure what is normal."""
        return self._probing is not None

    def usual(self, kind: str) -> float:
        """How long calls of ``kind`` take at present, waiting not counted; 0 where none was completed yet."""
        return self._usual.get(kind, 0.0)

    def resume(self, now: float) -> None:
        """Say that a call came while none was running: after a pause what was learned under load counts less."""
        self._relax(now - self._seen)
        self._seen = now

    def observe(self, kind: str, began: float, now: float, *, completed: bool, in_flight: int, waiting: bool) -> None:
        """Take in one ended call.

        ``in_flight`` counts those that ran until now, this one included; ``waiting`` says whether others wait. A call
        that was not ``completed`` because its time ran out shows how long calls take at least, never what is normal.
        """
        self._seen = now
        window, seconds = self._window, max(now - began, 1e-6)
        window.busiest = max(window.busiest, in_flight)
        if waiting:
            window.crowded = True
        if completed:
            known = self._usual.get(kind, seconds)
            self._usual[kind] = known + _RECENT * (seconds - known)
        if self._probing is None or began >= self._probing:
            window.add(kind, seconds, completed=completed)
        if self._trial is not None and began >= self._trial.since:
            self._trial.add(kind, seconds, completed=completed)
            if self._trial.count >= self._policy.samples:
                self._judge(self._trial, now)
        if now - window.since >= self._policy.window and window.count >= self._policy.samples:
            self._close(window, now)
            self._window = _Window(now)

    def _close(self, window: _Window, now: float) -> None:
        policy = self._policy
        at_minimum = self._probing is not None or int(self._limit) <= policy.minimum
        roomy = not window.crowded and window.busiest * 2 < self._limit
        stretched = self._stretch(window)
        for kind, summed in window.kinds.items():
            if summed.done:
                self._learn(kind, summed.done_total / summed.done, roomy=roomy, at_minimum=at_minimum)
        if roomy or at_minimum:
            self._measured = now
        if self._probing is not None:
            self._probing = None
            return
        if not roomy:
            self._move(stretched, now)
        if not window.crowded:
            self._relax(now - window.since)
        elif now - self._measured > policy.probe_after and int(self._limit) > policy.minimum:
            self._probing = now

    def _move(self, stretched: float, now: float) -> None:
        policy = self._policy
        gradient = max(0.5, min(1.0, policy.tolerance / stretched))
        if gradient == 1.0:
            self._fall = self._trial = None
        elif self._trial is not None:
            return  # it is being found out whether falling is of any use
        # Large limits may grow by more at a time, as in Netflix's first Gradient.
        wanted = self._limit * gradient + max(policy.headroom, math.sqrt(self._limit))
        smoothed = (1.0 - policy.smoothing) * self._limit + policy.smoothing * wanted
        before, self._limit = self._limit, min(max(smoothed, float(policy.minimum)), float(policy.maximum))
        if gradient == 1.0:
            return
        fall = self._fall = self._fall or _Fall(before, stretched)
        fall.worst = max(fall.worst, stretched)
        # Near the minimum there is nothing to lose.
        if fall.limit >= 8 * policy.minimum and self._limit <= fall.limit / 2:
            self._trial = _Window(now)

    def _judge(self, trial: _Window, now: float) -> None:
        """Calls have ended that ran while no more than half as many did as before."""
        if self._fall is not None and self._stretch(trial) >= _NO_GAIN * self._fall.worst:
            for kind, summed in trial.kinds.items():
                if summed.done:
                    self._normal[kind] = summed.done_total / summed.done
            self._measured = now
        self._fall = self._trial = None

    def _stretch(self, window: _Window) -> float:
        """By how much the calls of a window took longer than normal, on average."""
        total, count = 0.0, 0
        for kind, summed in window.kinds.items():
            normal = self._normal.get(kind) or (summed.done_total / summed.done if summed.done else None)
            if normal is not None:
                total += summed.total / normal
                count += summed.count
        return max(total / count, 1e-6) if count else 1.0

    def _learn(self, kind: str, mean: float, *, roomy: bool, at_minimum: bool) -> None:
        normal = self._normal.get(kind)
        if normal is None or self._probing is not None:
            self._normal[kind] = mean
        elif mean < normal or at_minimum:
            self._normal[kind] = normal + _DOWN * (mean - normal)
        elif roomy:
            self._normal[kind] = normal + _UP * (mean - normal)

    def _relax(self, seconds: float) -> None:
        if self._limit < self._initial:
            self._limit += (self._initial - self._limit) * (1.0 - math.exp(-max(seconds, 0.0) / _FORGET))
