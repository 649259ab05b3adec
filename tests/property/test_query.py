"""A streamed answer, whatever the generation does: the text that is shown is the answer, and sources are exact."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from services.corpus.errors import GroundwireError, Unavailable
from services.query.adapters.memory import ScriptedGeneration, ScriptedRetrieval
from services.query.ports import Attempt, Citation, Delta, Found, FoundPassage, GenerationStep, Reset
from services.query.query import Answer, Answerer, Question, Retrieved, Step
from tests.support.answers import ALICE, COVERAGE, TEXTS, fold, passage, written

pieces = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), max_size=5)
citations = st.lists(
    st.builds(Citation, st.just("[1]"), st.integers(-1, 4), st.integers(-2, 60), st.integers(-2, 60)), max_size=6
)
passages = st.lists(st.sampled_from(list(TEXTS)), max_size=4).map(lambda names: tuple(passage(name) for name in names))


@st.composite
def generations(draw: st.DrawFn) -> list[GenerationStep | Exception]:
    """Attempts that break off, then one that ends, unless the generation itself does not."""
    steps: list[GenerationStep | Exception] = []
    for number, texts in enumerate(draw(st.lists(pieces, min_size=1, max_size=4)), start=1):
        if number > 1:
            steps.append(Reset("another endpoint starts over"))
        steps += [Attempt(f"endpoint-{number}", number), *map(Delta, texts)]
    end = draw(st.sampled_from(["written", "error", "nothing"]))
    if end == "written":
        steps.append(written("".join(texts), *draw(citations), abstained=draw(st.booleans())))
    elif end == "error":
        steps.append(Unavailable("no endpoint answered"))
    return steps


@settings(deadline=None)
@given(passages, generations())
def test_deltas_and_resets_always_give_the_answer(
    found: tuple[FoundPassage, ...], script: list[GenerationStep | Exception]
) -> None:
    steps, error = asyncio.run(_stream(found, script))
    assert isinstance(steps[0], Retrieved)
    ends = [step for step in steps if isinstance(step, Answer)]
    assert len(ends) == (error is None)
    if not ends:
        assert isinstance(error, Unavailable)
        return
    (answer,) = ends
    assert steps[-1] is answer
    assert fold(steps) == answer.text
    assert len(answer.sources) == len(found)
    assert [source.cited for source in answer.sources] == sorted((s.cited for s in answer.sources), reverse=True)
    for source in answer.sources:
        assert source.snippet
        assert TEXTS[source.passage.document_id][source.start : source.end] == source.snippet


async def _stream(
    found: tuple[FoundPassage, ...], script: list[GenerationStep | Exception]
) -> tuple[list[Step], GroundwireError | None]:
    answerer = Answerer(ScriptedRetrieval(Found(found, COVERAGE)), ScriptedGeneration(script))
    steps: list[Step] = []
    stream = answerer.stream(ALICE, Question("q", "r"))
    try:
        while True:
            steps.append(await anext(stream))
    except StopAsyncIteration:
        return steps, None
    except GroundwireError as error:
        return steps, error
