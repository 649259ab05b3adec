"""An operation is done elsewhere when it fails, where that is safe, and within its bounds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from services.resilience.breaker import BreakerPolicy, BreakerState
from services.resilience.endpoints import Endpoint, Member, MethodClass, Role
from services.resilience.failover import FailoverPolicy, HighAvailability, Repeat, Verdict
from services.resilience.health import HealthCheck
from services.resilience.pool import Pool, PoolPolicy

READ, WRITE, ONCE = MethodClass.READ, MethodClass.WRITE, MethodClass.ONCE
A, B = Endpoint("a:1"), Endpoint("b:1", Role.BACKUP)


SAFE = Verdict(counts=True, repeat=Repeat.SAFE)


@dataclass(eq=False)
class Broken(Exception):
    verdict: Verdict = SAFE


UNREACHED = Verdict(counts=True, repeat=Repeat.ALWAYS, unreached=True)


class World:
    """Endpoints that answer as they are told, and a record of who was asked."""

    def __init__(self, *endpoints: Endpoint, **policy: float) -> None:
        self.pool = Pool(
            "retrieval", endpoints, policy=PoolPolicy(proving=0.0, breakers=BreakerPolicy(consecutive=3, open_for=30.0))
        )
        for member in self.pool.members:
            self.pool.heard(member, up=True)
        settings: dict[str, float] = {"backoff": 0.001, "longest_backoff": 0.002, "patience": 0.2, **policy}
        self.layer = HighAvailability(
            [self.pool],
            lambda error: error.verdict if isinstance(error, Broken) else Verdict(counts=False, repeat=Repeat.NEVER),
            policy=FailoverPolicy(**settings),  # type: ignore[arg-type] # some of its fields are whole numbers
            jitter=lambda: 1.0,
        )
        self.asked: list[str] = []
        self.answers: dict[str, Callable[[], Awaitable[str]]] = {}

    def answer(self, endpoint: Endpoint, *steps: Exception | str) -> None:
        """Answer with ``steps`` one after another, the last one for ever."""
        left = list(steps)

        async def step() -> str:
            found = left.pop(0) if len(left) > 1 else left[0]
            if isinstance(found, Exception):
                raise found
            return found

        self.answers[endpoint.address] = step

    async def operation(self, endpoint: Endpoint) -> str:
        self.asked.append(endpoint.address)
        return await self.answers[endpoint.address]()

    async def call(self, method: MethodClass = READ, **options: float | None) -> str:
        left = options.get("left")
        return await self.layer.execute_with_failover(
            "retrieval", self.operation, method=method, name="m", remaining=lambda: left
        )

    def member(self, endpoint: Endpoint) -> Member:
        return next(member for member in self.pool.members if member.endpoint == endpoint)


async def test_the_primary_answers() -> None:
    world = World(A, B)
    world.answer(A, "yes")
    assert await world.call() == "yes"
    assert world.asked == ["a:1"]
    assert world.member(A).in_flight == 0


@pytest.mark.parametrize("method", [READ, WRITE])
async def test_what_may_be_repeated_goes_to_the_backup(method: MethodClass) -> None:
    world = World(A, B)
    world.answer(A, Broken())
    world.answer(B, "yes")
    assert await world.call(method) == "yes"
    assert world.asked == ["a:1", "b:1"]
    assert world.layer.counts("retrieval").retries == 1


async def test_what_may_be_done_once_is_done_once() -> None:
    world = World(A, B)
    world.answer(A, Broken())
    with pytest.raises(Broken):
        await world.call(ONCE)
    assert world.asked == ["a:1"]


async def test_what_never_reached_a_server_is_always_repeated() -> None:
    world = World(A, B)
    world.answer(A, Broken(UNREACHED))
    world.answer(B, "yes")
    assert await world.call(ONCE) == "yes"
    assert world.layer.counts("retrieval").retries == 0, "and costs no budget"


async def test_an_error_that_is_the_callers_own_is_not_repeated() -> None:
    world = World(A, B)
    world.answer(A, ValueError("a wrong field"))
    with pytest.raises(ValueError, match="wrong field"):
        await world.call()
    assert world.asked == ["a:1"]
    assert world.member(A).breaker_state is BreakerState.CLOSED


async def test_who_tried_everything_itself_is_not_asked_again() -> None:
    elsewhere = Verdict(counts=True, repeat=Repeat.ELSEWHERE)
    alone = World(A)
    alone.answer(A, Broken(elsewhere))
    with pytest.raises(Broken):
        await alone.call()
    assert alone.asked == ["a:1"]
    both = World(A, B)
    both.answer(A, Broken(elsewhere))
    both.answer(B, Broken(elsewhere))
    with pytest.raises(Broken):
        await both.call()
    assert both.asked == ["a:1", "b:1"]


async def test_attempts_are_bounded() -> None:
    world = World(A, attempts=4, retry_floor=100)
    world.answer(A, Broken())
    with pytest.raises(Broken):
        await world.call()
    assert len(world.asked) == 4


async def test_retries_of_all_calls_are_bounded() -> None:
    world = World(A, attempts=10, retry_floor=3, retry_ratio=0.2)
    world.answer(A, Broken())
    for _ in range(20):
        with pytest.raises(Broken):
            await world.call()
    counts = world.layer.counts("retrieval")
    assert counts.retries == 3 + 4, "a floor of three, and a fifth of twenty"
    assert len(world.asked) == counts.calls + counts.retries
    assert counts.over_budget > 0


async def test_no_retry_begins_after_the_deadline() -> None:
    world = World(A, backoff=10.0, longest_backoff=10.0)
    world.answer(A, Broken(), "late")
    with pytest.raises(Broken):
        await world.call(left=5.0)
    assert len(world.asked) == 1


async def test_a_call_waits_for_an_endpoint_to_come_back() -> None:
    world = World(A, patience=30.0, backoff=20.0, longest_backoff=20.0)
    world.answer(A, Broken(UNREACHED), "yes")
    calling = asyncio.create_task(world.call())
    while not world.asked:
        await asyncio.sleep(0)
    world.pool.heard(world.member(A), up=False)
    world.pool.heard(world.member(A), up=True)
    assert await calling == "yes", "its news end the pause"


async def test_and_gives_up_when_patience_ends() -> None:
    world = World(A, patience=0.02)
    world.answer(A, Broken(UNREACHED))
    with pytest.raises(Broken):
        await world.call()
    assert len(world.asked) > 1


async def test_pushback_is_waited_for_where_there_is_nobody_else() -> None:
    world = World(A, B)
    pushed = Broken(Verdict(counts=True, repeat=Repeat.SAFE, pushback=30.0))
    world.answer(A, pushed)
    world.answer(B, "yes")
    assert await world.call() == "yes"
    alone = World(A)
    alone.answer(A, pushed)
    with pytest.raises(Broken):
        await alone.call(left=20.0)


async def test_when_all_look_bad_they_are_tried() -> None:
    world = World(A, B)
    for member in world.pool.members:
        world.pool.heard(member, up=False)
    world.answer(A, Broken())
    world.answer(B, "yes")
    assert await world.call() == "yes"


async def test_an_open_breaker_is_not_asked_while_there_is_somebody_else() -> None:
    world = World(A, B, retry_floor=100)
    world.answer(A, Broken())
    world.answer(B, "yes")
    for _ in range(3):
        assert await world.call() == "yes"
    assert world.member(A).breaker_state is BreakerState.OPEN
    world.asked.clear()
    assert await world.call() == "yes"
    assert world.asked == ["b:1"]


async def test_a_caller_who_goes_away_says_nothing_about_the_endpoint() -> None:
    world = World(A)
    never = asyncio.Event()

    async def hang() -> str:
        await never.wait()
        return ""

    world.answers["a:1"] = hang
    for _ in range(10):
        calling = asyncio.create_task(world.call())
        while not world.member(A).in_flight:
            await asyncio.sleep(0)
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
    assert world.member(A).breaker_state is BreakerState.CLOSED
    assert world.member(A).in_flight == 0
    assert not world.member(A).abandon


async def test_calls_to_a_frozen_endpoint_go_elsewhere() -> None:
    world = World(A, B)
    never = asyncio.Event()

    async def hang() -> str:
        await never.wait()
        return ""

    world.answers["a:1"] = hang
    world.answer(B, "yes")
    calling = asyncio.create_task(world.call())
    while not world.member(A).in_flight:
        await asyncio.sleep(0)
    world.pool.missed(world.member(A))
    assert await calling == "yes"
    assert world.layer.counts("retrieval").abandoned == 1


async def test_a_call_that_may_be_done_once_stays_with_a_frozen_endpoint() -> None:
    world = World(A, B)
    go = asyncio.Event()

    async def slow() -> str:
        await go.wait()
        return "after all"

    world.answers["a:1"] = slow
    calling = asyncio.create_task(world.call(ONCE))
    while not world.member(A).in_flight:
        await asyncio.sleep(0)
    world.pool.missed(world.member(A))
    go.set()
    assert await calling == "after all"


class Hedging(World):
    """A world whose reads have a usual latency."""

    def __init__(self, **policy: float) -> None:
        super().__init__(A, B, least_hedge_delay=0.001, **policy)
        self.cancelled: list[str] = []

    async def warm(self) -> None:
        self.answer(A, "usual")
        for _ in range(30):
            await self.call()
        self.asked.clear()

    def hang(self, endpoint: Endpoint) -> None:
        async def hanging() -> str:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled.append(endpoint.address)
                raise
            return ""

        self.answers[endpoint.address] = hanging

    async def was_asked(self, endpoint: Endpoint) -> None:
        while endpoint.address not in self.asked:
            await asyncio.sleep(0)


async def test_a_read_that_takes_longer_than_usual_is_hedged() -> None:
    world = Hedging()
    await world.warm()
    world.hang(A)
    world.answer(B, "faster")
    assert await world.call() == "faster"
    assert world.asked == ["a:1", "b:1"]
    assert world.cancelled == ["a:1"], "the loser is cancelled"
    assert world.member(A).breaker_state is BreakerState.CLOSED, "and not blamed"
    counts = world.layer.counts("retrieval")
    assert (counts.hedges, counts.hedges_won) == (1, 1)


async def test_writes_are_not_hedged() -> None:
    world = Hedging()
    await world.warm()
    go = asyncio.Event()

    async def slow() -> str:
        await go.wait()
        return "slow"

    world.answers["a:1"] = slow
    world.answer(B, "faster")
    calling = asyncio.create_task(world.call(WRITE))
    while world.asked != ["a:1"]:
        await asyncio.sleep(0)
    assert await world.call() == "faster", "a read that begins later is hedged"
    assert sorted(world.asked) == ["a:1", "a:1", "b:1"]
    go.set()
    assert await calling == "slow"


async def test_hedges_have_a_budget() -> None:
    world = Hedging(hedge_ratio=0.1, hedge_floor=1)
    await world.warm()
    world.answer(B, "faster")

    async def slow() -> str:
        await asyncio.sleep(0.02)
        return "slow"

    world.answers["a:1"] = slow
    answers = [await world.call() for _ in range(20)]
    counts = world.layer.counts("retrieval")
    assert answers.count("faster") == counts.hedges_won
    assert 1 <= counts.hedges <= 1 + 0.1 * counts.calls


async def test_a_hedge_that_fails_does_not_hurt() -> None:
    world = Hedging()
    await world.warm()
    world.answer(B, Broken())

    async def slow() -> str:
        await world.was_asked(B)
        return "slow"

    world.answers["a:1"] = slow
    assert await world.call() == "slow"


async def test_both_fail_and_the_call_is_repeated_or_fails() -> None:
    world = Hedging(attempts=1)
    await world.warm()

    async def slowly() -> str:
        await world.was_asked(B)
        raise Broken

    world.answers["a:1"] = slowly
    world.answer(B, Broken())
    with pytest.raises(Broken):
        await world.call()


async def test_everybody_is_asked_at_the_same_time_and_one_failure_hides_nobody() -> None:
    pools = [Pool("retrieval", [A, B]), Pool("audit", [Endpoint("c:1")])]
    together = asyncio.Barrier(3)

    async def probe(pool: Pool, member: Member) -> HealthCheck:
        await together.wait()
        if member.endpoint == A:
            raise RuntimeError("a defect")
        pool.heard(member, up=True)
        return member.health(datetime.now(UTC))

    layer = HighAvailability(pools, lambda _: UNREACHED, probe=probe)
    checks = await layer.health_check_all_services()
    assert [(check.service_name, check.status.value) for check in checks] == [
        ("retrieval", "unhealthy"),
        ("retrieval", "healthy"),
        ("audit", "healthy"),
    ]


async def test_without_endpoints() -> None:
    world = World()
    with pytest.raises(LookupError, match="no endpoints"):
        await world.call()
