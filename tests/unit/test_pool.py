"""Which endpoint a call goes to."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from services.resilience.breaker import BreakerPolicy, BreakerState
from services.resilience.endpoints import Endpoint, Member, MethodClass, Role
from services.resilience.health import ServiceHealth
from services.resilience.pool import Pool, PoolEvent, PoolPolicy

READ = MethodClass.READ
A, B = Endpoint("a:1"), Endpoint("b:1")
BACKUP = Endpoint("c:1", Role.BACKUP)


class World:
    """A pool with a clock of its own, and what it told."""

    def __init__(self, *endpoints: Endpoint, zone: str = "") -> None:
        self.time = 0.0
        self.pool = Pool(
            "retrieval",
            endpoints,
            policy=PoolPolicy(proving=2.0, breakers=BreakerPolicy(consecutive=2, open_for=1.0)),
            zone=zone,
            clock=lambda: self.time,
            now=lambda: datetime(2026, 1, 2, tzinfo=UTC),
        )
        self.events: list[PoolEvent] = []
        self.pool.listeners.append(self.events.append)

    def member(self, endpoint: Endpoint) -> Member:
        return next(member for member in self.pool.members if member.endpoint == endpoint)

    def all_up(self) -> None:
        for member in self.pool.members:
            self.pool.heard(member, up=True)

    def ranked(self, *tried: Endpoint) -> list[Endpoint]:
        return [m.endpoint for m in self.pool.ranked(READ, [self.member(each) for each in tried])]

    def standing(self) -> tuple[ServiceHealth, str]:
        return self.pool.status, self.pool.problem

    def fail(self, endpoint: Endpoint, times: int = 1) -> None:
        for _ in range(times):
            permit = self.member(endpoint).breaker(READ).acquire()
            assert permit is not None
            permit.fail(0.1)


def test_what_is_not_known_yet_is_tried() -> None:
    world = World(A, BACKUP)
    assert world.ranked() == [A, BACKUP]
    assert not world.pool.is_up, "but nobody has said that it is ready"


def test_equals_take_turns() -> None:
    world = World(A, B)
    world.pool.take_turn(world.member(A))
    assert world.ranked() == [B, A]
    world.pool.take_turn(world.member(B))
    assert world.ranked() == [A, B]


def test_the_one_with_fewer_calls_comes_first() -> None:
    world = World(A, B)
    world.member(A).in_flight = 2
    world.member(B).in_flight = 1
    assert world.ranked() == [B, A]


def test_who_was_tried_comes_after_the_others() -> None:
    world = World(A, B, BACKUP)
    world.all_up()
    assert world.ranked(A) == [B, BACKUP, A]
    world.pool.heard(world.member(B), up=False)
    world.pool.heard(world.member(BACKUP), up=False)
    assert world.ranked(A)[0] == A, "but before those that are down"


def test_backups_serve_while_no_primary_can_and_no_longer_than_that() -> None:
    world = World(A, BACKUP)
    world.all_up()
    assert world.ranked()[0] == A
    world.pool.heard(world.member(A), up=False, alive=False, message="nothing answers there")
    assert world.ranked() == [BACKUP, A]
    assert world.standing() == (ServiceHealth.DEGRADED, "retrieval: a:1 is down")
    world.pool.heard(world.member(A), up=True)
    assert world.ranked()[0] == BACKUP, "it has to prove itself first"
    world.time += 1.9
    world.pool.heard(world.member(A), up=False)
    world.pool.heard(world.member(A), up=True)
    world.time += 1.9
    assert world.ranked()[0] == BACKUP, "from the beginning, when it was down again"
    world.time += 0.1
    assert world.ranked()[0] == A
    assert world.standing() == (ServiceHealth.HEALTHY, "")


def test_a_primary_that_proves_itself_serves_when_nobody_else_can() -> None:
    world = World(A, BACKUP)
    world.all_up()
    world.pool.heard(world.member(A), up=False)
    world.pool.heard(world.member(BACKUP), up=False)
    world.pool.heard(world.member(A), up=True)
    assert world.ranked()[0] == A


def test_when_nobody_looks_well_everybody_is_tried() -> None:
    world = World(A, B)
    for member in world.pool.members:
        world.pool.heard(member, up=False, alive=False)
    assert sorted(each.address for each in world.ranked()) == ["a:1", "b:1"]
    assert world.pool.status is ServiceHealth.DEGRADED
    assert world.pool.problem == "retrieval does not answer"


def test_who_was_never_down_has_nothing_to_prove() -> None:
    world = World(A, BACKUP)
    world.all_up()
    assert world.ranked()[0] == A


def test_the_own_zone_comes_first() -> None:
    near, far = Endpoint("n:1", zone="eu-1"), Endpoint("f:1", zone="eu-2")
    world = World(far, near, Endpoint("b:1", Role.BACKUP, "eu-1"), zone="eu-1")
    world.all_up()
    world.member(near).in_flight = 5
    assert world.ranked()[:2] == [near, far], "before load, and after role"
    world.pool.heard(world.member(near), up=False)
    assert world.ranked()[0] == far


def test_an_open_breaker_sends_calls_elsewhere_and_probes_bring_them_back() -> None:
    world = World(A, B)
    world.all_up()
    world.fail(A, 2)
    assert world.ranked()[0] == B
    assert world.pool.status is ServiceHealth.DEGRADED
    assert world.events[-1].breaker == (BreakerState.CLOSED, BreakerState.OPEN)
    world.time += 1.0
    world.pool.take_turn(world.member(B))
    assert world.ranked()[0] == A, "its probes are calls like any other"


def test_an_open_breaker_that_nobody_asks_is_no_problem_for_ever() -> None:
    world = World(A)
    world.all_up()
    world.fail(A, 2)
    assert world.standing() == (ServiceHealth.DEGRADED, "retrieval: a:1 is down")
    world.time += 1.0
    assert world.standing() == (ServiceHealth.HEALTHY, "")
    assert world.pool.statuses()[0].breaker is BreakerState.HALF_OPEN


def test_breakers_of_reads_and_writes_are_apart() -> None:
    world = World(A, B)
    world.all_up()
    world.fail(A, 2)
    assert world.pool.sound(world.member(A), MethodClass.WRITE)
    assert not world.pool.sound(world.member(A), READ)


def test_one_missed_heartbeat_is_enough_where_there_is_somebody_else() -> None:
    world = World(A, B)
    world.all_up()
    given_up: list[str] = []
    world.member(A).abandon.add(lambda: given_up.append("call"))
    world.pool.missed(world.member(A))
    assert not world.member(A).up
    assert given_up == ["call"]
    assert world.pool.statuses()[0].health.error_message == "it does not answer in time"
    assert not world.pool.statuses()[0].alive


def test_an_only_endpoint_may_miss_a_few_and_keeps_its_calls() -> None:
    world = World(A)
    world.all_up()
    given_up: list[str] = []
    world.member(A).abandon.add(lambda: given_up.append("call"))
    for _ in range(2):
        world.pool.missed(world.member(A))
    assert world.member(A).up
    world.pool.missed(world.member(A))
    assert not world.member(A).up
    assert not given_up, "there is nowhere else to go"
    world.pool.heard(world.member(A), up=True)
    world.pool.missed(world.member(A))
    assert world.member(A).up, "it starts to count again"


def test_changes_are_told_once() -> None:
    world = World(A)
    for up in (True, True, False, False, True):
        world.pool.heard(world.member(A), up=up, message="" if up else "gone")
    assert [event.what for event in world.events] == ["a:1 is up", "a:1 is down: gone", "a:1 is up"]


def test_what_is_known_of_endpoints_that_stay_is_kept() -> None:
    world = World(A, B)
    world.pool.heard(world.member(A), up=False)
    world.events.clear()
    world.pool.replace([A, BACKUP])
    assert not world.member(A).up
    assert [member.endpoint for member in world.pool.members] == [A, BACKUP]
    world.pool.replace([A, BACKUP])
    assert len(world.events) == 1, "the same endpoints are no change"


def test_who_serves_now() -> None:
    world = World(A, B, BACKUP)
    world.all_up()
    assert [status.serving for status in world.pool.statuses()] == [True, True, False]
    world.pool.heard(world.member(A), up=False)
    assert [status.serving for status in world.pool.statuses()] == [False, True, False]
    world.pool.heard(world.member(B), up=False)
    assert [status.serving for status in world.pool.statuses()] == [False, False, True]


@pytest.mark.parametrize("kind", list(MethodClass))
def test_every_class_has_a_breaker(kind: MethodClass) -> None:
    assert World(A).member(A).breaker(kind).state is BreakerState.CLOSED
