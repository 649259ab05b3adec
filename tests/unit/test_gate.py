"""The gate of a server: how often it looks at the pressure, and who is counted."""

from __future__ import annotations

from typing import Any

import pytest

from interceptors import current
from interceptors._shapes import Call
from interceptors.permits import Ended
from services.corpus.principal import Caller
from services.resilience.brownout import Brownout, BrownoutStep
from services.runtime.admission import Admissions
from services.runtime.options import AdmissionOptions, QuotaOptions
from tests.support.admission_world import Clock


def a_call() -> Call:
    nobody: Any = None
    return Call("/groundwire.test.v1.Echo/Unary", known=True, context=nobody, request_id="request-1")


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_calls_that_come_together_look_at_the_pressure_once(clock: Clock) -> None:
    looks = 0

    class Counting(Brownout):
        def step(self) -> BrownoutStep:
            nonlocal looks
            looks += 1
            return super().step()

    gate = Admissions(AdmissionOptions(), initial_limit=100, rules={}, brownout=Counting(clock), clock=clock)
    for _ in range(50):
        gate.end(gate.arrive(a_call()), Ended.COMPLETED)
    assert looks == 1
    clock.now += 0.03
    gate.end(gate.arrive(a_call()), Ended.COMPLETED)
    assert looks == 2


def test_the_ladder_is_climbed_under_pressure_and_left_when_it_is_over(clock: Clock) -> None:
    brownout = Brownout(clock)
    gate = Admissions(AdmissionOptions(), initial_limit=100, rules={}, brownout=brownout, clock=clock)

    def steps(seconds: float, pressure: float) -> BrownoutStep:
        brownout.pressure = lambda: pressure
        for _ in range(round(seconds / 0.01)):
            clock.now += 0.01
            gate.end(gate.arrive(a_call()), Ended.COMPLETED)
        return gate.step

    assert steps(2, pressure=10.0) is BrownoutStep.LEXICAL_ONLY
    assert steps(5, pressure=0.0) is BrownoutStep.NONE


def test_the_last_call_of_a_rush_begins_the_calm(clock: Clock) -> None:
    """However soon it ends after others have looked: whoever comes next, after a pause, gets everything again."""
    brownout = Brownout(clock)
    gate = Admissions(AdmissionOptions(), initial_limit=100, rules={}, brownout=brownout, clock=clock)
    brownout.pressure = lambda: 10.0
    while not gate.step:
        clock.now += 0.1
    last = gate.arrive(a_call())
    brownout.pressure = lambda: 0.0
    clock.now += 0.001
    gate.end(last, Ended.COMPLETED)
    clock.now += 10
    gate.arrive(a_call())
    assert not gate.step


@pytest.mark.parametrize(
    ("quota", "counted"),
    [(QuotaOptions(), False), (QuotaOptions(requests_per_second=5), True), (QuotaOptions(tokens_per_second=5), True)],
)
async def test_only_who_has_a_quota_is_charged(clock: Clock, quota: QuotaOptions, counted: bool) -> None:
    gate = Admissions(AdmissionOptions(quota=quota), initial_limit=100, rules={}, clock=clock)
    current.caller.set(Caller(tenant="acme", subject="alice"))
    gate.arrive(a_call())
    assert (current.spend.get() is not None) is counted
