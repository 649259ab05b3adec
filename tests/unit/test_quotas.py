"""Token buckets of tenants."""

from __future__ import annotations

import pytest

from services.corpus.errors import ResourceExhausted
from services.resilience.quotas import Quota, Quotas
from tests.support.admission_world import Clock


def refused(quotas: Quotas, tenant: str) -> ResourceExhausted:
    with pytest.raises(ResourceExhausted) as caught:
        quotas.admit(tenant)
    assert caught.value.reason == "QUOTA_EXCEEDED"
    return caught.value


def test_without_a_quota_nothing_is_counted() -> None:
    quotas = Quotas(Clock())
    for _ in range(1000):
        quotas.admit("acme")
    quotas.charge("acme", 10**9)
    quotas.admit("acme")


def test_requests_run_out_and_come_back() -> None:
    clock = Clock()
    quotas = Quotas(clock, Quota(requests_per_second=2.0, request_burst=3.0))
    for _ in range(3):
        quotas.admit("acme")
    error = refused(quotas, "acme")
    assert error.metadata == {"quota": "requests_per_second"}
    assert error.retry_after == pytest.approx(0.5)
    quotas.admit("globex")
    clock.now += error.retry_after
    quotas.admit("acme")
    refused(quotas, "acme")
    clock.now += 3600
    for _ in range(3):
        quotas.admit("acme")
    refused(quotas, "acme")


def test_tokens_are_charged_afterwards_and_a_debt_is_paid_with_time() -> None:
    clock = Clock()
    quotas = Quotas(clock, Quota(tokens_per_second=10.0, token_burst=100.0))
    quotas.admit("acme")
    quotas.charge("acme", 150)
    error = refused(quotas, "acme")
    assert error.metadata == {"quota": "tokens_per_second"}
    assert error.retry_after == pytest.approx(5.0)
    clock.now += 5.0
    quotas.admit("acme")


def test_a_debt_is_paid_within_an_hour_whatever_an_endpoint_counted() -> None:
    """(G5)."""
    clock = Clock()
    quotas = Quotas(clock, Quota(tokens_per_second=10.0, token_burst=100.0))
    for _ in range(3):
        quotas.charge("acme", 10**30)
    assert refused(quotas, "acme").retry_after == pytest.approx(3600.0)
    quotas.admit("globex")
    clock.now += 3599.0
    refused(quotas, "acme")
    clock.now += 1.0
    quotas.admit("acme")


def test_a_refused_call_costs_no_request() -> None:
    clock = Clock()
    quotas = Quotas(clock, Quota(requests_per_second=1.0, request_burst=1.0, tokens_per_second=1.0, token_burst=1.0))
    quotas.charge("acme", 2)
    refused(quotas, "acme")
    clock.now += 1.0
    quotas.admit("acme")


def test_a_tenant_of_its_own_has_its_own_quota_and_weight() -> None:
    quotas = Quotas(Clock(), Quota(requests_per_second=1.0, request_burst=1.0), {"big": Quota(weight=5.0)})
    assert (quotas.weight("big"), quotas.weight("any")) == (5.0, 1.0)
    for _ in range(10):
        quotas.admit("big")
    quotas.admit("any")
    refused(quotas, "any")


def test_tenants_with_full_buckets_are_forgotten() -> None:
    clock = Clock()
    quotas = Quotas(clock, Quota(requests_per_second=1.0, request_burst=1.0))
    for number in range(10_000):
        quotas.admit(f"tenant-{number}")
    clock.now += 1.0
    quotas.admit("one-more")
    assert len(quotas._buckets) == 1
