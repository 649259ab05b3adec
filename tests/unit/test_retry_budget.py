"""The retry budget and the rolling counts below it."""

from __future__ import annotations

import pytest

from services.resilience.budget import RetryBudget
from services.resilience.rolling import RollingCounts
from tests.support.fake_clock import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(1000.0)


def spent(budget: RetryBudget) -> int:
    """How many extra attempts could be had, until one was refused."""
    count = 0
    while budget.spend():
        count += 1
    return count


@pytest.mark.parametrize(
    ("ratio", "floor", "calls", "extra"),
    [
        (0.2, 3, 0, 3),
        # A fifth of a call is no attempt.
        (0.2, 3, 4, 3),
        (0.2, 3, 5, 4),
        (0.2, 3, 1000, 203),
        (0.2, 0, 4, 0),
        (0.2, 0, 5, 1),
        (0.0, 3, 1000, 3),
        (0.0, 0, 1000, 0),
        (1.5, 0, 10, 15),
        (0.29, 0, 100, 29),
    ],
)
def test_how_many_there_are(clock: FakeClock, ratio: float, floor: int, calls: int, extra: int) -> None:
    budget = RetryBudget(ratio=ratio, floor=floor, clock=clock)
    for _ in range(calls):
        budget.call()
    assert budget.available == extra
    assert spent(budget) == extra
    assert budget.available == 0


def test_a_refusal_takes_nothing(clock: FakeClock) -> None:
    budget = RetryBudget(clock=clock)
    assert spent(budget) == 3
    for _ in range(100):
        assert not budget.spend()
    clock.advance(11)
    assert spent(budget) == 3


def test_each_call_adds_to_what_is_left(clock: FakeClock) -> None:
    budget = RetryBudget(clock=clock)
    assert spent(budget) == 3
    for _ in range(5):
        assert not budget.spend()
        budget.call()
    assert spent(budget) == 1


def test_what_was_spent_comes_back_after_the_window_and_a_step(clock: FakeClock) -> None:
    budget = RetryBudget(clock=clock)
    clock.advance(0.875)
    assert spent(budget) == 3
    # Never before the window has passed; steps begin with whole seconds here.
    clock.advance(10)
    assert budget.available == 0
    clock.advance(0.125)
    assert budget.available == 3


def test_what_was_called_is_forgotten_within_the_window(clock: FakeClock) -> None:
    budget = RetryBudget(clock=clock)
    for _ in range(50):
        budget.call()
    clock.advance(9.875)
    assert budget.available == 13
    clock.advance(0.125)
    assert budget.available == 3


def test_it_is_never_below_nothing(clock: FakeClock) -> None:
    budget = RetryBudget(floor=0, clock=clock)
    for _ in range(50):
        budget.call()
    clock.advance(9)
    assert spent(budget) == 10
    clock.advance(1)
    assert budget.available == 0
    assert not budget.spend()


@pytest.mark.parametrize("wrong", [{"ratio": -0.1}, {"floor": -1}, {"window": 0.0}, {"ratio": float("nan")}], ids=str)
def test_a_budget_that_cannot_work_is_refused(clock: FakeClock, wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="needs"):
        RetryBudget(**wrong, clock=clock)  # type: ignore[arg-type]  # floor is whole in the table as well


# --- rolling counts -------------------------------------------------------------------------------------------------


def test_counts_are_kept_by_kind() -> None:
    counts = RollingCounts(3, window=10.0, buckets=10)
    assert counts.totals(0.5) == (0, 0, 0)
    counts.add(0.5, (1, 0, 2))
    counts.add(0.75, (1, 1, 0))
    assert counts.totals(1.0) == (2, 1, 2)


def test_counts_leave_step_by_step() -> None:
    counts = RollingCounts(1, window=4.0, buckets=4)
    for second in range(6):
        counts.add(second + 0.5, (10**second,))
    found = [counts.totals(now)[0] for now in (5.5, 5.75, 6.0, 7.0, 8.0, 9.0, 100.0)]
    assert found == [111100, 111100, 111000, 110000, 100000, 0, 0]


def test_counts_can_be_cleared() -> None:
    counts = RollingCounts(2, window=4.0, buckets=4)
    counts.add(0.0, (1, 1))
    counts.clear()
    assert counts.totals(0.0) == (0, 0)
    assert counts.totals(10.0) == (0, 0)


def test_memory_does_not_grow_with_the_events() -> None:
    counts = RollingCounts(1, window=4.0, buckets=4)
    for event in range(10_000):
        counts.add(event / 100, (1,))
        assert len(counts._steps) <= 4
    assert counts.totals(99.99) == (400,)


@pytest.mark.parametrize(("kinds", "window", "buckets"), [(0, 1.0, 1), (1, 0.0, 1), (1, 1.0, 0), (1, float("nan"), 1)])
def test_counts_that_cannot_work_are_refused(kinds: int, window: float, buckets: int) -> None:
    with pytest.raises(ValueError, match="at least one kind"):
        RollingCounts(kinds, window=window, buckets=buckets)
