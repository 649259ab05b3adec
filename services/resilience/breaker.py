"""A circuit breaker: who fails, or has become slow, is left alone for a while and then asked again, a few calls at a time.

The states are those of Michael Nygard's "Release It!". The rolling window with a minimum of calls and a rate of slow
calls is that of resilience4j; failures in a row open it as ``consecutive_5xx`` ejects a host in Envoy. What neither has:
a probe's permit is a lease, so a permit that gets lost keeps nobody out for ever, and who goes away says nothing about
the endpoint. The breaker knows no error codes: its driver says what counts.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from services.resilience.rolling import RollingCounts

_GROWTH = 2


class BreakerState(Enum):
    """Everybody passes; nobody does; a few do, to find out."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


WORST_FIRST = (BreakerState.OPEN, BreakerState.HALF_OPEN, BreakerState.CLOSED)


@dataclass(frozen=True)
class BreakerPolicy:
    """When a breaker opens, for how long, and what closes it again. Times are in seconds, rates from 0 to 1.

    Attributes:
        window: how far back calls are counted, in ``buckets`` steps.
        buckets: the steps of the window; a call is forgotten up to one step early.
        minimum: rates say nothing below this many calls in the window.
        consecutive: so many failures in a row within the window open it whatever the rates are: a dead endpoint is
            left at once, with little traffic or with a window full of good answers.
        failure_rate: opens when at least this share of the calls failed.
        slow_after: a call that took this long is slow, whether it failed or not; None: none is.
        slow_rate: opens when at least this share of the calls were slow.
        open_for: how long nobody passes; twice as long after each round of probes that did not succeed.
        max_open_for: the longest that this becomes.
        probes: how many probes may be out at once.
        probe_successes: so many good answers to probes close it; one failure opens it again.
        probe_lease: a probe that has not ended after so long makes room for another.
    """

    window: float = 10.0
    buckets: int = 10
    minimum: int = 10
    consecutive: int = 5
    failure_rate: float = 0.5
    slow_after: float | None = None
    slow_rate: float = 0.8
    open_for: float = 2.0
    max_open_for: float = 30.0
    probes: int = 2
    probe_successes: int = 2
    probe_lease: float = 10.0

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            ValueError: a count below 1, a rate outside (0, 1], or a time that is not finite and above 0.
        """
        for name in ("buckets", "minimum", "consecutive", "probes", "probe_successes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        for name in ("failure_rate", "slow_rate"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must be above 0 and at most 1")
        for name in ("window", "slow_after", "open_for", "max_open_for", "probe_lease"):
            seconds = getattr(self, name)
            if seconds is not None and not 0 < seconds < math.inf:
                raise ValueError(f"{name} must be a finite time above 0 seconds")
        if self.max_open_for < self.open_for:
            raise ValueError("max_open_for must be at least open_for")


class Permit:
    """One call that was let through. It ends once: whatever is said after the first time is ignored."""

    __slots__ = ("_breaker", "_ended", "_generation")

    def __init__(self, breaker: CircuitBreaker, generation: int) -> None:
        self._breaker = breaker
        self._generation = generation
        self._ended = False

    def succeed(self, duration: float) -> None:
        """The endpoint answered, after ``duration`` seconds."""
        self._end(failed=False, duration=duration)

    def fail(self, duration: float) -> None:
        """The endpoint failed, after ``duration`` seconds."""
        self._end(failed=True, duration=duration)

    def release(self) -> None:
        """The call ended without saying anything about the endpoint: cancelled, or refused for its own fault."""
        if not self._ended:
            self._ended = True
            self._breaker._returned(self)  # noqa: SLF001 - a permit is the breaker's own half of a call

    def _end(self, *, failed: bool, duration: float) -> None:
        if not self._ended:
            self._ended = True
            self._breaker._ended(self, self._generation, failed=failed, duration=duration)  # noqa: SLF001 - as above


class CircuitBreaker:
    """Decides which calls may go to one endpoint, by how the calls before went.

    Time alone changes nothing: an open breaker whose time has passed stays OPEN until somebody asks for a permit and
    becomes the first probe. So ``state`` has no side effects, and whoever is told of a change can rely on it.

    A call counts for the state in which it was let through, and for no later one. What was let through before the
    breaker opened neither keeps it open nor closes it, however late it ends. The one thing that outlives a state is the
    place of a probe: a probe from an earlier round is still a call that the endpoint has to bear, so it counts against
    ``probes`` until it ends or its lease does. A probe that ends after its lease, in the same round, still says how the
    endpoint is.

    Half-open, one failure opens it again, and so do slow answers once they are ``slow_rate`` of ``probe_successes``;
    otherwise it closes after ``probe_successes`` answers. Only failures and slow answers open it, never a fast success.

    Not thread-safe: one event loop owns it.
    """

    def __init__(
        self,
        policy: BreakerPolicy,
        clock: Callable[[], float],
        on_change: Callable[[BreakerState, BreakerState], None] | None = None,
    ) -> None:
        """Begin CLOSED; ``clock`` gives monotonic seconds.

        ``on_change`` is told the state before and after, once the change is complete. It must not raise.
        """
        self._policy = policy
        self._clock = clock
        self._on_change = on_change
        self._state = BreakerState.CLOSED
        self._generation = 0
        self._counts = RollingCounts(3, window=policy.window, buckets=policy.buckets)
        self._failures_in_a_row: deque[float] = deque(maxlen=policy.consecutive)
        self._open_for = policy.open_for
        self._opened_until = 0.0
        # When the lease of each probe that is out ends. Never more than `probes` of them: who asks clears out first.
        self._leases: dict[Permit, float] = {}
        self._answers = 0
        self._slow_answers = 0

    @property
    def state(self) -> BreakerState:
        """The state that the latest permit or result left behind."""
        return self._state

    def would_permit(self) -> bool:
        """Whether :meth:`acquire` would give a permit now; asking changes nothing."""
        if self._state is BreakerState.CLOSED:
            return True
        now = self._clock()
        if self._state is BreakerState.OPEN and now < self._opened_until:
            return False
        return sum(now < ends for ends in self._leases.values()) < self._policy.probes

    def acquire(self) -> Permit | None:
        """Let one call through; None when it has to go elsewhere. Every permit is to be ended, whatever happens."""
        if not self.would_permit():
            return None
        if self._state is BreakerState.CLOSED:
            return Permit(self, self._generation)
        now = self._clock()
        self._leases = {permit: ends for permit, ends in self._leases.items() if now < ends}
        before = self._state
        if before is BreakerState.OPEN:
            self._enter(BreakerState.HALF_OPEN)
        permit = Permit(self, self._generation)
        self._leases[permit] = now + self._policy.probe_lease
        self._tell(before)
        return permit

    def _returned(self, permit: Permit) -> None:
        self._leases.pop(permit, None)

    def _ended(self, permit: Permit, generation: int, *, failed: bool, duration: float) -> None:
        self._returned(permit)
        if generation != self._generation:
            return
        slow = self._policy.slow_after is not None and duration >= self._policy.slow_after
        before = self._state
        if before is BreakerState.CLOSED:
            self._count(failed=failed, slow=slow)
        else:
            self._judge(failed=failed, slow=slow)
        self._tell(before)

    def _count(self, *, failed: bool, slow: bool) -> None:
        """Closed: open when the window says so."""
        now, policy = self._clock(), self._policy
        self._counts.add(now, (1, failed, slow))
        calls, failures, slow_calls = self._counts.totals(now)
        enough = calls >= policy.minimum
        if failed:
            self._failures_in_a_row.append(now)
        else:
            self._failures_in_a_row.clear()
        in_a_row = (
            len(self._failures_in_a_row) == policy.consecutive and now - self._failures_in_a_row[0] < policy.window
        )
        too_many = failed and (in_a_row or (enough and failures / calls >= policy.failure_rate))
        if too_many or (slow and enough and slow_calls / calls >= policy.slow_rate):
            self._open(policy.open_for)

    def _judge(self, *, failed: bool, slow: bool) -> None:
        """Half-open: close after enough good answers, open after a bad one."""
        policy = self._policy
        self._answers += 1
        self._slow_answers += slow
        # As soon as the round cannot end well any more, so that it is a slow answer that opens it.
        too_slow = slow and self._slow_answers / policy.probe_successes >= policy.slow_rate
        if failed or too_slow:
            self._open(min(self._open_for * _GROWTH, policy.max_open_for))
        elif self._answers >= policy.probe_successes:
            self._enter(BreakerState.CLOSED)

    def _open(self, seconds: float) -> None:
        self._open_for = seconds
        self._opened_until = self._clock() + seconds
        self._enter(BreakerState.OPEN)

    def _enter(self, state: BreakerState) -> None:
        """Begin a state afresh: nothing that was counted in an earlier one counts."""
        self._state = state
        self._generation += 1
        self._counts.clear()
        self._failures_in_a_row.clear()
        self._answers = self._slow_answers = 0

    def _tell(self, before: BreakerState) -> None:
        if self._on_change is not None and self._state is not before:
            self._on_change(before, self._state)
