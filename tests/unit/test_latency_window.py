"""Quantiles of the latest latencies."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.resilience.latency import LatencyWindow
from tests.support.fake_clock import FakeClock

MINIMUM = 20


def filled(*samples: float, **options: Any) -> tuple[LatencyWindow, FakeClock]:
    clock = FakeClock()
    window = LatencyWindow(**{"minimum": 1, **options}, clock=clock)
    for sample in samples:
        window.record(sample)
    return window, clock


@pytest.mark.parametrize(
    ("samples", "q", "expected"),
    [
        ([0.5], 0.0, 0.5),
        ([0.5], 1.0, 0.5),
        ([3, 1, 2], 0.0, 1),
        ([3, 1, 2], 0.33, 1),
        ([3, 1, 2], 0.34, 2),
        ([3, 1, 2], 0.5, 2),
        ([3, 1, 2], 1.0, 3),
        # Nearest rank: the 19th of 20, the 7th of 100.
        (range(1, 21), 0.95, 19),
        (range(1, 101), 0.07, 7),
        (range(1, 101), 0.99, 99),
    ],
)
def test_quantiles(samples: list[float], q: float, expected: float) -> None:
    window, _ = filled(*samples)
    assert window.quantile(q) == expected


def test_too_few_samples_say_nothing() -> None:
    window, _ = filled(*[1.0] * (MINIMUM - 1), minimum=MINIMUM)
    assert window.quantile(0.95) is None
    window.record(1.0)
    assert window.quantile(0.95) == 1.0


def test_samples_that_are_too_old_say_nothing_even_when_nothing_new_comes() -> None:
    window, clock = filled(*[1.0] * MINIMUM, minimum=MINIMUM)
    clock.advance(29.875)
    assert window.quantile(0.5) == 1.0
    clock.advance(0.125)
    assert window.quantile(0.5) is None


def test_what_is_old_makes_room_for_what_is_new() -> None:
    window, clock = filled(*[1.0] * 40)
    clock.advance(15)
    for _ in range(10):
        window.record(9.0)
    assert window.quantile(0.5) == 1.0
    clock.advance(15)
    assert window.quantile(0.5) == 9.0
    clock.advance(15)
    assert window.quantile(0.5) is None


def test_no_more_samples_than_the_capacity_are_kept() -> None:
    window, _ = filled(*[9.0] * 100, *[1.0] * 50, capacity=50)
    assert window.quantile(1.0) == 1.0
    assert len(window._samples) == 50


def test_after_silence_nothing_of_before_is_left() -> None:
    window, clock = filled(*[9.0] * 500)
    assert window.quantile(0.5) == 9.0
    clock.advance(1000)
    for _ in range(5):
        window.record(1.0)
    assert window.quantile(1.0) == 1.0


def test_it_sorts_once_for_many_calls() -> None:
    sorts = 0

    class Sample(float):
        """Counts how often it is compared."""

        def __lt__(self, other: float) -> bool:
            nonlocal sorts
            sorts += 1
            return super().__lt__(other)

    window, _ = filled(*map(Sample, range(512)))
    window.quantile(0.95)
    once, sorts = sorts, 0
    for sample in range(160):
        window.record(Sample(sample))
        window.quantile(0.95)
        window.quantile(0.5)
    assert 0 < sorts < once * 100
    assert sorts > once


@pytest.mark.parametrize("q", [-0.1, 1.1, 95, math.nan])
def test_a_quantile_is_from_0_to_1(q: float) -> None:
    window, _ = filled(1.0)
    with pytest.raises(ValueError, match="from 0 to 1"):
        window.quantile(q)


@pytest.mark.parametrize(
    "wrong", [{"window": 0.0}, {"minimum": 0}, {"minimum": 513}, {"capacity": 19, "minimum": 20}], ids=str
)
def test_a_window_that_cannot_work_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="needs a window"):
        filled(**wrong)


@settings(deadline=None, max_examples=200)
@given(
    bursts=st.lists(st.tuples(st.integers(0, 100), st.integers(0, 90), st.floats(0.0, 10.0)), min_size=1, max_size=30),
    q=st.sampled_from([0.0, 0.5, 0.95, 1.0]),
    capacity=st.sampled_from([20, 63, 64, 512]),
)
@example(bursts=[(0, 31, 1.0), (0, 1, 0.0)], q=0.0, capacity=63)
@example(bursts=[(0, 63, 1.0), (0, 1, 0.0), (0, 1, 0.0)], q=0.0, capacity=512)
@example(bursts=[(0, 90, 1.0)] * 30, q=0.95, capacity=512)
def test_it_is_never_further_off_than_it_says(bursts: list[tuple[int, int, float]], q: float, capacity: int) -> None:
    window, clock = filled(window=30.0, capacity=capacity, minimum=MINIMUM)
    kept: list[tuple[float, float]] = []
    for pause, count, base in bursts:
        clock.advance(pause / 8)
        for n in range(count):
            sample = base + (n * 7919 % 97) / 97
            window.record(sample)
            kept.append((clock.now, sample))
        kept = [one for one in kept[-capacity:] if clock.now - one[0] < 30]
        found = window.quantile(q)
        if len(kept) < MINIMUM:
            assert found is None
            continue
        samples = sorted(sample for _, sample in kept)
        stale = max(0, len(samples) // 32 - 1)
        rank = max(1, math.ceil(q * len(samples) - 1e-9))
        off = stale and stale + 1
        lowest, highest = samples[max(0, rank - 1 - off)], samples[min(len(samples), rank + off) - 1]
        assert found is not None
        # At the very ends what was there a moment ago may be beyond everything that is there now.
        if stale and (rank <= off or rank + off > len(samples)):
            continue
        assert lowest <= found <= highest
