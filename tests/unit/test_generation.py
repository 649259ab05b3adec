"""The generator: failover without mixing, limits, confidence, status, cancellation."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from services.corpus.errors import FailedPrecondition, ResourceExhausted, Unavailable
from services.generation.adapters.memory import ScriptedEndpoint, Step
from services.generation.endpoint import AttemptLimits
from services.generation.generation import (
    LOW_CONFIDENCE,
    Attempt,
    Delta,
    Final,
    GenerationEvent,
    GenerationRequest,
    GenerationResult,
    Generator,
    Reset,
)
from services.generation.ports import ABSTENTION, Citation, Draft, Passage, Usage, abstention

PASSAGE = Passage("p1", "Title", "It is so.", 0.9)
CITATION = Citation("[1]", "p1", 0, 9)
GOOD = Draft("It is so. [1]", (CITATION,), 0.8, usage=Usage(10, 4))
DOWN = Unavailable("the endpoint is down", retry_after=7.0)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def request(min_confidence: float = 0.0) -> GenerationRequest:
    return GenerationRequest("Is it so?", (PASSAGE,), min_confidence=min_confidence)


def generator(*scripts: list[Step], clock: Clock | None = None, limits: AttemptLimits | None = None) -> Generator:
    endpoints = [ScriptedEndpoint(name, script) for name, script in zip("abc", scripts, strict=False)]
    return Generator(endpoints, clock or Clock(), limits or AttemptLimits())


async def events(a_generator: Generator, min_confidence: float = 0.0) -> list[GenerationEvent]:
    return [event async for event in a_generator.stream(request(min_confidence))]


def final(seen: list[GenerationEvent]) -> GenerationResult:
    assert isinstance(seen[-1], Final)
    return seen[-1].result


async def test_a_good_answer_is_streamed_and_ends_with_the_result() -> None:
    seen = await events(generator(["It is so.", " [1]", GOOD]))
    assert seen[:-1] == [Attempt("a", 1), Delta("It is so."), Delta(" [1]")]
    assert final(seen) == GenerationResult("It is so. [1]", (CITATION,), 0.8, False, False, "a", Usage(10, 4))


async def test_what_a_failed_endpoint_showed_is_taken_back_before_the_next_attempt() -> None:
    seen = await events(generator(["It is n", DOWN], ["It is so. [1]", GOOD]))
    assert seen[:-1] == [
        Attempt("a", 1),
        Delta("It is n"),
        Reset("endpoint a failed"),
        Attempt("b", 2),
        Delta("It is so. [1]"),
    ]
    assert final(seen).endpoint == "b"
    assert [notice.code for notice in final(seen).warnings] == ["ENDPOINT_FAILOVER"]


async def test_without_text_shown_there_is_nothing_to_reset() -> None:
    seen = await events(generator(["", DOWN], ["It is so. [1]", GOOD]))
    assert not any(isinstance(event, Reset | Delta) and event != Delta("It is so. [1]") for event in seen)


async def test_when_every_endpoint_fails_the_soonest_retry_is_named() -> None:
    busy = ResourceExhausted("too busy", retry_after=3.0)
    with pytest.raises(Unavailable) as caught:
        await generator([DOWN], ["x", busy], [FailedPrecondition("refused")]).generate(request())
    assert caught.value.reason == "NO_ENDPOINT_ANSWERED"
    assert caught.value.retry_after == 3.0


async def test_an_endpoint_that_stops_early_or_breaks_is_a_failed_endpoint() -> None:
    a_generator = generator(["half"], [RuntimeError("secret detail")], ["It is so. [1]", GOOD])
    seen = await events(a_generator)
    assert final(seen).endpoint == "c"
    status = a_generator.list_endpoints()
    assert [entry.healthy for entry in status] == [False, False, True]
    assert status[0].error_message == "the endpoint stopped before the end of its answer"
    assert status[1].error_message == "failed unexpectedly"


async def test_a_draft_that_differs_from_its_pieces_is_corrected() -> None:
    seen = await events(generator(["It is not.", GOOD]))
    assert seen[1:-1] == [Delta("It is not."), Reset("the answer was corrected"), Delta("It is so. [1]")]


async def test_an_answer_below_the_wanted_confidence_is_never_shown() -> None:
    seen = await events(generator(["It is so.", " [1]", GOOD]), min_confidence=0.9)
    assert seen[:-1] == [Attempt("a", 1), Delta(LOW_CONFIDENCE)]
    result = final(seen)
    assert (result.abstained, result.low_confidence, result.confidence, result.citations) == (True, True, 0.8, ())


async def test_an_answer_of_the_wanted_confidence_is_shown_once_it_is_known() -> None:
    seen = await events(generator(["It is so.", " [1]", GOOD]), min_confidence=0.8)
    assert seen[1:-1] == [Delta("It is so. [1]")]
    assert not final(seen).abstained


async def test_an_abstention_is_not_low_confidence() -> None:
    result = await generator([ABSTENTION, abstention(0.2)]).generate(request(0.9))
    assert (result.abstained, result.low_confidence, result.confidence) == (True, False, 0.2)


@pytest.mark.parametrize(("claimed", "kept"), [(float("nan"), 0.0), (7.0, 1.0), (-1.0, 0.0)])
async def test_a_confidence_that_is_none_is_not_passed_on(claimed: float, kept: float) -> None:
    result = await generator(["x [1]", Draft("x [1]", (CITATION,), claimed)]).generate(request())
    assert result.confidence == kept


async def test_an_endpoint_without_a_sign_of_life_is_given_up() -> None:
    limits = AttemptLimits(first_token=0.01, total=60.0)
    a_generator = generator([asyncio.Event()], ["It is so. [1]", GOOD], limits=limits)
    assert (await a_generator.generate(request())).endpoint == "b"
    assert a_generator.list_endpoints()[0].error_message == "the endpoint gave no text in time"


async def test_an_endpoint_that_never_ends_is_given_up() -> None:
    limits = AttemptLimits(first_token=0.05, total=0.05)
    a_generator = generator(["", asyncio.Event()], ["It is so. [1]", GOOD], limits=limits)
    assert (await a_generator.generate(request())).endpoint == "b"
    assert a_generator.list_endpoints()[0].error_message == "the endpoint gave no complete answer in time"


async def test_the_time_that_a_reader_takes_is_not_the_endpoints() -> None:
    clock = Clock()
    a_generator = generator(["It is so.", " [1]", GOOD], clock=clock)
    async for _ in a_generator.stream(request()):
        clock.now += 1000.0
    status = a_generator.list_endpoints()[0]
    assert (status.healthy, status.latency) == (True, 0.0)


async def test_status_tells_load_latency_and_the_last_failure() -> None:
    clock = Clock()
    gate = asyncio.Event()
    endpoint = ScriptedEndpoint("a", ["It is so. [1]", gate, GOOD], model="m")
    a_generator = Generator([endpoint], clock)
    task = asyncio.create_task(a_generator.generate(request()))
    await endpoint.waiting.wait()
    assert a_generator.list_endpoints()[0].in_flight == 1
    clock.now += 2.0
    gate.set()
    await task
    status = a_generator.list_endpoints()[0]
    assert (status.in_flight, status.latency, status.model, status.kind) == (0, 2.0, "m", "scripted")
    await a_generator.generate(request())
    assert a_generator.list_endpoints()[0].latency == pytest.approx(1.6)


async def test_cancelling_closes_the_endpoint_at_once_and_blames_nobody() -> None:
    endpoint = ScriptedEndpoint("a", ["text", asyncio.Event()])
    a_generator = Generator([endpoint], Clock())
    task = asyncio.create_task(a_generator.generate(request()))
    await endpoint.waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert endpoint.open == 0
    status = a_generator.list_endpoints()[0]
    assert (status.healthy, status.in_flight) == (True, 0)


async def test_a_reader_that_leaves_closes_the_endpoint() -> None:
    endpoint = ScriptedEndpoint("a", ["text", "more", GOOD])
    a_generator = Generator([endpoint], Clock())
    async with aclosing(a_generator.stream(request())) as stream:
        async for event in stream:
            if isinstance(event, Delta):
                assert endpoint.open == 1
                break
    assert endpoint.open == 0
    assert a_generator.list_endpoints()[0].in_flight == 0


async def test_closing_closes_every_endpoint() -> None:
    endpoints = [ScriptedEndpoint("a", []), ScriptedEndpoint("b", [])]
    await Generator(endpoints, Clock()).close()
    assert [endpoint.closed for endpoint in endpoints] == [True, True]


@pytest.mark.parametrize("names", [[], ["a", "a"]])
def test_endpoints_need_names_of_their_own(names: list[str]) -> None:
    with pytest.raises(ValueError, match="name"):
        Generator([ScriptedEndpoint(name, []) for name in names], Clock())


@pytest.mark.parametrize(("first", "total"), [(0.0, 1.0), (2.0, 1.0)])
def test_limits_must_make_sense(first: float, total: float) -> None:
    with pytest.raises(ValueError, match="first_token"):
        AttemptLimits(first, total)
