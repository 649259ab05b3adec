"""Who runs, who waits, who is refused and why; and what the limit does on servers of two kinds."""

from __future__ import annotations

import pytest

from services.corpus.errors import DeadlineExceeded, ResourceExhausted
from services.resilience.admission import Limiter
from services.resilience.concurrency import LimitPolicy
from services.resilience.tickets import AdmissionPolicy, ClassPolicy, Outcome, Ticket, TicketState, WorkClass
from tests.support.admission_world import Clock
from tests.support.simulated_server import SimulatedServer

INTERACTIVE, BATCH, OPERATIONS = WorkClass.INTERACTIVE, WorkClass.BATCH, WorkClass.OPERATIONS


def fixed(limit: int, *, queue: int = 100, wait: float = 10.0, newest_after: float = 1e9) -> AdmissionPolicy:
    """A limit that does not move."""
    bounds = LimitPolicy(initial=limit, minimum=limit, maximum=limit)
    return AdmissionPolicy(ClassPolicy(bounds, queue, wait), ClassPolicy(bounds, queue, wait), newest_after)


class Desk:
    """A limiter with a fixed limit, and names for its calls."""

    def __init__(self, policy: AdmissionPolicy, weights: dict[str, float] | None = None) -> None:
        self.clock = Clock()
        self.limiter = Limiter(self.clock, policy, weight=lambda tenant: (weights or {}).get(tenant, 1.0))
        self.calls: dict[str, Ticket] = {}

    def come(self, *names: str, work: WorkClass = INTERACTIVE, patience: float | None = None) -> None:
        """Calls arrive; a name's first letter is its tenant."""
        for name in names:
            deadline = None if patience is None else self.clock.now + patience
            self.calls[name] = self.limiter.arrive(work, name[0], "m", deadline=deadline)

    def end(self, *names: str, outcome: Outcome = Outcome.COMPLETED) -> None:
        for name in names:
            self.limiter.finish(self.calls.pop(name), outcome)

    def named(self, state: TicketState) -> list[str]:
        return [name for name, ticket in self.calls.items() if ticket.state is state]

    @property
    def running(self) -> list[str]:
        return self.named(TicketState.RUNNING)

    @property
    def waiting(self) -> list[str]:
        return self.named(TicketState.WAITING)

    def refusal(self, name: str) -> Exception | None:
        return self.calls[name].refusal


# --- who is next ----------------------------------------------------------------------------------------------------


def test_calls_run_up_to_the_limit_and_the_first_that_waits_is_the_next() -> None:
    desk = Desk(fixed(2))
    desk.come("a1", "a2", "a3", "a4")
    assert (desk.running, desk.waiting) == (["a1", "a2"], ["a3", "a4"])
    desk.end("a1")
    assert (desk.running, desk.waiting) == (["a2", "a3"], ["a4"])


def test_a_queue_that_stands_serves_the_newest_first() -> None:
    desk = Desk(fixed(1, newest_after=1.0))
    desk.come("a1", "a2", "a3")
    desk.clock.now += 1.0
    desk.end("a1")
    assert desk.running == ["a3"]
    desk.end("a3")
    assert desk.running == ["a2"]
    desk.come("a4", "a5")
    desk.end("a2")
    assert desk.running == ["a4"], "a queue that was empty meanwhile is in order again"


def test_a_tenant_that_floods_does_not_hold_up_another() -> None:
    desk = Desk(fixed(2))
    desk.come(*(f"a{i}" for i in range(20)), "b1", "b2")
    desk.end("a0")
    assert desk.running == ["a1", "b1"]
    desk.end("a1")
    assert desk.running == ["a2", "b1"], "each has one of the two permits"
    desk.end("b1")
    assert desk.running == ["a2", "b2"]


def test_with_a_single_permit_tenants_take_turns() -> None:
    desk, order = Desk(fixed(1)), []
    desk.come("a0", "a1", "a2", "a3", "b1", "b2")
    while desk.running:
        order += desk.running
        desk.end(*desk.running)
    assert order == ["a0", "b1", "a1", "b2", "a2", "a3"]


def test_shares_follow_the_weights() -> None:
    desk = Desk(fixed(4), weights={"a": 3.0})
    desk.come(*(f"b{i}" for i in range(8)), *(f"a{i}" for i in range(8)))
    for _ in range(4):
        desk.end(next(name for name in desk.running if name[0] == "b"))
        if len([name for name in desk.running if name[0] == "b"]) == 1:
            break
    assert sorted(name[0] for name in desk.running) == ["a", "a", "a", "b"]


