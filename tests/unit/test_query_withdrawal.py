"""Access that is withdrawn while an answer is written: the answer starts over, and nothing of it is shown again."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from collections.abc import Collection as Some

import pytest

from services.corpus.errors import DeadlineExceeded, GroundwireError, NotFound, Unavailable
from services.query.adapters.memory import ScriptedRetrieval
from services.query.ports import (
    Attempt,
    Citation,
    Delta,
    Found,
    FoundPassage,
    GenerationStep,
    Reference,
    Reset,
)
from services.query.query import (
    NOTHING_FOUND,
    SOURCES_WITHDRAWN,
    Abstention,
    Answer,
    Answerer,
    Question,
    Retrieved,
    Step,
)
from tests.support.answers import ALICE, COVERAGE, FOUND, fold, passage, written

QUESTION = Question("How many spaces?", "r-1")


class Clock:
    """Stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Writer:
    """Writes "one two" from whatever passages it is given, citing the first; ``between`` runs before each step."""

    def __init__(self, between: Callable[[int, str], None] = lambda _number, _step: None) -> None:
        self.between = between
        self.prompts: list[list[str]] = []
        self.closed = 0

    async def write(
        self, query: str, passages: Sequence[FoundPassage], *, max_tokens: int, min_confidence: float
    ) -> AsyncGenerator[GenerationStep, None]:
        del query, max_tokens, min_confidence
        self.prompts.append([found.document_id for found in passages])
        number = len(self.prompts)
        steps: list[tuple[str, GenerationStep]] = [
            ("attempt", Attempt("llm", 1)),
            ("one", Delta("one ")),
            ("two", Delta("two")),
            ("end", written("one two", Citation("[1]", 0, 0, 3))),
        ]
        try:
            for name, step in steps:
                self.between(number, name)
                yield step
        finally:
            self.closed += 1

    async def close(self) -> None:
        pass


def sources(step: Retrieved | Answer) -> list[str]:
    return [source.passage.document_id for source in step.sources]


async def play(writer: Writer, retrieval: ScriptedRetrieval, clock: Clock | None = None) -> list[Step]:
    answerer = Answerer(retrieval, writer, clock=clock or Clock())
    return [step async for step in answerer.stream(ALICE, QUESTION)]


@pytest.mark.parametrize("moment", ["attempt", "one", "two", "end"])
async def test_an_answer_from_a_withdrawn_source_is_written_anew(moment: str) -> None:
    """Whenever it happens, also when no second has passed: there is always a check before the end."""
    retrieval = ScriptedRetrieval(FOUND)

    def between(number: int, step: str) -> None:
        if (number, step) == (1, moment):
            retrieval.withdrawn.add("garage")

    writer = Writer(between)
    steps = await play(writer, retrieval)
    assert writer.prompts == [["garage", "canteen"], ["canteen"]]
    assert writer.closed == 2
    offers = [step for step in steps if isinstance(step, Retrieved)]
    assert [sources(offer) for offer in offers] == [["garage", "canteen"], ["canteen"]]
    place = steps.index(offers[1])
    assert steps[place - 1] == Reset("a source was withdrawn")
    assert [step.number for step in steps if isinstance(step, Attempt)] == [1, 2]
    answer = steps[-1]
    assert isinstance(answer, Answer)
    assert sources(answer) == ["canteen"]
    assert (answer.text, answer.abstention) == ("one two", None)
    assert fold(steps) == answer.text


async def test_text_stops_within_a_second() -> None:
    retrieval, clock = ScriptedRetrieval(FOUND), Clock()

    def between(number: int, step: str) -> None:
        if (number, step) == (1, "two"):
            retrieval.withdrawn.add("canteen")
            clock.now += 1.0

    steps = await play(Writer(between), retrieval, clock)
    assert [step.text for step in steps if isinstance(step, Delta)] == ["one ", "one ", "two"]


async def test_sources_are_checked_once_a_second_and_at_the_end() -> None:
    retrieval, clock = ScriptedRetrieval(FOUND), Clock()

    def between(number: int, step: str) -> None:
        clock.now += 0.6

    await play(Writer(between), retrieval, clock)
    # At 0.6 of the attempt, 1.2, 1.8 and 2.4: due at 1.2, and at 2.4 because that is the end.
    assert retrieval.checks == [{found.reference for found in FOUND.passages}] * 2
    await play(Writer(), still := ScriptedRetrieval(FOUND))
    assert len(still.checks) == 1


