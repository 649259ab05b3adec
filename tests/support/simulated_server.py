"""A server with a few cores, simulated: calls share them equally, so that each takes longer the more there are."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from services.resilience.admission import Limiter
from services.resilience.tickets import AdmissionPolicy, Outcome, Ticket, TicketState, WorkClass
from tests.support.admission_world import Clock


@dataclass
class Tally:
    """What became of the calls that came while it counted."""

    good: int = 0
    late: int = 0
    refused: int = 0
    by_tenant: dict[str, int] = field(default_factory=dict)
    longest_limit: int = 0


class SimulatedServer:
    """Serves calls that need ``work`` seconds of one core each; with ``cores`` at 0 they never get in each other's way.

    A client with a deadline gives up when it passes, and what was begun for it goes on being worked on until then.
    """

    def __init__(self, policy: AdmissionPolicy, *, cores: int = 2, work: float = 0.1, seed: int = 1) -> None:
        self.clock = Clock()
        self.limiter = Limiter(self.clock, policy)
        self.work = work
        self._cores = cores
        self._chance = random.Random(seed)
        self._left: dict[int, tuple[Ticket, float]] = {}
        self._waiting: list[Ticket] = []

    @property
    def limit(self) -> int:
        """The limit of interactive calls now."""
        return self.limiter.snapshot()[WorkClass.INTERACTIVE].limit

    def run(
        self,
        rate: float,
        seconds: float,
        *,
        patience: float | None = 2.0,
        tenant: Callable[[int], str] = lambda _: "acme",
    ) -> Tally:
        """Calls come at random, ``rate`` of them a second; half of them have a deadline. Good ones end within it."""
        tally, end, number = Tally(), self.clock.now + seconds, 0
        coming = self.clock.now
        while self.clock.now < end:
            self._advance_to(min(coming, end), tally, patience)
            if self.clock.now >= end:
                break
            number += 1
            deadline = self.clock.now + patience if patience is not None and number % 2 else None
            ticket = self.limiter.arrive(WorkClass.INTERACTIVE, tenant(number), "m", deadline=deadline)
            self._sort_in(ticket, tally)
            coming = self.clock.now + self._chance.expovariate(rate)
            tally.longest_limit = max(tally.longest_limit, self.limit)
        return tally

    def _advance_to(self, at: float, tally: Tally, patience: float | None) -> None:
        while self.clock.now < at:
            n = len(self._left)
            speed = 1.0 if not self._cores or n <= self._cores else self._cores / n
            soonest = min((left / speed for _, left in self._left.values()), default=at)
            step = min(soonest, at - self.clock.now, 0.25)
            self.clock.now += step
            self._left = {key: (t, left - step * speed) for key, (t, left) in self._left.items()}
            self._end_some(tally, patience)
            self.limiter.advance()
            for ticket in list(self._waiting):
                if ticket.state is not TicketState.WAITING:
                    self._waiting.remove(ticket)
                    self._sort_in(ticket, tally)

    def _end_some(self, tally: Tally, patience: float | None) -> None:
        now = self.clock.now
        for key, (ticket, left) in list(self._left.items()):
            expired = ticket.deadline <= now
            if left > 1e-9 and not expired:
                continue
            del self._left[key]
            self.limiter.finish(ticket, Outcome.LATE if expired else Outcome.COMPLETED)
            if not expired and (patience is None or now - ticket.arrived <= patience):
                tally.good += 1
                tally.by_tenant[ticket.tenant] = tally.by_tenant.get(ticket.tenant, 0) + 1
            else:
                tally.late += 1

    def _sort_in(self, ticket: Ticket, tally: Tally) -> None:
        match ticket.state:
            case TicketState.RUNNING:
                self._left[id(ticket)] = (ticket, self.work * self._chance.uniform(0.7, 1.3))
            case TicketState.WAITING:
                self._waiting.append(ticket)
            case _:
                tally.refused += 1
