"""Breaker and budget as state machines with a fake clock, beside models that count everything anew.

Hypothesis looks for the short stories and shortens those that fail; walks at random do the same steps in bulk.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from services.resilience.breaker import BreakerPolicy
from tests.support.breaker_world import LEGAL, MAX_HELD, POLICIES, BreakerWorld
from tests.support.budget_world import BUDGETS, BudgetWorld

WALK = 2_000
World = BreakerWorld | BudgetWorld


class BreakerMachine(RuleBasedStateMachine):
    """Permits are asked for, ended, released, lost and ended late, in any order."""

    @initialize(policy=st.sampled_from(POLICIES))
    def start(self, policy: BreakerPolicy) -> None:
        self.world = BreakerWorld(policy)

    @rule(count=st.one_of(st.integers(0, 20), st.integers(0, 300)))
    def advance(self, count: int) -> None:
        self.world.advance(count)

    @rule(count=st.integers(1, 4))
    def acquire(self, count: int) -> None:
        for _ in range(count):
            self.world.acquire()

    @rule(index=st.integers(0, MAX_HELD), failed=st.booleans(), duration=st.integers(0, 20), count=st.integers(1, 6))
    def end(self, index: int, failed: bool, duration: int, count: int) -> None:
        for _ in range(count):
            self.world.end(index, failed=failed, duration=duration)

    @rule(count=st.integers(1, 12), failed=st.booleans(), duration=st.integers(0, 20))
    def call_one_after_another(self, count: int, failed: bool, duration: int) -> None:
        for _ in range(count):
            if self.world.acquire():
                self.world.end(-1, failed=failed, duration=duration)

    @rule(index=st.integers(0, MAX_HELD))
    def release(self, index: int) -> None:
        self.world.release(index)

    @rule(index=st.integers(0, MAX_HELD))
    def lose(self, index: int) -> None:
        self.world.lose(index)

    @rule(lose=st.booleans())
    def recover(self, lose: bool) -> None:
        self.world.recover(lose=lose)

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.recover(lose=True)
            self.world.recover(lose=False)


class BudgetMachine(RuleBasedStateMachine):
    """First attempts and extra ones, in any order."""

    @initialize(budget=st.sampled_from(BUDGETS))
    def start(self, budget: tuple[float, int, float]) -> None:
        self.world = BudgetWorld(*budget)

    @rule(count=st.one_of(st.integers(0, 10), st.integers(0, 200)))
    def advance(self, count: int) -> None:
        self.world.advance(count)

    @rule(count=st.integers(1, 40))
    def call(self, count: int) -> None:
        for _ in range(count):
            self.world.call()

    @rule(count=st.integers(1, 8))
    def spend(self, count: int) -> None:
        for _ in range(count):
            self.world.spend()

    @rule()
    def spend_all(self) -> None:
        self.world.spend_all()


TestBreakerMachine = BreakerMachine.TestCase
TestBreakerMachine.settings = settings(deadline=None, max_examples=60, stateful_step_count=40)
TestBudgetMachine = BudgetMachine.TestCase
TestBudgetMachine.settings = settings(deadline=None, max_examples=30, stateful_step_count=40)


def walks(worlds: Sequence[Callable[[], World]], steps: int) -> Counter[str]:
    """What was seen in at least so many steps, spread over the worlds in many short walks."""
    seen: Counter[str] = Counter()
    done = seed = 0
    while done < steps:
        world = worlds[seed % len(worlds)]()
        try:
            world.walk(random.Random(seed), WALK)
        except AssertionError as failed:
            failed.add_note(f"walk {seed}, step {world.steps}")
            raise
        done += world.steps
        seen += world.seen
        seed += 1
    return seen


@pytest.mark.parametrize(
    "steps", [pytest.param(20_000, id="short"), pytest.param(1_000_000, marks=pytest.mark.long, id="1000000")]
)
def test_breaker_at_random(steps: int) -> None:
    seen = walks([partial(BreakerWorld, policy) for policy in POLICIES], steps)
    everywhere = {f"{before.value} to {after.value}" for before, after in LEGAL}
    ends = {f"{late}{slow}{end}" for late in ("", "late ") for slow in ("", "slow ") for end in ("success", "failure")}
    left = {f"{how}{what}" for how in ("release", "loss") for what in ("", " of a probe")}
    # Each step counts itself once it has been checked.
    assert sum(count for kind, count in seen.items() if kind not in everywhere) >= steps
    # A walk that never gets anywhere finds nothing.
    for kind in everywhere | ends | left | {"permit", "refusal", "time", "recovery", "recovery of the lost"}:
        assert seen[kind] >= steps // 4000, f"{kind}: {seen}"


@pytest.mark.parametrize(
    "steps", [pytest.param(20_000, id="short"), pytest.param(1_000_000, marks=pytest.mark.long, id="1000000")]
)
def test_budget_at_random(steps: int) -> None:
    seen = walks([partial(BudgetWorld, *budget) for budget in BUDGETS], steps)
    assert seen.total() >= steps
    for kind in ("call", "spent", "refused", "emptied", "time"):
        assert seen[kind] >= steps // 400, f"{kind}: {seen}"
