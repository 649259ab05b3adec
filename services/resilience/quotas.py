"""What each tenant may use per second: requests, and tokens of models. Pure.

Token buckets (RFC 2697 calls their sizes committed burst sizes). Requests are taken before a call begins; tokens are
charged when it is known how many were used, so that bucket may go into debt, and the tenant's next calls are refused
until the debt is paid. That takes an hour at most: what an endpoint counts is not always true.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from services.corpus.errors import ResourceExhausted

_DEFAULT_BURST_SECONDS = 10.0
_MOST_DEBT_SECONDS = 3600.0
# Tenants whose buckets are full again are as good as unknown; looked at when there are this many.
_MANY = 10_000

REQUESTS = "requests_per_second"
TOKENS = "tokens_per_second"


@dataclass(frozen=True, slots=True)
class Quota:
    """A tenant's part.

    ``weight`` is its share against others' when calls wait. Rates are per second, 0 meaning no limit; bursts are how
    much may be used at once after a pause, 0 meaning ten seconds' worth.
    """

    weight: float = 1.0
    requests_per_second: float = 0.0
    request_burst: float = 0.0
    tokens_per_second: float = 0.0
    token_burst: float = 0.0


class TokenBucket:
    """Holds up to ``burst`` tokens, gains ``rate`` of them per second, and starts full.

    It may be overdrawn by what it gains in an hour.
    """

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst or max(1.0, rate * _DEFAULT_BURST_SECONDS)
        self._level = self._burst
        self._at = now

    def level(self, now: float) -> float:
        """How much is in it; negative while there is a debt."""
        if now > self._at:
            self._level = min(self._burst, self._level + (now - self._at) * self._rate)
            self._at = now
        return self._level

    def take(self, amount: float, now: float) -> None:
        """Take ``amount`` out, whether it is there or not, down to the largest debt."""
        self._level = max(self.level(now) - amount, -self._rate * _MOST_DEBT_SECONDS)

    def seconds_until(self, amount: float, now: float) -> float:
        """When it will hold ``amount``; 0 if it does."""
        return max(0.0, (amount - self.level(now)) / self._rate)

    def full(self, now: float) -> bool:
        """Whether nothing of it is used."""
        return self.level(now) >= self._burst


@dataclass(slots=True)
class _Buckets:
    requests: TokenBucket | None
    tokens: TokenBucket | None

    def idle(self, now: float) -> bool:
        return all(bucket is None or bucket.full(now) for bucket in (self.requests, self.tokens))


@dataclass
class Quotas:
    """Every tenant's buckets. ``clock`` gives monotonic seconds; ``tenants`` are those that differ from ``default``."""

    clock: Callable[[], float]
    default: Quota = field(default_factory=Quota)
    tenants: Mapping[str, Quota] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._buckets: dict[str, _Buckets] = {}

    def weight(self, tenant: str) -> float:
        """The tenant's share against others'."""
        return self._of(tenant).weight

    def limits(self, tenant: str) -> bool:
        """Whether the tenant has a quota of anything."""
        quota = self._of(tenant)
        return bool(quota.requests_per_second or quota.tokens_per_second)

    def admit(self, tenant: str) -> None:
        """Count one request; raise ResourceExhausted (QUOTA_EXCEEDED) when the tenant may not begin one now."""
        buckets, now = self._open(tenant), self.clock()
        if buckets is None:
            return
        if buckets.tokens is not None and (wait := buckets.tokens.seconds_until(0.0, now)) > 0:
            raise _exceeded(TOKENS, wait)
        if buckets.requests is not None:
            if (wait := buckets.requests.seconds_until(1.0, now)) > 0:
                raise _exceeded(REQUESTS, wait)
            buckets.requests.take(1.0, now)

    def charge(self, tenant: str, tokens: int) -> None:
        """Count the tokens that a model has read and written for the tenant."""
        buckets = self._open(tenant)
        if buckets is not None and buckets.tokens is not None and tokens > 0:
            buckets.tokens.take(tokens, self.clock())

    def _of(self, tenant: str) -> Quota:
        return self.tenants.get(tenant, self.default)

    def _open(self, tenant: str) -> _Buckets | None:
        if not self.limits(tenant):
            return None
        quota = self._of(tenant)
        found = self._buckets.get(tenant)
        if found is None:
            now = self.clock()
            if len(self._buckets) >= _MANY:
                self._buckets = {name: kept for name, kept in self._buckets.items() if not kept.idle(now)}
            found = self._buckets[tenant] = _Buckets(
                _bucket(quota.requests_per_second, quota.request_burst, now),
                _bucket(quota.tokens_per_second, quota.token_burst, now),
            )
        return found


def _bucket(rate: float, burst: float, now: float) -> TokenBucket | None:
    return TokenBucket(rate, burst, now) if rate else None


def _exceeded(quota: str, wait: float) -> ResourceExhausted:
    return ResourceExhausted(
        "a quota of your tenant is used up",
        retry_after=max(wait, 0.001),
        reason="QUOTA_EXCEEDED",
        metadata={"quota": quota},
    )