async def test_no_prompt_is_made_from_what_was_withdrawn_before() -> None:
    """A client that reads slowly holds the stream up between finding and writing."""
    retrieval, clock, writer = ScriptedRetrieval(FOUND), Clock(), Writer()
    stream = Answerer(retrieval, writer, clock=clock).stream(ALICE, QUESTION)
    first = await anext(stream)
    assert isinstance(first, Retrieved)
    clock.now, retrieval.withdrawn = 60.0, {"garage"}
    steps = [step async for step in stream]
    assert writer.prompts == [["canteen"]]
    assert isinstance(steps[0], Reset)
    # And once more, between the reset and the sources that are left.
    retrieval, writer = ScriptedRetrieval(FOUND), Writer()
    stream = Answerer(retrieval, writer, clock=clock).stream(ALICE, QUESTION)
    await anext(stream)
    clock.now, retrieval.withdrawn = 120.0, {"garage"}
    assert isinstance(await anext(stream), Reset)
    clock.now, retrieval.withdrawn = 180.0, {"garage", "canteen"}
    left = await anext(stream)
    assert isinstance(left, Retrieved)
    assert sources(left) == []
    assert writer.prompts == []


async def test_without_any_source_left_nothing_was_found() -> None:
    retrieval = ScriptedRetrieval(FOUND)

    def between(number: int, step: str) -> None:
        if step == "two":
            retrieval.withdrawn |= {"garage", "canteen"}

    writer = Writer(between)
    steps = await play(writer, retrieval)
    answer = steps[-1]
    assert isinstance(answer, Answer)
    assert (answer.text, answer.abstention, answer.sources) == (NOTHING_FOUND, Abstention.NOTHING_FOUND, ())
    assert fold(steps) == NOTHING_FOUND
    assert len(writer.prompts) == 1
    offers = [step for step in steps if isinstance(step, Retrieved)]
    assert sources(offers[-1]) == []


async def test_after_two_restarts_the_service_gives_up() -> None:
    texts = [passage("garage"), passage("canteen")]
    found = Found(
        tuple(FoundPassage(**{**_fields(texts[i % 2]), "document_id": f"d{i}"}) for i in range(5)),  # type: ignore[arg-type] # as they were
        COVERAGE,
    )
    retrieval = ScriptedRetrieval(found)

    def between(number: int, step: str) -> None:
        if step == "end":
            retrieval.withdrawn.add(f"d{number}")

    writer = Writer(between)
    steps = await play(writer, retrieval)
    answer = steps[-1]
    assert isinstance(answer, Answer)
    assert (answer.text, answer.abstention) == (SOURCES_WITHDRAWN, Abstention.SOURCES_WITHDRAWN)
    # Not even what is left: nobody has checked it since.
    assert answer.sources == ()
    assert fold(steps) == SOURCES_WITHDRAWN
    assert writer.prompts == [["d0", "d1", "d2", "d3", "d4"], ["d0", "d2", "d3", "d4"], ["d0", "d3", "d4"]]
    offers = [step for step in steps if isinstance(step, Retrieved)]
    assert sources(offers[-1]) == []


def _fields(found: FoundPassage) -> dict[str, object]:
    return {name: getattr(found, name) for name in found.__slots__}


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Unavailable("away"), Unavailable),
        (DeadlineExceeded("late"), DeadlineExceeded),
        (NotFound("no such method"), Unavailable),
    ],
)
async def test_what_cannot_be_checked_is_not_shown(error: GroundwireError, expected: type[GroundwireError]) -> None:
    class Failing(ScriptedRetrieval):
        async def still_readable(self, references: Some[Reference]) -> frozenset[Reference]:
            raise error

    steps: list[Step] = []

    async def collect() -> None:
        async for step in Answerer(Failing(FOUND), Writer(), clock=Clock()).stream(ALICE, QUESTION):
            steps.append(step)  # noqa: PERF401 - what came before the error is wanted

    with pytest.raises(expected):
        await collect()
    assert isinstance(steps[0], Retrieved)
    assert not any(isinstance(step, Answer) for step in steps)
