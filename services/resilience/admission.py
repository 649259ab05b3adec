"""Which calls run now, which wait, and which are refused. Pure: a state machine with an injected clock.

Calls come in three classes. OPERATIONS never wait and are never refused. INTERACTIVE and BATCH calls have an adaptive
limit each (:mod:`services.resilience.concurrency`) and a bounded queue in which tenants have fair shares
(:mod:`services.resilience.waiting`). While interactive calls wait no call of the batch class begins, unless none runs.

Nothing is begun that would hardly end in time: a call leaves the queue unanswered as soon as less than what calls of
its kind take at present is left of its deadline, or when it has waited for the longest time that is allowed. A call is
refused on arrival if the queue would not let it begin early enough.

CoDel (RFC 8289) was considered and left out: it drops from a queue that stands, and cannot tell an overload from fifty
honest calls that came at once and will all be answered. Serving the newest first makes a standing queue harmless, and
a full one drops whoever would be served last.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from services.corpus.errors import DeadlineExceeded, ResourceExhausted
from services.resilience.concurrency import GradientLimit
from services.resilience.tickets import (
    AdmissionPolicy,
    ClassPolicy,
    ClassSnapshot,
    Outcome,
    Refusal,
    Ticket,
    TicketState,
    WorkClass,
)
from services.resilience.waiting import FairQueue

_SHORTEST_RETRY = 0.1
_LONGEST_RETRY = 30.0
# Rates are averages over about this long, in seconds.
_MEMORY = 2.0


class _Rate:
    """Events per second, the recent ones counting most."""

    def __init__(self, now: float) -> None:
        self._level = 0.0
        self._at = now

    def add(self, now: float) -> None:
        self._level = self._level * math.exp((self._at - now) / _MEMORY) + 1.0
        self._at = now

    def level(self, now: float) -> float:
        return self._level * math.exp(-max(0.0, now - self._at) / _MEMORY)

    def per_second(self, now: float) -> float:
        return self.level(now) / _MEMORY


class _Lane:
    def __init__(self, policy: ClassPolicy, weight: Callable[[str], float], now: float) -> None:
        self.policy = policy
        self.limit = GradientLimit(policy.limit, now)
        self.queue: FairQueue[Ticket] = FairQueue(weight)
        self.running: dict[str, int] = {}
        self.in_flight = 0
        self.standing_since = math.inf
        self.refused = dict.fromkeys(Refusal, 0)
        self.ended = _Rate(now)
        self.turned_away = _Rate(now)

    def newest_first(self, now: float, after: float) -> bool:
        return now - self.standing_since >= after

    def hurried(self, ticket: Ticket) -> bool:
        """Whether its deadline ends its wait, and not the longest wait that is allowed."""
        return ticket.expires < ticket.arrived + self.policy.max_wait

    def expected_wait(self, queued: int, now: float) -> float:
        """How long ``queued`` calls take to begin, in seconds; the longest wait so far while that is not known."""
        if not queued:
            return 0.0
        if self.ended.level(now) >= 1.0:
            return queued / self.ended.per_second(now)
        return now - (self.queue.oldest() or now)


def _equal(_tenant: str) -> float:
    return 1.0


class Limiter:
    """Gives out permits. ``clock`` gives monotonic seconds, ``weight`` a tenant's share, ``spread`` numbers in [0, 1).

    The spread keeps refused callers from coming back all at the same moment.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        policy: AdmissionPolicy | None = None,
        *,
        weight: Callable[[str], float] = _equal,
        spread: Callable[[], float] = lambda: 0.5,
    ) -> None:
        self._clock = clock
        self._policy = policy or AdmissionPolicy()
        self._spread = spread
        now = clock()
        self._interactive = _Lane(self._policy.interactive, weight, now)
        self._batch = _Lane(self._policy.batch, weight, now)
        self._operations = 0

    def arrive(self, work: WorkClass, tenant: str, kind: str, *, deadline: float | None = None) -> Ticket:
        """A new call, which runs, waits or is refused: see the ticket's state.

        ``kind`` names what takes about the same time each time; ``deadline`` stands on the limiter's clock.
        """
        now, at = self._clock(), math.inf if deadline is None else deadline
        ticket = Ticket(work, tenant, kind, now, at, math.inf)
        if at <= now:
            self._turn_away(ticket, Refusal.EXPIRED, now)
            return ticket
        if work is WorkClass.OPERATIONS:
            self._operations += 1
            ticket.state, ticket.began = TicketState.RUNNING, now
            return ticket
        lane = self._lane(work)
        if not lane.in_flight and not lane.queue.count:
            lane.limit.resume(now)
        # A call that need not wait is always begun, so that shorter durations are learned of.
        ticket.expires = min(now + lane.policy.max_wait, at - lane.limit.usual(kind))
        if self._is_free(lane, now):
            lane.queue.take_turn(tenant)
            self._begin(lane, ticket, now)
            return ticket
        self._enqueue(lane, ticket, now)
        self._dispatch_all(now)
        if ticket.state is TicketState.WAITING:
            self._judge(lane, ticket, now)
            # Batch calls gave way to one that may just have been refused.
            self._dispatch_all(now)
        return ticket

    def finish(self, ticket: Ticket, outcome: Outcome) -> None:
        """A running call has ended: its permit goes to whoever is next."""
        if ticket.state is not TicketState.RUNNING:
            raise ValueError(f"a call that is {ticket.state.value} cannot end")
        ticket.state = TicketState.ENDED
        if ticket.work is WorkClass.OPERATIONS:
            self._operations -= 1
            return
        now, lane = self._clock(), self._lane(ticket.work)
        if outcome is not Outcome.OTHER:
            lane.limit.observe(
                ticket.kind,
                ticket.began,
                now,
                completed=outcome is Outcome.COMPLETED,
                in_flight=lane.in_flight,
                waiting=lane.queue.count > 0,
            )
        lane.ended.add(now)
        lane.in_flight -= 1
        left = lane.running[ticket.tenant] = lane.running[ticket.tenant] - 1
        if not left:
            del lane.running[ticket.tenant]
            lane.queue.forget(ticket.tenant)
        if self._interactive.queue.count or self._batch.queue.count:
            self._dispatch_all(now)

    def leave(self, ticket: Ticket) -> None:
        """A waiting call was given up by its caller."""
        if ticket.state is TicketState.WAITING:
            self._unqueue(ticket)
            ticket.state = TicketState.ENDED
            self._dispatch_all(self._clock())

    def advance(self) -> None:
        """Time has passed: refuse those that have waited too long, and begin who may begin by now.

        Whoever lets calls wait does this about once a second, and at each ticket's ``expires``.
        """
        now = self._clock()
        for lane in (self._interactive, self._batch):
            for ticket in [ticket for ticket in lane.queue if ticket.expires <= now]:
                self._unqueue(ticket)
                self._refuse_late(ticket, now)
        self._dispatch_all(now)

    def pressure(self) -> float:
        """How much the interactive class has to do: 1 when those that wait need a second to begin.

        Below that, half of how much of the limit is used.
        """
        now, lane = self._clock(), self._interactive
        used = min(1.0, lane.in_flight / lane.limit.current(now))
        return max(0.5 * used, lane.expected_wait(lane.queue.count, now))

    def snapshot(self) -> dict[WorkClass, ClassSnapshot]:
        """Every class as it is now."""
        now = self._clock()
        counted = {
            work: ClassSnapshot(
                lane.limit.current(now),
                lane.in_flight,
                lane.queue.count,
                {reason.value: count for reason, count in lane.refused.items()},
            )
            for work, lane in ((WorkClass.INTERACTIVE, self._interactive), (WorkClass.BATCH, self._batch))
        }
        return {WorkClass.OPERATIONS: ClassSnapshot(0, self._operations, 0, {}), **counted}

    def running(self, work: WorkClass, tenant: str) -> int:
        """How many calls of a tenant run in a class."""
        return self._lane(work).running.get(tenant, 0)

    def retry_after(self, work: WorkClass) -> float:
        """Seconds after which another try of a refused call makes sense.

        It is how long those that wait need to begin, and longer in proportion to how many are turned away for each
        one that is served.
        """
        now, lane = self._clock(), self._lane(work)
        served = max(lane.ended.per_second(now), 0.5)
        backlog = (lane.queue.count + 1) / served
        overload = 1.0 + lane.turned_away.per_second(now) / served
        return min(max(backlog * overload, _SHORTEST_RETRY), _LONGEST_RETRY) * (0.8 + 0.4 * self._spread())

    def _lane(self, work: WorkClass) -> _Lane:
        return self._interactive if work is WorkClass.INTERACTIVE else self._batch

    def _judge(self, lane: _Lane, ticket: Ticket, now: float) -> None:
        """Refuse whoever makes the queue too long, and ``ticket`` if it cannot begin in time."""
        newest = lane.newest_first(now, self._policy.newest_first_after)
        if lane.queue.count > lane.policy.queue_length:
            last = lane.queue.hindmost(newest=newest)
            self._unqueue(last)
            self._turn_away(last, Refusal.QUEUE_FULL, now)
        if ticket.state is not TicketState.WAITING:
            return
        soon = now
        if not newest and lane.hurried(ticket):
            # In a fair queue nobody waits for more than their own tenant's queue times the number of tenants.
            ahead = min(lane.queue.count, lane.queue.of(ticket.tenant) * lane.queue.tenants)
            soon += lane.expected_wait(ahead, now)
        if soon >= ticket.expires:
            self._unqueue(ticket)
            self._turn_away(ticket, Refusal.TOO_LATE, now)

    def _dispatch_all(self, now: float) -> None:
        self._dispatch(self._interactive, now)
        # Even while it gives way the lower class goes on, one call at a time.
        self._dispatch(self._batch, now)

    def _dispatch(self, lane: _Lane, now: float) -> None:
        while lane.queue.count and lane.in_flight < lane.limit.current(now):
            if lane is self._batch and self._interactive.queue.count and lane.in_flight:
                return
            newest = lane.newest_first(now, self._policy.newest_first_after)
            ticket = lane.queue.pop(lane.running, newest=newest)
            self._left_queue(lane)
            # Who has not waited is begun whatever is left of its time.
            if ticket.deadline <= now or (ticket.expires <= now and ticket.arrived < now):
                self._refuse_late(ticket, now)
                continue
            self._begin(lane, ticket, now)
            _settle(ticket)

    def _is_free(self, lane: _Lane, now: float) -> bool:
        """Whether a call that comes now would pass the queue without a stop: nearly all do, and save its cost."""
        if lane.queue.count or lane.in_flight >= lane.limit.current(now):
            return False
        return lane is self._interactive or not self._interactive.queue.count or not lane.in_flight

    def _begin(self, lane: _Lane, ticket: Ticket, now: float) -> None:
        ticket.state, ticket.began = TicketState.RUNNING, now
        lane.in_flight += 1
        lane.running[ticket.tenant] = lane.running.get(ticket.tenant, 0) + 1

    def _enqueue(self, lane: _Lane, ticket: Ticket, now: float) -> None:
        if not lane.queue.count:
            lane.standing_since = now
        lane.queue.push(ticket)

    def _unqueue(self, ticket: Ticket) -> None:
        lane = self._lane(ticket.work)
        lane.queue.remove(ticket)
        self._left_queue(lane)

    def _left_queue(self, lane: _Lane) -> None:
        if not lane.queue.count:
            lane.standing_since = math.inf

    def _refuse_late(self, ticket: Ticket, now: float) -> None:
        if ticket.deadline <= now:
            reason = Refusal.EXPIRED
        elif self._lane(ticket.work).hurried(ticket):
            reason = Refusal.TOO_LATE
        else:
            reason = Refusal.WAITED_TOO_LONG
        self._turn_away(ticket, reason, now)

    def _turn_away(self, ticket: Ticket, reason: Refusal, now: float) -> None:
        ticket.state = TicketState.REFUSED
        if reason is Refusal.EXPIRED:
            ticket.refusal = DeadlineExceeded("the call's time ran out before it could begin")
        if ticket.work is not WorkClass.OPERATIONS:
            lane = self._lane(ticket.work)
            lane.turned_away.add(now)
            lane.refused[reason] += 1
            if ticket.refusal is None:
                ticket.refusal = ResourceExhausted(
                    "the service has too much to do; try again later", retry_after=self.retry_after(ticket.work)
                )
        _settle(ticket)


def _settle(ticket: Ticket) -> None:
    settled, ticket.settled = ticket.settled, None
    if settled is not None:
        settled()
