"""The endpoints of a service, as its callers know them. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from services.resilience.breaker import WORST_FIRST, BreakerPolicy, BreakerState, CircuitBreaker
from services.resilience.health import HealthCheck, ServiceHealth

Clock = Callable[[], float]
"""Monotonic time, in seconds."""


class Role(Enum):
    """The part that an endpoint plays: primaries serve while one of them can, backups while none can."""

    PRIMARY = "primary"
    BACKUP = "backup"


class MethodClass(Enum):
    """What may be done with a call whose outcome is not known.

    A READ changes nothing: it is repeated and hedged. A WRITE has the same effect however often it is done: it is
    repeated. What is left is done ONCE: it is repeated only when it certainly never reached a server.
    """

    READ = "read"
    WRITE = "write"
    ONCE = "once"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where one process (or what stands in front of several) answers. ``name`` is the host that it proves to be."""

    address: str
    role: Role = Role.PRIMARY
    zone: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class EndpointStatus:
    """What a caller knows of an endpoint.

    ``serving`` says whether it sends calls there now; ``alive`` that it answers, if only that it is not ready.
    """

    endpoint: Endpoint
    health: HealthCheck
    breaker: BreakerState
    serving: bool
    in_flight: int
    alive: bool = True


class Member:
    """One endpoint of a pool: its health, as far as it is known, its breakers, and the calls that it has now.

    ``since`` is when it came up after it had been down; an endpoint of which nothing bad was ever heard needs no
    time to prove itself.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        service: str,
        breakers: BreakerPolicy,
        clock: Clock,
        on_breaker: Callable[[Member, BreakerState, BreakerState], None],
    ) -> None:
        self.endpoint = endpoint
        self.known = False
        self.up = True
        self.alive = False
        self.since = float("-inf")
        self.in_flight = 0
        self.turn = 0
        self.misses = 0
        self.check: HealthCheck | None = None
        self.abandon: set[Callable[[], None]] = set()
        """What gives up the calls in flight that may be repeated elsewhere."""
        self._service = service
        self._breakers = {
            kind: CircuitBreaker(breakers, clock, lambda old, new: on_breaker(self, old, new)) for kind in MethodClass
        }

    def breaker(self, kind: MethodClass) -> CircuitBreaker:
        """The breaker of one class of calls."""
        return self._breakers[kind]

    @property
    def breaker_state(self) -> BreakerState:
        """The worst of its breakers' states.

        An open one whose time has passed lets the next call find out: it counts as half-open, though nobody called yet.
        """
        states = {
            BreakerState.HALF_OPEN if breaker.state is BreakerState.OPEN and breaker.would_permit() else breaker.state
            for breaker in self._breakers.values()
        }
        return next(state for state in WORST_FIRST if state in states)

    def health(self, now: datetime) -> HealthCheck:
        """The last check, or that there was none yet."""
        if self.check is not None:
            return self.check
        return HealthCheck(self._service, ServiceHealth.UNHEALTHY, 0.0, now, "it was not heard of yet")
