"""Answering: what is found is offered, what is cited comes first, and nothing goes on when the caller has left."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

import pytest

from services.corpus.coverage import Coverage, Notice, StoreCoverage, StoreState
from services.corpus.errors import GroundwireError, NotFound, PermissionDenied, Unavailable
from services.corpus.filter import Equals
from services.query.adapters.memory import ScriptedGeneration, ScriptedRetrieval
from services.query.ports import Attempt, Citation, Delta, Found, FoundPassage, GenerationStep, Reset, Search
from services.query.query import (
    NOTHING_FOUND,
    Abstention,
    Answer,
    Answerer,
    Question,
    Retrieved,
)
from services.query.sources import CitedSource, cited_sources
from tests.support.answers import ALICE, COVERAGE, FOUND, STEPS, TEXTS, fold, passage, written

QUESTION = Question("How many spaces?", "r-1")


class Clock:
    """Goes on by one second, once, after the first look; no look at sources is due before it stands still."""

    def __init__(self) -> None:
        self.looks = 0

    def __call__(self) -> float:
        self.looks += 1
        return min(1.0, self.looks - 1)


def answerer(
    steps: Sequence[GenerationStep | Exception] = STEPS, found: Found | Exception = FOUND
) -> tuple[Answerer, ScriptedRetrieval]:
    retrieval = ScriptedRetrieval(found)
    return Answerer(retrieval, ScriptedGeneration(steps), clock=Clock()), retrieval


async def test_an_answer() -> None:
    answers, retrieval = answerer()
    question = replace(QUESTION, filter_=Equals("lang", "en"), collections=("legal",), top_k=3)
    answer = await answers.answer(ALICE, question)
    assert retrieval.searches == [Search("How many spaces?", Equals("lang", "en"), ("legal",), 3)]
    assert (answer.text, answer.endpoint, answer.confidence) == ("It has 38 spaces. [1]", "llm", 0.75)
    assert (answer.input_tokens, answer.output_tokens, answer.processing_time) == (20, 5, 1.0)
    assert (answer.request_id, answer.abstention, answer.coverage) == ("r-1", None, COVERAGE)
    assert [(source.passage.document_id, source.cited) for source in answer.sources] == [
        ("garage", True),
        ("canteen", False),
    ]


async def test_the_steps_of_an_answer() -> None:
    steps = [step async for step in answerer()[0].stream(ALICE, QUESTION)]
    assert isinstance(steps[0], Retrieved)
    assert [source.marker for source in steps[0].sources] == ["[1]", "[2]"]
    assert steps[1:-1] == list(STEPS[:-1])
    assert isinstance(steps[-1], Answer)
    assert fold(steps) == steps[-1].text


async def test_nothing_found_is_said_without_asking_anybody() -> None:
    degraded = Coverage((StoreCoverage("one", StoreState.TIMED_OUT),))
    found = Found((), degraded, (Notice("DENSE_SKIPPED", "no model"),))
    script = [RuntimeError("must not be asked")]
    steps = [step async for step in answerer(script, found)[0].stream(ALICE, QUESTION)]
    answer = steps[-1]
    assert isinstance(answer, Answer)
    assert (answer.text, answer.abstention, answer.confidence) == (NOTHING_FOUND, Abstention.NOTHING_FOUND, 0.0)
    assert fold(steps) == NOTHING_FOUND
    assert answer.coverage.degraded
    assert [notice.code for notice in answer.notices] == ["DENSE_SKIPPED"]
    assert await answerer(script, found)[0].answer(ALICE, QUESTION) == answer


@pytest.mark.parametrize(
    ("end", "abstention"),
    [
        (written("Nobody knows.", abstained=True), Abstention.NOT_SUPPORTED),
        (written("Perhaps 38.", low_confidence=True), Abstention.LOW_CONFIDENCE),
        (written("Nobody knows.", abstained=True, low_confidence=True), Abstention.LOW_CONFIDENCE),
        (written("38."), None),
    ],
)
async def test_abstentions(end: GenerationStep, abstention: Abstention | None) -> None:
    answer = await answerer([end])[0].answer(ALICE, QUESTION)
    assert answer.abstention is abstention


async def test_a_session_is_said_not_to_be_kept() -> None:
    for found in (FOUND, Found((), COVERAGE)):
        answer = await answerer(found=found)[0].answer(ALICE, replace(QUESTION, session_id="s"))
        assert [notice.code for notice in answer.notices] == ["SESSION_NOT_KEPT"]


# --- who asks --------------------------------------------------------------------------------------------------------


async def test_nobody_asks_for_somebody_else() -> None:
    answers, retrieval = answerer()
    for wrong in ("mallory", "Alice", "alice ", "user:alice"):
        with pytest.raises(PermissionDenied) as caught:
            await answers.answer(ALICE, replace(QUESTION, user_id=wrong))
        assert wrong not in caught.value.message
    assert retrieval.searches == []
    assert (await answers.answer(ALICE, replace(QUESTION, user_id="alice"))).text


# --- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [NotFound("no collection"), Unavailable("away", reason="NO_STORE_ANSWERED")])
async def test_errors_pass_as_they_are(error: GroundwireError) -> None:
    with pytest.raises(type(error)) as caught:
        await answerer(found=error)[0].answer(ALICE, QUESTION)
    assert caught.value is error
    with pytest.raises(type(error)) as caught:
        await answerer([Delta("It"), error])[0].answer(ALICE, QUESTION)
    assert caught.value is error


@pytest.mark.parametrize("steps", [[], [Attempt("llm", 1), Delta("It has")]])
async def test_an_answer_without_an_end_is_unavailable(steps: list[GenerationStep]) -> None:
    with pytest.raises(Unavailable, match="broke off"):
        await answerer(steps)[0].answer(ALICE, QUESTION)


class WatchedGeneration:
    """Yields deltas for ever, or only an ``end``, and remembers how it ended."""

    def __init__(self, end: GenerationStep | None = None) -> None:
        self._end = end
        self.finished = False
        self.closed = 0

    async def write(
        self, query: str, passages: Sequence[FoundPassage], *, max_tokens: int, min_confidence: float
    ) -> AsyncGenerator[GenerationStep, None]:
        del query, passages, max_tokens, min_confidence
        try:
            while self._end is None:
                yield Delta("more ")
            yield self._end
            self.finished = True
        finally:
            self.closed += 1

    async def close(self) -> None:
        self.closed += 10


async def test_a_stream_that_is_left_closes_the_generation_at_once() -> None:
    generation = WatchedGeneration()
    answers = Answerer(ScriptedRetrieval(FOUND), generation)
    async with aclosing(answers.stream(ALICE, QUESTION)) as steps:
        async for step in steps:
            if isinstance(step, Delta):
                break
        assert generation.closed == 0
    assert generation.closed == 1
    await answers.close()
    assert generation.closed == 11


async def test_a_generation_is_read_to_its_end() -> None:
    """Whoever left after the last word would cancel a call that went well, and never see that it did not."""
    generation = WatchedGeneration(end=written("38."))
    steps = [step async for step in Answerer(ScriptedRetrieval(FOUND), generation).stream(ALICE, QUESTION)]
    assert isinstance(steps[-1], Answer)
    assert (generation.finished, generation.closed) == (True, 1)
    with pytest.raises(Unavailable, match="late"):
        await answerer([written("38."), Unavailable("late")])[0].answer(ALICE, QUESTION)


async def test_resets_and_attempts_pass_through_unchanged() -> None:
    steps = [step async for step in answerer()[0].stream(ALICE, QUESTION)]
    assert [step for step in steps if isinstance(step, Reset)] == [Reset("the endpoint stopped answering")]


# --- sources ---------------------------------------------------------------------------------------------------------


def in_document(source: CitedSource) -> str:
    return TEXTS[source.passage.document_id][source.start : source.end]


def test_cited_sources_come_first_in_the_answers_order() -> None:
    passages = [passage("garage"), passage("canteen"), replace(passage("garage"), chunk_id="garage#1.1")]
    sources = cited_sources(passages, [Citation("[3]", 2, 0, 10), Citation("[2]", 1, 0, 5), Citation("[3]", 2, 4, 10)])
    assert [(source.marker, source.cited) for source in sources] == [("[3]", True), ("[2]", True), ("[1]", False)]
    assert len({source.passage.chunk_id for source in sources}) == 3


def test_a_snippet_is_what_stands_in_the_document() -> None:
    soup = passage("canteen").text.index("Soup")
    sources = cited_sources(
        FOUND.passages, [Citation("[1]", 0, 4, 10), Citation("[1]", 0, 15, 33), Citation("[2]", 1, soup, soup + 4)]
    )
    assert [source.snippet for source in sources] == ["garage has 38 parking spaces."[:29], "Soup"]
    assert all(in_document(source) == source.snippet for source in sources)
    offered = cited_sources(FOUND.passages, [])
    assert all(in_document(source) == source.snippet for source in offered)


def test_a_snippet_that_would_be_too_long_is_its_first_support() -> None:
    long = replace(passage("garage"), text="x" * 2000, start=100)
    (cited,) = cited_sources([long], [Citation("[1]", 0, 50, 60), Citation("[1]", 0, 1900, 1950)])
    assert (cited.start, cited.end, len(cited.snippet)) == (150, 160, 10)
    (offered,) = cited_sources([long], [])
    assert (offered.start, offered.end, len(offered.snippet)) == (100, 700, 600)


@pytest.mark.parametrize(
    "citation",
    [
        Citation("[9]", 8, 0, 1),
        Citation("[0]", -1, 0, 1),
        Citation("[1]", 0, 5, 5),
        Citation("[1]", 0, 6, 5),
        Citation("[1]", 0, -3, 5),
        Citation("[1]", 0, 0, 10_000),
    ],
)
async def test_a_citation_that_points_nowhere_is_left_out(citation: Citation) -> None:
    answer = await answerer([written("It has 38 spaces. [1]", citation)])[0].answer(ALICE, QUESTION)
    assert [source.cited for source in answer.sources] == [False, False]
    assert all(in_document(source) == source.snippet for source in answer.sources)
