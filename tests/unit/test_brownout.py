"""The ladder: quickly up, down step by step, and not up and down all the time."""

from __future__ import annotations

import pytest

from services.resilience.brownout import Brownout, BrownoutPolicy, BrownoutStep
from tests.support.admission_world import Clock


class Ladder:
    """A ladder that is looked at ten times a second."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.pressure = 0.0
        self.brownout = Brownout(self.clock, lambda: self.pressure)

    def wait(self, seconds: float, pressure: float) -> list[BrownoutStep]:
        """The steps that it went to meanwhile."""
        self.pressure = pressure
        seen = [self.brownout.step()]
        for _ in range(round(seconds * 10)):
            self.clock.now += 0.1
            if (step := self.brownout.step()) is not seen[-1]:
                seen.append(step)
        return seen


def test_it_goes_up_a_step_at_a_time_and_not_further_than_the_pressure_leads() -> None:
    ladder = Ladder()
    assert ladder.wait(5, pressure=1.5) == [BrownoutStep.NONE, BrownoutStep.SKIP_RERANK]
    assert ladder.wait(5, pressure=3.0) == [BrownoutStep.SKIP_RERANK, BrownoutStep.FEWER_CANDIDATES]
    assert ladder.wait(5, pressure=100.0) == [BrownoutStep.FEWER_CANDIDATES, BrownoutStep.LEXICAL_ONLY]


def test_the_last_step_is_reached_within_two_seconds_and_left_within_five() -> None:
    ladder = Ladder()
    assert ladder.wait(2, pressure=10.0)[-1] is BrownoutStep.LEXICAL_ONLY
    assert ladder.wait(5, pressure=0.0) == sorted(BrownoutStep, reverse=True)


def test_a_moment_of_pressure_changes_nothing() -> None:
    ladder = Ladder()
    for _ in range(10):
        assert ladder.wait(0.3, pressure=10.0) == [BrownoutStep.NONE]
        assert ladder.wait(0.1, pressure=0.5) == [BrownoutStep.NONE]


def test_between_the_thresholds_it_stays() -> None:
    ladder = Ladder()
    ladder.wait(1, pressure=1.0)
    assert ladder.wait(60, pressure=0.6) == [BrownoutStep.SKIP_RERANK]
    assert ladder.wait(5, pressure=0.4)[-1] is BrownoutStep.NONE


def test_a_step_that_was_left_too_early_is_kept_for_longer() -> None:
    ladder = Ladder()

    def time_of_calm() -> float:
        ladder.wait(1, pressure=1.0)
        began = ladder.clock.now
        ladder.pressure = 0.0
        while ladder.brownout.step() is not BrownoutStep.NONE:
            ladder.clock.now += 0.1
        return ladder.clock.now - began

    times = [time_of_calm() for _ in range(4)]
    assert times == pytest.approx([1.0, 2.0, 2.5, 2.5], abs=0.15)
    ladder.wait(60, pressure=0.0)
    assert time_of_calm() == pytest.approx(1.0, abs=0.15)


def test_whoever_looks_late_finds_what_would_have_happened() -> None:
    ladder = Ladder()
    ladder.wait(5, pressure=10.0)
    ladder.pressure = 0.0
    ladder.brownout.step()
    ladder.clock.now += 2.5
    assert ladder.brownout.step() is BrownoutStep.SKIP_RERANK
    ladder.clock.now += 3600
    assert ladder.brownout.step() is BrownoutStep.NONE


def test_it_counts_how_often_each_step_was_reached() -> None:
    ladder = Ladder()
    for _ in range(3):
        ladder.wait(5, pressure=2.0)
        ladder.wait(10, pressure=0.0)
    assert [ladder.brownout.entered[step] for step in BrownoutStep] == [0, 3, 3, 0]


def test_a_ladder_of_fewer_steps() -> None:
    clock = Clock()
    brownout = Brownout(clock, lambda: 9.0, BrownoutPolicy(enter=(1.0,)))
    for _ in range(100):
        clock.now += 0.1
        brownout.step()
    assert brownout.step() is BrownoutStep.SKIP_RERANK
