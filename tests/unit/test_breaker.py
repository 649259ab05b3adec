"""The circuit breaker's rules, one by one; their combinations are in tests/property/test_resilience_machines.py."""

from __future__ import annotations

import math
from typing import Any

import pytest

from services.resilience.breaker import BreakerPolicy, BreakerState, CircuitBreaker, Permit
from tests.support.fake_clock import FakeClock

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN
NEVER = 1000


class Endpoint:
    """A breaker, its clock, and calls that end at once: ``+`` succeeds, ``-`` fails, ``s`` is slow, ``0`` is released."""

    def __init__(self, **policy: Any) -> None:
        self.clock = FakeClock()
        self.changes: list[tuple[BreakerState, BreakerState]] = []
        self.breaker = CircuitBreaker(BreakerPolicy(**policy), self.clock, lambda *both: self.changes.append(both))

    @property
    def state(self) -> BreakerState:
        return self.breaker.state

    def permit(self) -> Permit:
        permit = self.breaker.acquire()
        assert permit is not None
        return permit

    def calls(self, ends: str) -> BreakerState:
        for end in ends:
            permit = self.permit()
            match end:
                case "+":
                    permit.succeed(0.01)
                case "-":
                    permit.fail(0.01)
                case "s":
                    permit.succeed(5)
                case "S":
                    permit.fail(5)
                case _:
                    permit.release()
        return self.state

    def opened(self) -> Endpoint:
        """Open, and nothing out."""
        self.calls("-" * 5)
        assert self.state is OPEN
        return self

    def half_open(self) -> Permit:
        """Open, waited for, and the first probe out."""
        self.opened()
        self.clock.advance(2)
        return self.permit()


# --- closed ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ends", "state"),
    [
        ("", CLOSED),
        # Too few to say anything, though all but one fail.
        ("----+----", CLOSED),
        ("-+-+-+-+-", CLOSED),
        ("+-+-+-+-+-", OPEN),
        ("+-+-+-+-++", CLOSED),
        # Half of ten have failed, but it is not a good answer that opens it: the next failure is.
        ("----+----+", CLOSED),
        ("----+----+-", OPEN),
        # In a row: with little traffic, and with a window full of good answers.
        ("----", CLOSED),
        ("-----", OPEN),
        ("+" * 500 + "----", CLOSED),
        ("+" * 500 + "-----", OPEN),
        ("+" * 500 + "----+----", CLOSED),
        # Who goes away says nothing: neither does it count, nor does it interrupt a row.
        ("0" * 100, CLOSED),
        ("0----0", CLOSED),
        ("-0-0-0-0-", OPEN),
        ("+-0+-0+-0+-0+0", CLOSED),
    ],
)
def test_when_it_opens(ends: str, state: BreakerState) -> None:
    assert Endpoint().calls(ends) is state


@pytest.mark.parametrize(
    ("ends", "state"),
    [
        ("s" * 9, CLOSED),
        ("s" * 10, OPEN),
        ("s" * 8 + "++", CLOSED),
        ("++" + "s" * 8, OPEN),
        ("+++" + "s" * 11, CLOSED),
        ("+++" + "s" * 12, OPEN),
        # A slow answer is not a failure, and interrupts a row of them; a slow failure is both.
        ("-" * 4 + "s", CLOSED),
        ("-" * 4 + "s" + "-" * 4, CLOSED),
        ("+++" + "sS" * 5 + "s", CLOSED),
        ("+++" + "sS" * 6, OPEN),
    ],
)
def test_slow_calls(ends: str, state: BreakerState) -> None:
    assert Endpoint(slow_after=5.0).calls(ends) is state


def test_nothing_is_slow_unless_the_policy_says_what_is() -> None:
    assert Endpoint().calls("s" * 100) is CLOSED


@pytest.mark.parametrize(
    ("rate", "failures", "calls"), [(0.55, 11, 20), (0.29, 29, 100), (0.07, 7, 100), (1.0, 10, 10)]
)
def test_a_rate_that_is_just_reached_opens(rate: float, failures: int, calls: int) -> None:
    endpoint = Endpoint(failure_rate=rate, consecutive=NEVER)
    assert endpoint.calls("+" * (calls - failures) + "-" * (failures - 1)) is CLOSED
    assert endpoint.calls("-") is OPEN


def test_what_is_older_than_the_window_does_not_count() -> None:
    endpoint = Endpoint(consecutive=NEVER)
    endpoint.calls("-" * 9)
    endpoint.clock.advance(10)
    assert endpoint.calls("-" * 9) is CLOSED
    assert endpoint.calls("-") is OPEN


def test_what_is_younger_counts() -> None:
    endpoint = Endpoint(consecutive=NEVER)
    endpoint.calls("-" * 9)
    endpoint.clock.advance(9)
    assert endpoint.calls("-") is OPEN


