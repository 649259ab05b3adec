"""Which endpoint a question goes to, what its circuit breaker counts, and how many further ones are asked."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import AsyncExitStack, aclosing

import pytest

from services.corpus.errors import DeadlineExceeded, FailedPrecondition, GroundwireError, ResourceExhausted, Unavailable
from services.generation.adapters.memory import ScriptedEndpoint, Step
from services.generation.balancing import Balancing, BalancingPolicy
from services.generation.endpoint import CONSECUTIVE_FAILURES, AttemptLimits
from services.generation.generation import Attempt, Delta, Final, GenerationRequest, Generator, Reset
from services.generation.ports import Citation, Draft, Passage, Unreached
from services.resilience.breaker import BreakerState
from services.resilience.endpoints import Role

QUESTION = GenerationRequest("Is it so?", (Passage("p1", "Title", "It is so.", 0.9),))
GOOD: list[Step] = ["It is so. [1]", Draft("It is so. [1]", (Citation("[1]", "p1", 0, 9),), 0.8)]
DOWN = Unavailable("the endpoint is down")
BACKUP = Role.BACKUP


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Scripted(ScriptedEndpoint):
    """An endpoint whose script may change."""

    def plays(self, steps: Sequence[Step]) -> None:
        self._steps = tuple(steps)


class World:
    """Endpoints "a", "b", … that play ``scripts``, and a generator over them."""

    def __init__(
        self,
        *scripts: list[Step],
        balancing: Balancing = Balancing.LEAST_LOADED,
        limits: AttemptLimits | None = None,
        retries: tuple[float, int] = (1.0, 100),
        **roles: Role,
    ) -> None:
        self.clock = Clock()
        self.endpoints = [Scripted(name, script) for name, script in zip("abcd", scripts, strict=False)]
        self.changes: list[tuple[str, BreakerState, BreakerState]] = []
        self.generator = Generator(
            self.endpoints,
            self.clock,
            limits,
            policy=BalancingPolicy(roles, balancing, *retries),
            on_breaker=lambda *change: self.changes.append(change),
        )

    async def ask(self) -> str:
        """Who answers a question; "" if nobody does."""
        try:
            return (await self.generator.generate(QUESTION)).endpoint
        except Unavailable:
            return ""

    async def ask_often(self, times: int) -> str:
        return "".join([await self.ask() for _ in range(times)])

    @property
    def breakers(self) -> list[str]:
        return [status.breaker.value for status in self.generator.list_endpoints()]

    @property
    def serving(self) -> str:
        return "".join(status.name for status in self.generator.list_endpoints() if status.serving)

    @property
    def calls(self) -> list[int]:
        return [endpoint.calls for endpoint in self.endpoints]


# --- who is asked ---------------------------------------------------------------------------------------------------


async def test_primaries_take_turns_and_backups_wait() -> None:
    for balancing in Balancing:
        world = World(GOOD, GOOD, GOOD, c=BACKUP, balancing=balancing)
        assert await world.ask_often(4) == "abab"
        assert world.serving == "ab"


@pytest.mark.parametrize(("balancing", "asked"), [(Balancing.LEAST_LOADED, "bbb"), (Balancing.ROUND_ROBIN, "bab")])
async def test_a_busy_endpoint_gets_less_where_load_counts(balancing: Balancing, asked: str) -> None:
    world = World(GOOD, GOOD, balancing=balancing)
    async with AsyncExitStack() as stack:
        for _ in range(1 if balancing is Balancing.ROUND_ROBIN else 7):
            # Chosen, and not even begun: who is chosen next must know of it.
            stream = await stack.enter_async_context(aclosing(world.generator.stream(QUESTION)))
            chosen = await anext(stream)
            assert isinstance(chosen, Attempt)
            if chosen.endpoint == "b":
                await stream.aclose()
        assert await world.ask_often(3) == asked
    assert [status.in_flight for status in world.generator.list_endpoints()] == [0, 0]


async def test_backups_answer_in_their_order_while_no_primary_can() -> None:
    world = World([DOWN], GOOD, GOOD, b=BACKUP, c=BACKUP)
    assert await world.ask_often(8) == "b" * 8
    assert world.breakers == ["open", "closed", "closed"]
    assert world.calls == [CONSECUTIVE_FAILURES, 8, 0], "left alone once its breaker was open"
    assert world.serving == "b"


async def test_a_primary_that_is_back_serves_again() -> None:
    world = World([DOWN], GOOD, b=BACKUP)
    await world.ask_often(CONSECUTIVE_FAILURES)
    world.endpoints[0].plays(GOOD)
    assert await world.ask() == "b"
    world.clock.now += 5.0
    assert world.serving == "b", "one question finds out first"
    assert await world.ask_often(2) == "aa"
    assert world.serving == "a"
    assert [(name, after) for name, _, after in world.changes] == [
        ("a", BreakerState.OPEN),
        ("a", BreakerState.HALF_OPEN),
        ("a", BreakerState.CLOSED),
    ]


async def test_one_question_at_a_time_finds_out_whether_an_endpoint_is_back() -> None:
    world = World([DOWN], GOOD, b=BACKUP)
    await world.ask_often(CONSECUTIVE_FAILURES)
    gate = asyncio.Event()
    world.endpoints[0].plays([gate, *GOOD])
    world.clock.now += 5.0
    probe = asyncio.create_task(world.ask())
    await world.endpoints[0].waiting.wait()
    assert await world.ask() == "b"
    assert world.breakers[0] == "half-open"
    gate.set()
    assert await probe == "a"
    assert world.breakers[0] == "closed"


async def test_a_reader_that_leaves_gives_the_probes_place_back() -> None:
    world = World([DOWN], GOOD, b=BACKUP)
    await world.ask_often(CONSECUTIVE_FAILURES)
    world.endpoints[0].plays(GOOD)
    world.clock.now += 5.0
    async with aclosing(world.generator.stream(QUESTION)) as stream:
        assert await anext(stream) == Attempt("a", 1)
    assert world.breakers[0] == "half-open"
    assert await world.ask() == "a"
    assert world.breakers[0] == "closed"


async def test_when_no_endpoint_is_sound_all_are_asked() -> None:
    world = World([DOWN], [DOWN])
    assert await world.ask_often(CONSECUTIVE_FAILURES) == ""
    assert world.breakers == ["open", "open"]
    assert world.serving == ""
    world.endpoints[1].plays(GOOD)
    assert await world.ask() == "b"


async def test_an_endpoint_with_an_open_breaker_is_the_last_resort() -> None:
    world = World([DOWN], GOOD, b=BACKUP)
    await world.ask_often(CONSECUTIVE_FAILURES)
    world.endpoints[0].plays(GOOD)
    world.endpoints[1].plays(["It is n", DOWN])
    seen = [event async for event in world.generator.stream(QUESTION)]
    assert isinstance(seen.pop(), Final)
    assert seen == [
        Attempt("b", 1),
        Delta("It is n"),
        Reset("endpoint b failed"),
        Attempt("a", 2),
        Delta("It is so. [1]"),
    ]


# --- what counts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (Unavailable("the endpoint failed with HTTP status 503"), "open"),
        (Unreached("the connection to the endpoint failed"), "open"),
        (RuntimeError("a defect"), "open"),
        (FailedPrecondition("the endpoint refuses the request with HTTP status 400"), "closed"),
        (ResourceExhausted("the endpoint's rate limit was reached", retry_after=0.0), "closed"),
    ],
)
async def test_failures_count_that_say_something_about_the_endpoint(error: Exception, state: str) -> None:
    world = World([error])
    assert await world.ask_often(CONSECUTIVE_FAILURES) == ""
    assert world.breakers == [state]
    assert not world.generator.list_endpoints()[0].healthy


async def test_a_breaker_that_opens_is_logged_and_told(caplog: pytest.LogCaptureFixture) -> None:
    world = World([DOWN])
    with caplog.at_level(logging.WARNING, "services.generation.endpoint"):
        await world.ask_often(CONSECUTIVE_FAILURES)
    assert world.changes == [("a", BreakerState.CLOSED, BreakerState.OPEN)]
    assert caplog.messages == ["the breaker of endpoint a went from closed to open"]


async def test_an_endpoint_that_says_when_to_come_back_is_left_alone_until_then() -> None:
    world = World([ResourceExhausted("the endpoint's rate limit was reached", retry_after=7.0)], GOOD, b=BACKUP)
    assert await world.ask_often(3) == "bbb"
    assert world.calls[0] == 1
    assert (world.breakers[0], world.serving) == ("closed", "b")
    world.endpoints[0].plays(GOOD)
    world.clock.now += 7.0
    assert await world.ask() == "a"


async def test_time_outs_count_until_the_first_token_alone() -> None:
    scripts: list[tuple[list[Step], str]] = [([asyncio.Event()], "open"), (["", asyncio.Event()], "closed")]
    for steps, state in scripts:
        world = World(steps, limits=AttemptLimits(first_token=0.01, total=0.02))
        assert await world.ask_often(CONSECUTIVE_FAILURES) == ""
        assert world.breakers == [state]


async def test_cancelled_questions_never_open_a_breaker() -> None:
    world = World([asyncio.Event()])
    for _ in range(2 * CONSECUTIVE_FAILURES):
        task = asyncio.create_task(world.ask())
        await world.endpoints[0].waiting.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        world.endpoints[0].waiting.clear()
    assert world.breakers == ["closed"]
    assert world.generator.list_endpoints()[0].healthy


async def test_an_abstention_without_passages_says_nothing_about_the_server() -> None:
    world = World([DOWN])
    await world.ask_often(CONSECUTIVE_FAILURES)
    world.clock.now += 5.0
    result = await world.generator.generate(GenerationRequest("Is it so?", ()))
    assert result.abstained
    assert world.breakers == ["half-open"]


# --- how many are asked ---------------------------------------------------------------------------------------------


# Neither opens a breaker: only the budget keeps such questions from being asked everywhere.
SLOW: list[Step] = ["", DeadlineExceeded("the endpoint gave no complete answer in time")]
REFUSED = FailedPrecondition("the endpoint refuses the configured credentials")
BUSY = ResourceExhausted("the endpoint's rate limit was reached", retry_after=0.0)


async def test_further_endpoints_are_asked_within_a_budget() -> None:
    world = World(SLOW, SLOW, GOOD, b=BACKUP, c=BACKUP, retries=(0.2, 3))
    assert (await world.ask_often(100)).count("c") < 25
    assert sum(world.calls) == 100 + 20 + BalancingPolicy().floor(3)


@pytest.mark.parametrize("error", [REFUSED, BUSY, Unreached("the connection to the endpoint failed")])
async def test_behind_an_endpoint_that_did_nothing_the_next_one_is_always_asked(error: GroundwireError) -> None:
    world = World([error], GOOD, b=BACKUP, retries=(0.0, 0))
    assert await world.ask_often(50) == "b" * 50


async def test_the_budget_is_large_enough_for_every_breaker_to_open() -> None:
    world = World([DOWN], [DOWN], GOOD, b=BACKUP, c=BACKUP, retries=(0.0, 0))
    assert await world.ask_often(20) == "c" * 20
    assert world.calls == [CONSECUTIVE_FAILURES, CONSECUTIVE_FAILURES, 20]


async def test_over_the_budget_the_first_failure_is_the_answer(caplog: pytest.LogCaptureFixture) -> None:
    world = World(SLOW, GOOD, b=BACKUP, retries=(0.0, 0))
    allowed = BalancingPolicy().floor(2)
    assert await world.ask_often(allowed) == "b" * allowed
    caplog.set_level(logging.WARNING)
    with pytest.raises(Unavailable) as caught:
        await world.generator.generate(QUESTION)
    assert (caught.value.reason, caught.value.retry_after) == ("NO_ENDPOINT_ANSWERED", 1.0)
    assert caplog.messages == ["no further endpoint is asked: too many questions needed a second one lately"]
