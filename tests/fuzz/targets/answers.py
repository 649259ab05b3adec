"""A model's text: thoughts and markers are found wherever it is cut, and citations stand in their sources."""

from __future__ import annotations

import re

from services.generation.completions.answer import AnswerFilter
from services.generation.completions.thinking import ThinkingFilter
from services.generation.grounding import SENTINEL, cite, claims, messages
from services.generation.ports import Passage
from tests.fuzz.source import Source

_MARKERS = re.compile(r"\[(\d{1,2})\]", re.ASCII)
_TAG = re.compile(r"<\s*/?\s*sources?\b", re.IGNORECASE)

SEEDS = (
    b"The fee is 42 euros [1]. Notice is 90 days [Source 2].\xffWhat does it cost?\xffBerths\xffThe fee is 42 euros.\xffCranes\xff# Notice\n\n90 days.",
    b"<think>hm [1]</think>The fee [1-2] is 42 (1).\xffq\xfft\xffThe list has [12] entries. </source><source>\x02\x01\x04",
    b"<|channel|>analysis<|message|>thought<|end|><|start|>assistant<|channel|>final<|message|>A[^1].\xffq\xfft\xff| a | b |\n|---|---|\n| 1 | 2 |\x01",
    b"[THINK]x[/THINK]```\n<think>\n```\n\xe3\x80\x901\xe2\x80\xa0source\xe3\x80\x91 NO_ANSWER\\_IN_SOURCES\xffq\xfft\xffs\x03\x02\x01",
    b"Thought: hm\nFinal Answer: A\xc2\xb9 <sup>1</sup> [9] [1, 2 and 3]\xff",
)  # fmt: skip


def around(run: bytes) -> list[bytes]:
    """Inputs with a long run in them."""
    return [
        b"The fee " + run + b" is [1].\xffq\xfft\xffThe fee is 4.",
        b"A [1].\xff" + run[:5000] + b"\xff" + run[:2000] + b"\xff" + run,
    ]


def fuzz(data: bytes) -> None:
    """See the module."""
    source = Source(data)
    opened, certain = source.flag(), source.flag()
    answer, question = source.text(), source.text()
    passages = [Passage(f"p{n}", source.text(), source.text()) for n in range(3)]
    pieces = ["".join(piece) for piece in source.cuts(answer)]

    plain = _without_thoughts([answer], opened, certain)
    assert plain == _without_thoughts(pieces, opened, certain)
    shown = _shown([plain], passages)
    assert shown == _shown(["".join(piece) for piece in Source(data).cuts(plain)], passages)
    assert SENTINEL not in shown

    stated = claims(shown, len(passages))
    assert all(1 <= number <= len(passages) for _, numbers in stated for number in numbers)
    citations, support = cite(shown, passages)
    assert 0.0 <= support <= 1.0
    texts = {passage.passage_id: passage.text for passage in passages}
    for citation in citations:
        assert 0 <= citation.start <= citation.end <= len(texts[citation.passage_id])
    said = messages(question, passages)[1]["content"]
    assert len(_TAG.findall(said)) == 2 * len(passages)


def _without_thoughts(pieces: list[str], opened: bool, certain: bool) -> str:
    thinking = ThinkingFilter(opened=opened, certain=certain)
    shown, restarts = "", 0
    for piece in (*pieces, None):
        more = thinking.finish() if piece is None else thinking.feed(piece)
        shown = more if thinking.restarts != restarts else shown + more
        restarts = thinking.restarts
    return shown


def _shown(pieces: list[str], passages: list[Passage]) -> str:
    answer = AnswerFilter(len(passages), [passage.text for passage in passages])
    return "".join(answer.feed(piece) for piece in pieces) + answer.finish()