@pytest.mark.parametrize(("pause", "state"), [(2.375, OPEN), (2.5, CLOSED)])
def test_failures_in_a_row_are_within_the_window(pause: float, state: BreakerState) -> None:
    endpoint = Endpoint(minimum=NEVER)
    endpoint.calls("-")
    for _ in range(4):
        endpoint.clock.advance(pause)
        endpoint.calls("-")
    assert endpoint.state is state


# --- open -----------------------------------------------------------------------------------------------------------


def test_open_lets_nobody_through_until_its_time_has_passed() -> None:
    endpoint = Endpoint().opened()
    endpoint.clock.advance(1.875)
    assert not endpoint.breaker.would_permit()
    assert endpoint.breaker.acquire() is None
    endpoint.clock.advance(0.125)
    assert endpoint.breaker.would_permit()
    # Asking what would be is no call: only the first probe makes it half-open.
    assert endpoint.state is OPEN
    assert endpoint.breaker.acquire() is not None
    assert endpoint.state is HALF_OPEN


def test_whoever_was_let_through_before_changes_nothing_later() -> None:
    endpoint = Endpoint()
    early = [endpoint.permit() for _ in range(40)]
    endpoint.opened()
    for permit in early[:10]:
        permit.fail(0.1)
    for permit in early[10:20]:
        permit.succeed(0.1)
    assert endpoint.state is OPEN
    endpoint.clock.advance(2)
    probe = endpoint.permit()
    early[20].fail(0.1)
    for permit in early[21:24]:
        permit.succeed(0.1)
    assert endpoint.state is HALF_OPEN
    probe.succeed(0.1)
    endpoint.calls("+")
    assert endpoint.state is CLOSED
    for permit in early[24:]:
        permit.fail(0.1)
    assert endpoint.state is CLOSED


def test_it_stays_open_for_twice_as_long_after_each_failed_round() -> None:
    endpoint = Endpoint().opened()
    for seconds in (2, 4, 8, 16, 30, 30):
        endpoint.clock.advance(seconds - 0.125)
        assert not endpoint.breaker.would_permit()
        endpoint.clock.advance(0.125)
        assert endpoint.calls("-") is OPEN


def test_a_good_round_starts_over_with_the_shortest_time() -> None:
    endpoint = Endpoint().opened()
    endpoint.clock.advance(2)
    endpoint.calls("-")
    endpoint.clock.advance(4)
    assert endpoint.calls("++") is CLOSED
    endpoint.opened()
    endpoint.clock.advance(2)
    assert endpoint.breaker.would_permit()


# --- half-open ------------------------------------------------------------------------------------------------------


def test_no_more_probes_than_the_bound_are_out() -> None:
    endpoint = Endpoint(probes=3)
    endpoint.half_open()
    endpoint.permit()
    third = endpoint.permit()
    assert not endpoint.breaker.would_permit()
    assert endpoint.breaker.acquire() is None
    third.release()
    assert endpoint.breaker.would_permit()
    endpoint.permit()
    assert endpoint.breaker.acquire() is None


@pytest.mark.parametrize(
    ("ends", "state"),
    [
        ("+", HALF_OPEN),
        ("++", CLOSED),
        ("-", OPEN),
        ("+-", OPEN),
        ("0" * 50, HALF_OPEN),
        ("0+0+", CLOSED),
        ("0+0-", OPEN),
        # One slow answer of two is less than the rate, two of two is not.
        ("s+", CLOSED),
        ("+s", CLOSED),
        ("ss", OPEN),
    ],
)
def test_what_probes_say(ends: str, state: BreakerState) -> None:
    endpoint = Endpoint(slow_after=5.0)
    endpoint.half_open().release()
    assert endpoint.calls(ends) is state


def test_it_opens_by_slow_answers_as_soon_as_there_are_too_many() -> None:
    endpoint = Endpoint(slow_after=5.0, slow_rate=0.4, probe_successes=5)
    endpoint.half_open().release()
    assert endpoint.calls("+s") is HALF_OPEN
    assert endpoint.calls("s") is OPEN


def test_after_closing_everything_is_counted_anew() -> None:
    endpoint = Endpoint()
    endpoint.calls("+-+-+")
    endpoint.half_open().release()
    endpoint.calls("++")
    assert endpoint.calls("----") is CLOSED
    assert endpoint.calls("-") is OPEN


def test_answers_of_an_earlier_round_do_not_close_it() -> None:
    endpoint = Endpoint()
    endpoint.half_open().succeed(0.1)
    assert endpoint.calls("-") is OPEN
    endpoint.clock.advance(4)
    assert endpoint.calls("+") is HALF_OPEN
    assert endpoint.calls("+") is CLOSED


def test_a_lost_probe_gives_its_place_back_when_its_lease_ends() -> None:
    endpoint = Endpoint()
    endpoint.half_open()
    endpoint.permit()
    endpoint.clock.advance(9.875)
    assert endpoint.breaker.acquire() is None
    endpoint.clock.advance(0.125)
    assert endpoint.calls("++") is CLOSED


