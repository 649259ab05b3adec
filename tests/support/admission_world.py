"""A limiter under a clock of its own, and a walk through it that checks what must always hold."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

from services.resilience.admission import Limiter
from services.resilience.concurrency import LimitPolicy
from services.resilience.tickets import AdmissionPolicy, ClassPolicy, Outcome, Ticket, TicketState, WorkClass

LIMITED = (WorkClass.INTERACTIVE, WorkClass.BATCH)
WEIGHTS = {"heavy": 4.0, "acme": 1.0, "globex": 1.0, "light": 0.5}
TENANTS = tuple(WEIGHTS)


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def policy(
    *, initial: int = 3, minimum: int = 2, maximum: int = 12, queue: int = 8, wait: float = 5.0
) -> AdmissionPolicy:
    """Small numbers, so that every bound is met often."""
    limit = LimitPolicy(initial=initial, minimum=minimum, maximum=maximum, samples=3, window=0.2, probe_after=20.0)
    return AdmissionPolicy(ClassPolicy(limit, queue, wait), ClassPolicy(limit, queue, 4 * wait))


@dataclass
class Walk:
    """Calls that come, end and are given up, with the model that says what may be true of them.

    ``steps`` counts what was done to the limiter; after each of them :meth:`check` holds.
    """

    policy: AdmissionPolicy = field(default_factory=policy)

    def __post_init__(self) -> None:
        self.clock = Clock()
        self.limiter = Limiter(self.clock, self.policy, weight=WEIGHTS.__getitem__)
        self.tickets: list[Ticket] = []
        self.operations: list[Ticket] = []
        self.steps = 0
        self.seen: Counter[str] = Counter()
        self._began: list[Ticket] = []
        self._before: dict[WorkClass, Counter[str]] = {}

    def arrive(self, work: WorkClass, tenant: str, kind: str, patience: float | None) -> None:
        """A call with ``patience`` seconds until its deadline."""
        deadline = None if patience is None else self.clock.now + patience
        self._remember()
        ticket = self.limiter.arrive(work, tenant, kind, deadline=deadline)
        if work is WorkClass.OPERATIONS:
            if patience is None or patience > 0:
                assert ticket.state is TicketState.RUNNING, "the lane of operations was blocked"
                self.operations.append(ticket)
        else:
            if ticket.state is TicketState.WAITING:
                ticket.settled = lambda: self._settled(ticket)
            elif ticket.state is TicketState.RUNNING:
                self._began.append(ticket)
            if ticket.state is not TicketState.REFUSED:
                self.tickets.append(ticket)
        self._stepped(f"{work.value} {ticket.state.value}")

    def finish(self, chosen: int, outcome: Outcome) -> None:
        """One of the running calls ends."""
        running = [ticket for ticket in (*self.tickets, *self.operations) if ticket.state is TicketState.RUNNING]
        if not running:
            return
        self._remember()
        ticket = running[chosen % len(running)]
        self.limiter.finish(ticket, outcome)
        (self.operations if ticket.work is WorkClass.OPERATIONS else self.tickets).remove(ticket)
        self._stepped("ended")

    def leave(self, chosen: int) -> None:
        """One of the waiting calls is given up."""
        waiting = [ticket for ticket in self.tickets if ticket.state is TicketState.WAITING]
        if not waiting:
            return
        self._remember()
        ticket = waiting[chosen % len(waiting)]
        self.limiter.leave(ticket)
        self.tickets.remove(ticket)
        self._stepped("left")

    def sleep(self, seconds: float) -> None:
        """Time passes, and the limiter is told."""
        self.clock.now += seconds
        self._remember()
        self.limiter.advance()
        late = [t for t in self.tickets if t.state is TicketState.WAITING and t.expires <= self.clock.now]
        assert not late, "a call waits beyond its time"
        self._stepped("slept")

    def drain(self) -> None:
        """Everybody ends: no permit may be left over, and nobody may wait for ever."""
        while any(ticket.state is TicketState.RUNNING for ticket in (*self.tickets, *self.operations)):
            self.finish(0, Outcome.COMPLETED)
        assert not self.tickets, "calls wait though nothing runs"
        for seen in self.limiter.snapshot().values():
            assert (seen.in_flight, seen.queued) == (0, 0), "a permit has leaked"

    def check(self) -> None:
        """What must always hold."""
        snapshot = self.limiter.snapshot()
        for work in LIMITED:
            mine = [ticket for ticket in self.tickets if ticket.work is work]
            bounds = self.policy.interactive if work is WorkClass.INTERACTIVE else self.policy.batch
            running = sum(ticket.state is TicketState.RUNNING for ticket in mine)
            assert snapshot[work].in_flight == running
            assert snapshot[work].queued == len(mine) - running <= bounds.queue_length
            assert bounds.limit.minimum <= snapshot[work].limit <= bounds.limit.maximum
        assert snapshot[WorkClass.OPERATIONS].in_flight == len(self.operations)
        interactive, batch = (snapshot[work] for work in LIMITED)
        # Work is never kept waiting while there is room for it.
        assert not interactive.queued or interactive.in_flight >= interactive.limit
        room = batch.in_flight < batch.limit and (not interactive.queued or not batch.in_flight)
        assert not batch.queued or not room

    def _settled(self, ticket: Ticket) -> None:
        if ticket.state is TicketState.RUNNING:
            self._began.append(ticket)
        else:
            assert ticket.state is TicketState.REFUSED
            assert ticket.refusal is not None
            self.tickets.remove(ticket)
            self.seen["refused later"] += 1

    def _remember(self) -> None:
        self._began.clear()

    def _stepped(self, what: str) -> None:
        self.seen[what] += 1
        self.steps += 1
        for place, ticket in enumerate(self._began):
            assert ticket.deadline > self.clock.now, "expired work was begun"
            assert ticket.expires > self.clock.now or ticket.arrived == self.clock.now, "work was begun too late"
            self._check_began(ticket, self._began[place:])
        self.check()

    def _check_began(self, ticket: Ticket, since: list[Ticket]) -> None:
        """``ticket`` began when those in ``since`` did not yet run: the limit allowed it, and it was its turn."""
        mine = [other for other in self.tickets if other.work is ticket.work]
        before = Counter(o.tenant for o in mine if o.state is TicketState.RUNNING and o not in since)
        assert before.total() < self.limiter.snapshot()[ticket.work].limit, "more calls run than the limit allows"
        if ticket.arrived == self.clock.now:
            return
        share = before[ticket.tenant] / WEIGHTS[ticket.tenant]
        waited = {o.tenant for o in mine if o.state is TicketState.WAITING} | {
            o.tenant for o in since if o.work is ticket.work
        }
        least = min((before[tenant] / WEIGHTS[tenant] for tenant in waited), default=share)
        assert share <= least + 1e-9, "a tenant with a smaller share was passed over"


def random_walk(seed: int, steps: int) -> Walk:
    """A walk of ``steps`` steps in phases of light load, overload and floods of one tenant."""
    chance = random.Random(seed)
    walk = Walk(policy(initial=chance.randint(1, 12), minimum=chance.randint(1, 3), queue=chance.randint(0, 12)))
    while walk.steps < steps:
        load, flood = chance.choice((0.3, 0.6, 0.9)), chance.choice((*TENANTS, None, None))
        for _ in range(chance.randint(20, 200)):
            _one_step(walk, chance, load, flood)
    walk.drain()
    return walk


def _one_step(walk: Walk, chance: random.Random, load: float, flood: str | None) -> None:
    if chance.random() < load:
        work = chance.choices((WorkClass.INTERACTIVE, WorkClass.BATCH, WorkClass.OPERATIONS), (6, 3, 1))[0]
        tenant = flood if flood is not None and chance.random() < 0.8 else chance.choice(TENANTS)
        patience = chance.choice((None, None, 10.0, 1.0, 0.2, 0.0))
        walk.arrive(work, tenant, chance.choice(("quick", "slow")), patience)
        return
    match chance.random():
        case x if x < 0.55:
            walk.finish(chance.randrange(64), chance.choices(list(Outcome), (8, 1, 1))[0])
        case x if x < 0.65:
            walk.leave(chance.randrange(64))
        case _:
            walk.sleep(chance.choice((0.0, 0.01, 0.05, 0.3, 3.0)))