@pytest.mark.parametrize(("newest_after", "refused"), [(1e9, "a3"), (0.0, "a1")])
def test_a_full_queue_turns_away_who_would_be_served_last(newest_after: float, refused: str) -> None:
    desk = Desk(fixed(1, queue=2, newest_after=newest_after))
    desk.come("a0", "a1", "a2", "a3")
    assert isinstance(desk.refusal(refused), ResourceExhausted)
    assert len(desk.waiting) == 2


def test_a_full_queue_turns_away_the_tenant_that_fills_it() -> None:
    desk = Desk(fixed(1, queue=3))
    desk.come("a0", "a1", "a2", "a3", "b1")
    assert desk.waiting == ["a1", "a2", "b1"]
    assert isinstance(desk.refusal("a3"), ResourceExhausted)


# --- classes --------------------------------------------------------------------------------------------------------


def test_operations_never_wait() -> None:
    desk = Desk(fixed(1, queue=0))
    desk.come("a1")
    desk.come(*(f"o{i}" for i in range(1000)), work=OPERATIONS)
    assert len(desk.running) == 1001
    assert desk.limiter.snapshot()[OPERATIONS].in_flight == 1000
    desk.end(*(f"o{i}" for i in range(1000)))
    assert desk.limiter.snapshot()[OPERATIONS].in_flight == 0


def test_batch_work_gives_way_to_interactive_work_that_waits_but_never_stops() -> None:
    desk = Desk(fixed(2))
    desk.come("a1", "a2", "a3", work=INTERACTIVE)
    desk.come("b1", "b2", work=BATCH)
    assert desk.running == ["a1", "a2", "b1"], "one batch call runs although a3 waits"
    desk.end("a1")
    assert desk.running == ["a2", "a3", "b1", "b2"]


# --- time -----------------------------------------------------------------------------------------------------------


def test_whoever_has_waited_for_too_long_is_refused() -> None:
    desk = Desk(fixed(1, wait=3.0))
    desk.come("a1", "a2")
    desk.clock.now += 3.0
    desk.limiter.advance()
    assert isinstance(desk.refusal("a2"), ResourceExhausted)
    assert desk.limiter.snapshot()[INTERACTIVE].refused["waited_too_long"] == 1


def test_expired_work_is_never_begun() -> None:
    desk = Desk(fixed(1))
    desk.come("a1")
    desk.come("a2", patience=1.0)
    desk.come("a3", patience=0.0)
    assert isinstance(desk.refusal("a3"), DeadlineExceeded)
    desk.clock.now += 1.0
    desk.end("a1")
    assert isinstance(desk.refusal("a2"), DeadlineExceeded)
    assert not desk.running


def test_work_that_cannot_end_in_time_is_not_begun() -> None:
    desk = Desk(fixed(1))
    desk.come("a1")
    desk.clock.now += 0.5
    desk.end("a1")  # half a second is what such a call takes
    desk.come("a2")
    desk.come("a3", patience=1.0)
    desk.clock.now += 0.6
    desk.end("a2")
    assert isinstance(desk.refusal("a3"), ResourceExhausted)
    assert not desk.running


def test_a_call_that_cannot_begin_in_time_is_refused_at_once() -> None:
    desk = Desk(fixed(1))
    for i in range(10):
        desk.come(f"a{i}")
        desk.clock.now += 1.0
        desk.end(f"a{i}")
    desk.come("b1", "b2", "b3", "b4")
    desk.come("b5", patience=2.0)
    assert isinstance(desk.refusal("b5"), ResourceExhausted)
    assert desk.limiter.snapshot()[INTERACTIVE].refused["too_late"] == 1
    desk.come("b6", patience=30.0)
    assert "b6" in desk.waiting


def test_a_call_that_need_not_wait_is_begun_however_little_time_is_left() -> None:
    # Otherwise nobody would ever learn that such calls have become quicker.
    desk = Desk(fixed(1))
    desk.come("a1")
    desk.clock.now += 5.0
    desk.end("a1")
    desk.come("a2", patience=0.1)
    assert desk.running == ["a2"]


def test_a_call_that_is_given_up_leaves_the_queue_at_once() -> None:
    desk = Desk(fixed(1))
    desk.come("a1", "a2", "a3")
    desk.limiter.leave(desk.calls["a2"])
    desk.end("a1")
    assert desk.running == ["a3"]
    desk.limiter.leave(desk.calls["a2"])  # once more changes nothing
    assert desk.limiter.snapshot()[INTERACTIVE].queued == 0


def test_a_permit_is_given_back_once() -> None:
    desk = Desk(fixed(1))
    desk.come("a1")
    ticket = desk.calls["a1"]
    desk.end("a1")
    with pytest.raises(ValueError, match="cannot end"):
        desk.limiter.finish(ticket, Outcome.COMPLETED)