@pytest.mark.parametrize(("good", "state"), [(True, CLOSED), (False, OPEN)])
def test_a_probe_that_ends_after_its_lease_still_counts(good: bool, state: BreakerState) -> None:
    endpoint = Endpoint(probe_successes=1)
    late = endpoint.half_open()
    endpoint.clock.advance(11)
    assert endpoint.breaker.would_permit()
    (late.succeed if good else late.fail)(11)
    assert endpoint.state is state


def test_a_late_probe_does_not_give_back_the_place_of_another() -> None:
    endpoint = Endpoint(probes=1)
    late = endpoint.half_open()
    endpoint.clock.advance(10)
    endpoint.permit()
    late.release()
    assert endpoint.breaker.acquire() is None


def test_a_probe_of_an_earlier_round_counts_against_the_bound_and_for_nothing_else() -> None:
    endpoint = Endpoint(open_for=1.0, probe_successes=1)
    endpoint.opened()
    endpoint.clock.advance(1)
    slow, quick = endpoint.permit(), endpoint.permit()
    quick.fail(0.1)
    assert endpoint.state is OPEN
    endpoint.clock.advance(2)
    second = endpoint.permit()
    assert endpoint.breaker.acquire() is None
    slow.succeed(2)
    assert endpoint.state is HALF_OPEN
    assert endpoint.breaker.acquire() is not None
    second.succeed(0.1)
    assert endpoint.state is CLOSED


def test_open_does_not_become_half_open_while_all_places_are_taken() -> None:
    endpoint = Endpoint(probes=2, probe_lease=10.0)
    first = endpoint.half_open()
    second = endpoint.permit()
    first.fail(0.1)
    endpoint.clock.advance(4)
    third = endpoint.permit()
    third.fail(0.1)
    endpoint.clock.advance(8)
    # The second probe's lease has ended meanwhile; it is late for its round, and its place is free.
    second.fail(12)
    assert endpoint.state is OPEN
    assert [endpoint.breaker.acquire() is not None for _ in range(3)] == [True, True, False]


def test_all_places_taken_by_an_earlier_round() -> None:
    endpoint = Endpoint(probes=1, probe_lease=100.0, open_for=1.0)
    endpoint.opened()
    endpoint.clock.advance(1)
    probe = endpoint.permit()
    endpoint.clock.advance(50)
    assert endpoint.breaker.acquire() is None
    probe.fail(50)
    endpoint.clock.advance(2)
    assert endpoint.breaker.acquire() is not None


# --- permits and changes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["succeed", "fail", "release"])
def test_only_the_first_end_of_a_permit_counts(first: str) -> None:
    endpoint = Endpoint(minimum=2, consecutive=2, failure_rate=1.0)
    permit = endpoint.permit()
    permit.release() if first == "release" else getattr(permit, first)(0.1)
    for _ in range(9):
        permit.fail(0.1)
        permit.release()
        permit.succeed(0.1)
    assert endpoint.state is CLOSED
    assert endpoint.calls("-") is (OPEN if first == "fail" else CLOSED)


def test_each_change_is_told_once_and_when_it_is_complete() -> None:
    endpoint = Endpoint().opened()
    endpoint.clock.advance(100)
    assert endpoint.changes == [(CLOSED, OPEN)]
    endpoint.calls("-")
    endpoint.clock.advance(4)
    endpoint.calls("0++")
    assert endpoint.changes == [
        (CLOSED, OPEN),
        (OPEN, HALF_OPEN),
        (HALF_OPEN, OPEN),
        (OPEN, HALF_OPEN),
        (HALF_OPEN, CLOSED),
    ]


def test_whoever_is_told_may_ask() -> None:
    clock = FakeClock()
    seen: list[tuple[BreakerState, bool]] = []

    def look(_: BreakerState, after: BreakerState) -> None:
        assert breaker.state is after
        seen.append((after, breaker.would_permit()))

    breaker = CircuitBreaker(BreakerPolicy(consecutive=1, probes=1, probe_successes=1), clock, look)
    for _ in range(2):
        permit = breaker.acquire()
        assert permit is not None
        (permit.succeed if breaker.state is HALF_OPEN else permit.fail)(0.1)
        clock.advance(2)
    # Half-open with one place: whoever made it so has taken it.
    assert seen == [(OPEN, False), (HALF_OPEN, False), (CLOSED, True)]


def test_nobody_needs_to_listen() -> None:
    breaker = CircuitBreaker(BreakerPolicy(consecutive=1), FakeClock())
    permit = breaker.acquire()
    assert permit is not None
    permit.fail(0.1)
    assert breaker.state is OPEN


# --- policies -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        *({name: 0} for name in ("buckets", "minimum", "consecutive", "probes", "probe_successes")),
        *({name: value} for name in ("failure_rate", "slow_rate") for value in (0.0, -0.1, 1.1, math.nan)),
        *(
            {name: value}
            for name in ("window", "slow_after", "open_for", "max_open_for", "probe_lease")
            for value in (0.0, -1.0, math.inf, math.nan)
        ),
        {"open_for": 31.0},
    ],
    ids=str,
)
def test_a_policy_that_cannot_work_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        BreakerPolicy(**wrong)
