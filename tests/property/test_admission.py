"""The limiter as a state machine: no permit leaks, no bound is passed, nobody with a smaller share is passed over."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from services.resilience.tickets import Outcome, WorkClass
from tests.support.admission_world import TENANTS, Walk, policy, random_walk

LONG_STEPS = 300_000


class Admission(RuleBasedStateMachine):
    """Calls of all classes and tenants, in any order; the walk checks after each step."""

    @initialize(initial=st.integers(1, 12), minimum=st.integers(1, 3), queue=st.integers(0, 6))
    def start(self, initial: int, minimum: int, queue: int) -> None:
        self.walk = Walk(policy(initial=initial, minimum=minimum, queue=queue))

    @rule(
        work=st.sampled_from(WorkClass),
        tenant=st.sampled_from(TENANTS),
        kind=st.sampled_from(["quick", "slow"]),
        patience=st.none() | st.sampled_from([0.0, 0.05, 0.5, 5.0]),
    )
    def arrive(self, work: WorkClass, tenant: str, kind: str, patience: float | None) -> None:
        self.walk.arrive(work, tenant, kind, patience)

    @rule(count=st.integers(2, 12), tenant=st.sampled_from(TENANTS))
    def flood(self, count: int, tenant: str) -> None:
        for _ in range(count):
            self.walk.arrive(WorkClass.INTERACTIVE, tenant, "quick", None)

    @rule(chosen=st.integers(0, 40), outcome=st.sampled_from(Outcome))
    def finish(self, chosen: int, outcome: Outcome) -> None:
        self.walk.finish(chosen, outcome)

    @rule(chosen=st.integers(0, 40))
    def leave(self, chosen: int) -> None:
        self.walk.leave(chosen)

    @rule(seconds=st.sampled_from([0.0, 0.02, 0.3, 2.0, 30.0]))
    def sleep(self, seconds: float) -> None:
        self.walk.sleep(seconds)

    def teardown(self) -> None:
        if hasattr(self, "walk"):
            self.walk.drain()


TestAdmission = Admission.TestCase
TestAdmission.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)


def assert_everything_happened(walk: Walk) -> None:
    for what in ("interactive running", "interactive waiting", "interactive refused", "batch waiting", "refused later"):
        assert walk.seen[what], f"the walk never saw: {what}"


def test_a_random_walk_keeps_every_promise() -> None:
    assert_everything_happened(random_walk(seed=1, steps=10_000))


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_three_hundred_thousand_steps_keep_every_promise() -> None:
    walks = [random_walk(seed=seed, steps=15_000) for seed in range(20)]
    assert sum(walk.steps for walk in walks) >= LONG_STEPS
    for walk in walks:
        assert walk.steps >= 15_000
    assert any(walk.seen["interactive waiting"] for walk in walks)
