"""A circuit breaker beside a model of it that keeps everything and counts it anew each time, in whole ticks.

Each step does one thing to both and then checks that they agree, and what must hold whatever the model says.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction

from services.resilience.breaker import BreakerPolicy, BreakerState, CircuitBreaker, Permit
from tests.support.fake_clock import FakeClock

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN
# An eighth of a second: sums of it, and the steps of the windows below, are exact in floating point.
TICKS = 8
MAX_HELD = 16
NEVER = 1000
LEGAL = {(CLOSED, OPEN), (OPEN, HALF_OPEN), (HALF_OPEN, OPEN), (HALF_OPEN, CLOSED)}
POLICIES = (
    BreakerPolicy(),
    BreakerPolicy(slow_after=1.0),
    # Rates alone open it.
    BreakerPolicy(window=4.0, buckets=4, minimum=4, consecutive=NEVER, slow_after=0.5, slow_rate=0.6),
    BreakerPolicy(window=8.0, buckets=1, minimum=3, consecutive=NEVER, failure_rate=0.55, open_for=1.0, probes=3),
    # Failures in a row alone open it.
    BreakerPolicy(window=2.0, buckets=8, minimum=NEVER, consecutive=3, open_for=0.5, max_open_for=3.0),
    # One probe at a time and many answers wanted; many probes and one answer wanted.
    BreakerPolicy(probes=1, probe_successes=3, probe_lease=1.0, open_for=1.0, max_open_for=1.0, slow_after=2.0),
    BreakerPolicy(minimum=2, probes=4, probe_successes=1, probe_lease=3.0, slow_after=0.125, slow_rate=1.0),
    BreakerPolicy(minimum=1, consecutive=1, probes=3, probe_successes=5, slow_after=1.0, slow_rate=0.2),
)


def ticks(seconds: float) -> int:
    whole = seconds * TICKS
    assert whole == int(whole), "not a whole number of ticks"
    return int(whole)


@dataclass(frozen=True)
class Outcome:
    """How a call went that counted."""

    tick: int
    failed: bool
    slow: bool


@dataclass
class Call:
    """A call that was let through, and its permit."""

    permit: Permit
    period: int
    started: int
    probe: bool
    ended: bool = False


class Model:
    """What the breaker should do: every outcome of the present state in a list, every probe in another."""

    def __init__(self, policy: BreakerPolicy, tick: int) -> None:
        self.policy = policy
        self.tick = tick
        self.state = CLOSED
        self.period = 0
        self.outcomes: list[Outcome] = []
        self.probes: list[Call] = []
        self.opened = tick
        self.failed_rounds = 0

    def permits(self) -> bool:
        if self.state is CLOSED:
            return True
        closed_for = min(self.policy.open_for * 2**self.failed_rounds, self.policy.max_open_for)
        if self.state is OPEN and self.tick - self.opened < ticks(closed_for):
            return False
        return len(self.out()) < self.policy.probes

    def out(self) -> list[Call]:
        """The probes that count against the bound."""
        lease = ticks(self.policy.probe_lease)
        return [call for call in self.probes if not call.ended and self.tick - call.started < lease]

    def acquired(self, call: Call) -> None:
        if self.state is OPEN:
            self.become(HALF_OPEN)
        call.period = self.period
        if call.probe:
            self.probes = [*self.out(), call]

    def ended(self, call: Call, *, failed: bool, slow: bool) -> None:
        if call.period != self.period:
            return
        self.outcomes.append(Outcome(self.tick, failed, slow))
        if self.state is CLOSED:
            self.outcomes = [one for one in self.outcomes if self.tick - one.tick <= ticks(self.policy.window)]
        if self.state is HALF_OPEN:
            self.round()
        elif (failed and (self.in_a_row() or self.too_many("failed"))) or (slow and self.too_many("slow")):
            self.failed_rounds = 0
            self.become(OPEN)

    def round(self) -> None:
        last, answers, wanted = self.outcomes[-1], len(self.outcomes), self.policy.probe_successes
        slow = Fraction(sum(one.slow for one in self.outcomes), wanted)
        if last.failed or (last.slow and slow >= Fraction(str(self.policy.slow_rate))):
            self.failed_rounds += 1
            self.become(OPEN)
        elif answers == wanted:
            self.become(CLOSED)

    def in_a_row(self) -> bool:
        last = self.outcomes[-self.policy.consecutive :]
        enough = len(last) == self.policy.consecutive and all(one.failed for one in last)
        return enough and self.tick - last[0].tick < ticks(self.policy.window)

    def too_many(self, what: str) -> bool:
        policy = self.policy
        step = ticks(policy.window / policy.buckets)
        counted = [one for one in self.outcomes if self.tick // step - one.tick // step < policy.buckets]
        rate = Fraction(str(policy.failure_rate if what == "failed" else policy.slow_rate))
        bad = sum(getattr(one, what) for one in counted)
        return len(counted) >= policy.minimum and Fraction(bad, len(counted)) >= rate

    def become(self, state: BreakerState) -> None:
        self.state, self.period, self.outcomes = state, self.period + 1, []
        self.opened = self.tick


class BreakerWorld:
    """The steps. ``steps`` counts those that were done and checked, ``seen`` what happened in them."""

    def __init__(self, policy: BreakerPolicy) -> None:
        self.policy = policy
        self.clock = FakeClock()
        self.model = Model(policy, ticks(self.clock.now))
        self.told = CLOSED
        self.breaker = CircuitBreaker(policy, self.clock, self.changed)
        self.held: list[Call] = []
        self.probes: list[Call] = []
        self.steps = 0
        self.seen: Counter[str] = Counter()
        self.may_open = False

    def changed(self, before: BreakerState, after: BreakerState) -> None:
        assert self.breaker.state is after, "told before the change is complete"
        assert (before, after) in LEGAL
        assert before is self.told
        assert self.may_open or after is not OPEN, "opened by something that is no evidence"
        self.told = after
        self.seen[f"{before.value} to {after.value}"] += 1

    # --- steps ------------------------------------------------------------------------------------------------------

    def advance(self, count: int) -> None:
        self.clock.advance(count / TICKS)
        self.model.tick += count
        self.check("time")

    def acquire(self) -> bool:
        expected = self.model.permits()
        permit = self.breaker.acquire()
        assert (permit is not None) == expected
        if permit is not None:
            call = Call(permit, 0, self.model.tick, probe=self.model.state is not CLOSED)
            self.model.acquired(call)
            self.held.append(call)
            if self.breaker.state is HALF_OPEN:
                self.probes.append(call)
            # The oldest is lost: nobody ever ends it.
            del self.held[:-MAX_HELD]
        self.check("permit" if expected else "refusal")
        return expected

    def end(self, index: int, *, failed: bool, duration: int) -> None:
        if not self.held:
            return
        call = self.held.pop(index % len(self.held))
        slow_after = self.policy.slow_after
        slow = slow_after is not None and duration >= ticks(slow_after)
        late = call.period != self.model.period
        self.may_open = (failed or slow) and not late
        (call.permit.fail if failed else call.permit.succeed)(duration / TICKS)
        call.ended = True
        self.evidence(failed=failed)
        self.model.ended(call, failed=failed, slow=slow)
        self.may_open = False
        kind = ("slow " if slow else "") + ("failure" if failed else "success")
        self.ended_again(call.permit)
        self.check(f"late {kind}" if late else kind)

    def release(self, index: int) -> None:
        if not self.held:
            return
        call = self.held.pop(index % len(self.held))
        call.permit.release()
        call.ended = True
        self.ended_again(call.permit)
        self.check("release of a probe" if call.probe else "release")

    def lose(self, index: int) -> None:
        if not self.held:
            return
        call = self.held.pop(index % len(self.held))
        self.check("loss of a probe" if call.probe else "loss")

    def recover(self, *, lose: bool) -> None:
        """From wherever it is, it closes again: once permits have ended or leases passed, and calls succeed."""
        while self.held and not lose:
            self.release(0)
        self.advance(ticks(max(self.policy.max_open_for, self.policy.probe_lease)))
        self.good_round()
        assert self.breaker.state is CLOSED
        self.check("recovery of the lost" if lose else "recovery")

    def good_round(self) -> None:
        answers = 0
        while self.breaker.state is not CLOSED:
            probes = 0
            while self.breaker.would_permit():
                assert self.acquire()
                probes += 1
            assert probes == self.policy.probes, "a permit leaked"
            for _ in range(probes):
                if self.breaker.state is HALF_OPEN:
                    answers += 1
                    self.end(-1, failed=False, duration=0)
                else:
                    self.release(-1)
            assert answers <= self.policy.probe_successes, "stuck half-open"

    # --- what must hold ---------------------------------------------------------------------------------------------

    def evidence(self, *, failed: bool) -> None:
        """Whoever opens it has seen enough, counted exactly, without steps of the window."""
        if self.breaker.state is not OPEN or self.model.state is not CLOSED:
            return
        window = [one for one in self.model.outcomes if self.model.tick - one.tick <= ticks(self.policy.window)]
        calls = len(window) + 1
        assert calls >= min(self.policy.minimum, self.policy.consecutive)
        if calls < self.policy.minimum:
            assert failed
            assert all(one.failed for one in window[calls - self.policy.consecutive :])

    def ended_again(self, permit: Permit) -> None:
        """Only the first end counts."""
        before = self.breaker.state, self.breaker.would_permit()
        permit.fail(NEVER)
        permit.succeed(0)
        permit.release()
        assert (self.breaker.state, self.breaker.would_permit()) == before

    def check(self, kind: str) -> None:
        state = self.breaker.state
        assert state is self.model.state
        assert state is self.told, "a change that nobody was told of"
        assert self.breaker.would_permit() == self.model.permits()
        assert self.breaker.state is state, "asking changed it"
        lease = ticks(self.policy.probe_lease)
        self.probes = [call for call in self.probes if not call.ended and self.model.tick - call.started < lease]
        assert len(self.probes) <= self.policy.probes
        self.steps += 1
        self.seen[kind] += 1

    # --- at random --------------------------------------------------------------------------------------------------

    def walk(self, dice: random.Random, steps: int) -> None:
        """Do at least so many steps: weather that changes now and then, so that every state is reached and left."""
        end = self.steps + steps
        while self.steps < end:
            failing = dice.choice((0.0, 0.0, 0.1, 0.45, 0.7, 1.0))
            slowing = dice.choice((0.0, 0.0, 0.5, 1.0))
            leaving = dice.choice((0.0, 0.1, 0.9))
            pace = dice.choice((0, 1, 1, 4, 20))
            for _ in range(dice.randrange(10, 100)):
                self.random_step(dice, failing, slowing, leaving, pace)
            if dice.random() < 0.05:
                self.recover(lose=dice.random() < 0.5)

    def random_step(self, dice: random.Random, failing: float, slowing: float, leaving: float, pace: int) -> None:
        index = dice.randrange(MAX_HELD)
        what = dice.random()
        if what < 0.45:
            self.acquire()
        elif what < 0.55:
            self.advance(dice.randint(0, 8 * pace))
        elif dice.random() >= leaving:
            duration = dice.choice((8, 16, 40)) if dice.random() < slowing else dice.choice((0, 1, 4, 7))
            self.end(index, failed=dice.random() < failing, duration=duration)
        elif dice.random() < 0.7:
            self.release(index)
        else:
            self.lose(index)
