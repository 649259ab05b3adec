"""Properties of generation: exact offsets, filters that do not see where pieces were cut, streams that add up."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from services.corpus.errors import Unavailable
from services.generation.adapters.memory import ScriptedEndpoint, Step
from services.generation.completions.answer import AnswerFilter
from services.generation.completions.sse import SseDecoder
from services.generation.extraction import candidates
from services.generation.generation import (
    Attempt,
    Final,
    GenerationEvent,
    GenerationRequest,
    Generator,
    Reset,
    fold,
)
from services.generation.grounding import SENTINEL, cite
from services.generation.ports import Draft, Passage, abstention
from services.generation.sentences import MAX_SENTENCE, split_sentences

_SYNTAX = [
    "# ", "## 1. ", "- ", "* ", "1. ", "| ", " | ", "|---|---|\n", "```\n", "\n", "\n\n", ". ", "? ", ": ", "**", "_", "`", "[1]",
    "[x](y)", "e.g. ", "Dr. ", "3.5", "A", "b", " ", "\t", "Word ", "x" * 200, "…", "。", "> ", "---\n", "===\n", "\r\n", "é", "\u2028",
]  # fmt: skip
TEXTS = st.one_of(st.text(max_size=300), st.lists(st.sampled_from(_SYNTAX), max_size=60).map("".join))
_MODEL = [
    "[1]",
    "[2]",
    "[9]",
    "[1, 9]",
    "[",
    "]",
    "1",
    " ",
    "Yes",
    ". ",
    SENTINEL,
    SENTINEL[:7],
    "[[",
    "\n",
    ", ",
    "[ 2 ;1]",
    "0",
]
MODEL_TEXTS = st.lists(st.sampled_from(_MODEL), max_size=30).map("".join)
PASSAGES = (Passage("a", "A", "Yes it is. No it was not.", 0.9), Passage("b", "", "", 0.1))


def markers(shown: str) -> list[str]:
    """The markers in a text, without what is content in square brackets.

    That is what stands behind a word ("a[9]", "a[[9]]"), and numbers of three digits and more.
    """
    return re.findall(r"(?<![A-Za-z])(?<![A-Za-z]\[)\[\d{1,2}\]|\[[12]\]", shown)


def cut(text: Any, places: list[int]) -> list[Any]:
    edges = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[start:end] for start, end in pairwise(edges)]


@settings(deadline=None, max_examples=300)
@given(TEXTS)
def test_sentences_are_exact_ordered_and_complete(text: str) -> None:
    position = 0
    covered: set[int] = set()
    pieces = split_sentences(text)
    for index, piece in enumerate(pieces):
        assert position <= piece.start < piece.end <= len(text)
        quoted = text[piece.start : piece.end]
        assert quoted == quoted.strip()
        assert len(quoted) <= MAX_SENTENCE
        assert piece.readable == piece.readable.strip() != ""
        assert "\n" not in piece.readable
        assert re.search(r"\[\d{1,3}\]", piece.readable) is None
        assert -1 <= piece.lead < index
        position = piece.end
        covered.update(range(piece.start, piece.end))
    if "```" not in text and "~~~" not in text and "[" not in text:
        words = re.finditer(r"[^\W\d_]{2,}", text)
        assert all(covered.issuperset(range(*word.span())) for word in words)


@settings(deadline=None, max_examples=150)
@given(TEXTS, TEXTS)
def test_candidates_cite_inside_their_passage(question: str, text: str) -> None:
    for candidate in candidates(question, [Passage("p", "T", text, 1.0)], 24):
        quoted = text[candidate.start : candidate.end]
        assert quoted
        assert quoted == quoted.strip()
        assert candidate.shown


@settings(deadline=None, max_examples=300)
@given(MODEL_TEXTS, st.lists(st.integers(0, 500), max_size=8))
def test_the_filter_does_not_see_where_the_text_was_cut(text: str, places: list[int]) -> None:
    whole = AnswerFilter(2)
    expected = whole.feed(text) + whole.finish()
    pieced = AnswerFilter(2)
    shown = "".join(pieced.feed(piece) for piece in cut(text, places)) + pieced.finish()
    assert shown == expected
    assert pieced.disclaimed == whole.disclaimed
    assert SENTINEL not in shown
    assert set(markers(shown)) <= {"[1]", "[2]"}
    assert shown == "" or markers(shown)


@settings(deadline=None, max_examples=200)
@given(MODEL_TEXTS)
def test_markers_and_citations_are_the_same(text: str) -> None:
    answer_filter = AnswerFilter(2)
    shown = answer_filter.feed(text) + answer_filter.finish()
    citations, supported = cite(shown, PASSAGES)
    assert {citation.marker for citation in citations} == set(markers(shown))
    assert 0.0 <= supported <= 1.0


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.sampled_from([b"data: a", b"data:b", b"\n", b"\r\n", b"\r", b": c", b"id: 1", b"data", b"\xc3\xa9"]), max_size=30)
    .map(b"".join),
    st.lists(st.integers(0, 500), max_size=8),
)  # fmt: skip
def test_events_do_not_depend_on_where_the_bytes_were_cut(stream: bytes, places: list[int]) -> None:
    decoder, whole = SseDecoder(), SseDecoder()
    pieced = [event for piece in cut(stream, places) for event in decoder.feed(piece)]
    assert [*pieced, *decoder.finish()] == [*whole.feed(stream), *whole.finish()]


_TEXT_STEPS = st.lists(st.sampled_from(["", "one ", "two ", "[1]", "three"]), max_size=5)


@st.composite
def scripts(draw: st.DrawFn) -> list[Step]:
    steps: list[Step] = list(draw(_TEXT_STEPS))
    text = "".join(str(step) for step in steps)
    ending = draw(st.sampled_from(["draft", "other draft", "abstains", "fails", "breaks", "stops"]))
    if ending == "draft":
        steps.append(Draft(text, confidence=draw(st.sampled_from([0.0, 0.4, 1.0]))))
    elif ending == "other draft":
        steps.append(Draft("something else", confidence=0.5))
    elif ending == "abstains":
        steps = [abstention().answer, abstention()]
    elif ending == "fails":
        steps.append(Unavailable("down"))
    elif ending == "breaks":
        steps.append(RuntimeError("a defect"))
    return steps


@settings(deadline=None, max_examples=200)
@given(st.lists(scripts(), min_size=1, max_size=4), st.sampled_from([0.0, 0.3, 0.7]))
async def test_deltas_and_resets_always_end_with_the_final_answer(all_steps: list[list[Step]], wanted: float) -> None:
    endpoints = [ScriptedEndpoint(f"e{number}", steps) for number, steps in enumerate(all_steps)]
    generator = Generator(endpoints, lambda: 0.0)
    seen: list[GenerationEvent] = []
    shown = ""
    reason = ""
    try:
        async for event in generator.stream(GenerationRequest("q", PASSAGES, min_confidence=wanted)):
            if isinstance(event, Attempt):
                assert shown == ""
            if isinstance(event, Reset):
                assert shown != ""
            shown = fold(shown, event)
            seen.append(event)
    except Unavailable as error:
        reason = error.reason
    attempts = [event for event in seen if isinstance(event, Attempt)]
    assert [attempt.number for attempt in attempts] == list(range(1, len(attempts) + 1))
    finals = [event for event in seen if isinstance(event, Final)]
    assert (len(finals), reason) in ((1, ""), (0, "NO_ENDPOINT_ANSWERED"))
    if finals:
        assert seen[-1] is finals[0]
        assert shown == finals[0].result.answer
        assert finals[0].result.abstained or finals[0].result.confidence >= wanted
    assert all(endpoint.open == 0 for endpoint in endpoints)
    assert all(status.in_flight == 0 for status in generator.list_endpoints())