# --- what refused callers are told ----------------------------------------------------------------------------------


def test_the_longer_the_queue_and_the_more_are_refused_the_later_they_are_told_to_come_back() -> None:
    told = []
    for queue in (1, 10, 40):
        desk = Desk(fixed(1, queue=queue))
        for i in range(10):
            desk.come(f"a{i}")
            desk.clock.now += 0.1
            desk.end(f"a{i}")
        desk.come(*(f"b{i}" for i in range(queue + 1)))
        told.append(desk.limiter.retry_after(INTERACTIVE))
        desk.come(*(f"c{i}" for i in range(10)))
        told.append(desk.limiter.retry_after(INTERACTIVE))
    assert told == sorted(told)
    assert told[0] < told[-1] <= 36.0


def test_pressure_is_the_time_that_those_who_wait_need_to_begin() -> None:
    desk = Desk(fixed(2))
    assert desk.limiter.pressure() == 0.0
    desk.come("a1")
    assert desk.limiter.pressure() == 0.25
    desk.come("a2", "a3")
    assert desk.limiter.pressure() == 0.5
    desk.clock.now += 3.0
    assert desk.limiter.pressure() == 3.0, "nothing has ended yet: a3 has waited for three seconds"


# --- the limit ------------------------------------------------------------------------------------------------------

CAPACITY = 20.0  # of two cores at a tenth of a second a call


def adaptive(initial: int) -> AdmissionPolicy:
    return AdmissionPolicy(interactive=ClassPolicy(LimitPolicy(initial=initial)))


def test_five_times_what_the_server_can_do_leaves_it_doing_what_it_can() -> None:
    server = SimulatedServer(adaptive(8))
    server.run(CAPACITY / 2, 20)
    overload = server.run(5 * CAPACITY, 60)
    assert overload.good >= 0.9 * CAPACITY * 60
    assert overload.refused > 3 * CAPACITY * 60
    server.run(CAPACITY / 2, 10)  # whoever still waited is answered, or has waited long enough
    after = server.run(CAPACITY / 2, 20)
    assert after.refused == 0
    assert after.good >= 0.9 * CAPACITY / 2 * 20


@pytest.mark.parametrize("seconds", [400, pytest.param(7200, marks=pytest.mark.long)])
def test_an_overload_does_not_become_normal(seconds: int) -> None:
    server = SimulatedServer(adaptive(8))
    server.run(CAPACITY / 2, 20)
    overload = server.run(2 * CAPACITY, seconds)
    assert overload.good >= 0.9 * CAPACITY * seconds
    assert overload.longest_limit <= 24


def test_a_server_that_is_overloaded_from_its_start_finds_its_limit() -> None:
    server = SimulatedServer(adaptive(128))
    server.run(5 * CAPACITY, 60)
    assert server.limit <= 32
    assert server.run(5 * CAPACITY, 30).good >= 0.9 * CAPACITY * 30


def test_calls_that_wait_for_others_run_side_by_side() -> None:
    server = SimulatedServer(adaptive(32), cores=0, work=2.0)
    server.run(50, 60, patience=None)
    assert server.run(50, 10, patience=None).refused == 0, "100 at a time do not hinder each other"


def test_a_remote_model_that_becomes_slower_does_not_close_the_door() -> None:
    server = SimulatedServer(adaptive(64), cores=0, work=2.0)
    server.run(30, 30, patience=None)
    server.work = 6.0
    server.run(30, 180, patience=None)
    settled = server.run(30, 20, patience=None)
    assert settled.good >= 0.9 * 30 * 20
    assert settled.refused == 0


def test_fifty_at_once_are_all_answered_and_come_back_to_the_same_room() -> None:
    server = SimulatedServer(adaptive(8))
    burst = server.run(5_000, 0.01, patience=None)
    rest = server.run(0.001, 20, patience=None)
    assert burst.refused + rest.refused == 0
    assert burst.good + rest.good >= 30
    server.run(1.0, 40)
    assert server.limit >= 7, "it has come back, but for a rest that nobody sees"


def test_a_flood_of_one_tenant_leaves_the_other_its_share() -> None:
    server = SimulatedServer(adaptive(8))
    server.run(CAPACITY / 2, 20)
    overload = server.run(5 * CAPACITY, 60, tenant=lambda number: "small" if number % 20 == 0 else "flood")
    assert overload.by_tenant["small"] >= 0.9 * 5 * CAPACITY / 20 * 60, "it asks for a quarter of the capacity"
