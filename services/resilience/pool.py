"""Which endpoint of a service a call goes to. Pure.

Primaries come before backups, endpoints of the own zone before others, and among equals the one with the fewest calls
in flight. A primary that comes back has to stay up for a while before calls leave the backups again: an endpoint that
goes up and down must not take the traffic with it. When nothing looks well, everything is tried: what an observer
believes about all endpoints at once is more likely wrong about itself (static stability).
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from services.resilience.breaker import BreakerPolicy, BreakerState
from services.resilience.endpoints import Clock, Endpoint, EndpointStatus, Member, MethodClass, Role
from services.resilience.health import HealthCheck, ServiceHealth

# An only endpoint has to miss so many heartbeats in a row: calls have nowhere else to go, and its loop may be busy.
_MISSES_ALONE = 3


@dataclass(frozen=True, slots=True)
class PoolEvent:
    """Something that changed, in a few words that are safe to show.

    ``endpoint`` where it is one's; then either ``up`` says how that is now, or ``breaker`` from what state to what.
    """

    what: str
    endpoint: Endpoint | None = None
    up: bool | None = None
    breaker: tuple[BreakerState, BreakerState] | None = None


Changed = Callable[[PoolEvent], None]


@dataclass(frozen=True, slots=True)
class PoolPolicy:
    """``proving`` is how long, in seconds, an endpoint that came back must stay up before it is preferred again."""

    proving: float = 2.0
    breakers: BreakerPolicy = field(default_factory=BreakerPolicy)


class Pool:
    """The endpoints of ``service`` that one caller, who is in ``zone``, knows."""

    def __init__(
        self,
        service: str,
        endpoints: Sequence[Endpoint] = (),
        *,
        policy: PoolPolicy | None = None,
        zone: str = "",
        clock: Clock = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.service = service
        self.listeners: list[Changed] = []
        self._policy = policy or PoolPolicy()
        self._zone = zone
        self._clock = clock
        self._now = now
        self._members: dict[Endpoint, Member] = {}
        self._turns = itertools.count(1)
        self.replace(endpoints)

    @property
    def members(self) -> tuple[Member, ...]:
        """All endpoints, in the order in which they were named."""
        return tuple(self._members.values())

    def replace(self, endpoints: Sequence[Endpoint]) -> None:
        """Know these endpoints and no others; what is known about those that stay is kept."""
        known = self._members
        self._members = {endpoint: known.get(endpoint) or self._new(endpoint) for endpoint in endpoints}
        if known.keys() != self._members.keys():
            self._tell(PoolEvent(f"{self.service} has {len(self._members)} endpoints"))

    def heard(
        self,
        member: Member,
        *,
        up: bool,
        alive: bool = True,
        message: str = "",
        response_time: float | None = None,
    ) -> None:
        """An endpoint answered, or (not ``alive``) its connection broke."""
        member.misses = 0
        member.alive = alive
        self._set(member, up=up, message=message, response_time=response_time)

    def missed(self, member: Member) -> None:
        """An endpoint did not answer in time, and its connection stands: it is frozen, or busy."""
        member.misses += 1
        alone = not any(other.up for other in self.members if other is not member)
        if member.misses < (_MISSES_ALONE if alone else 1):
            return
        member.alive = False
        self._set(member, up=False, message="it does not answer in time", response_time=None)
        if not alone:
            for give_up in tuple(member.abandon):
                give_up()

    def ranked(self, kind: MethodClass, tried: Collection[Member] = ()) -> list[Member]:
        """Whom a call should be sent to, best first; those in ``tried`` come after the other sound ones."""
        now = self._clock()

        def rank(member: Member) -> tuple[bool, bool, int, bool, int, int]:
            tier = self._tier(member, kind, now)
            elsewhere = bool(self._zone) and member.endpoint.zone != self._zone
            return tier == _LAST, member in tried, tier, elsewhere, member.in_flight, member.turn

        return sorted(self.members, key=rank)

    def sound(self, member: Member, kind: MethodClass) -> bool:
        """Whether ``member`` is up and its breaker would let a call through."""
        return member.up and member.breaker(kind).would_permit()

    def take_turn(self, member: Member) -> None:
        """Remember that ``member`` was sent a call: the next one goes to its equals first."""
        member.turn = next(self._turns)

    @property
    def is_up(self) -> bool:
        """Whether some endpoint said that it is ready."""
        return any(member.known and member.up for member in self.members)

    @property
    def status(self) -> ServiceHealth:
        """HEALTHY while every primary is sound, else DEGRADED: calls are sent on all the same; UNHEALTHY without any."""
        primaries = [member for member in self.members if member.endpoint.role is Role.PRIMARY]
        if primaries and all(m.known and m.up and m.breaker_state is not BreakerState.OPEN for m in primaries):
            return ServiceHealth.HEALTHY
        return ServiceHealth.DEGRADED if self._members else ServiceHealth.UNHEALTHY

    @property
    def problem(self) -> str:
        """Why it is not HEALTHY, in a few safe words; empty if it is."""
        if self.status is ServiceHealth.HEALTHY:
            return ""
        bad = [member for member in self.members if not (member.known and member.up)]
        if len(bad) == len(self.members):
            return f"{self.service} does not answer"
        opened = [m.endpoint.address for m in self.members if m.breaker_state is BreakerState.OPEN]
        names = ", ".join([member.endpoint.address for member in bad] or opened)
        return f"{self.service}: {names} {'is' if len(bad or opened) == 1 else 'are'} down"

    def statuses(self) -> list[EndpointStatus]:
        """What is known of every endpoint."""
        now, wall = self._clock(), self._now()
        tiers = {member: self._tier(member, MethodClass.READ, now) for member in self.members}
        best = min(tiers.values(), default=_LAST)
        return [
            EndpointStatus(
                endpoint=member.endpoint,
                health=member.health(wall),
                breaker=member.breaker_state,
                serving=tiers[member] == best and best != _LAST,
                in_flight=member.in_flight,
                alive=member.alive,
            )
            for member in self.members
        ]

    def _tier(self, member: Member, kind: MethodClass, now: float) -> int:
        if not self.sound(member, kind):
            return _LAST
        primary = member.endpoint.role is Role.PRIMARY
        proven = now - member.since >= self._policy.proving
        return (0 if primary else 1) if proven else (2 if primary else 3)

    def _set(self, member: Member, *, up: bool, message: str, response_time: float | None) -> None:
        before = member.check
        was_known, was_up = member.known, member.up
        took = response_time if response_time is not None else (before.response_time if before else 0.0)
        status = ServiceHealth.HEALTHY if up else ServiceHealth.UNHEALTHY
        member.check = HealthCheck(self.service, status, took, self._now(), message)
        if up and not member.up:
            member.since = self._clock()
        member.known, member.up = True, up
        if (was_known, was_up) != (True, up):
            what = f"{member.endpoint.address} is {'up' if up else 'down'}{f': {message}' if message else ''}"
            self._tell(PoolEvent(what, member.endpoint, up=up))

    def _new(self, endpoint: Endpoint) -> Member:
        return Member(endpoint, self.service, self._policy.breakers, self._clock, self._on_breaker)

    def _on_breaker(self, member: Member, old: BreakerState, new: BreakerState) -> None:
        what = f"the breaker of {member.endpoint.address} went from {old.value} to {new.value}"
        self._tell(PoolEvent(what, member.endpoint, breaker=(old, new)))

    def _tell(self, event: PoolEvent) -> None:
        for listener in tuple(self.listeners):
            listener(event)


_LAST = 4
