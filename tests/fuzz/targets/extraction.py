"""Answers without a model: what is cited stands in its passage, and an answer is as long as it may be."""

from __future__ import annotations

from itertools import pairwise

from services.generation.blocks import split_blocks
from services.generation.extraction import Judged, candidates, choose, compose
from services.generation.ports import Passage
from services.generation.readable import readable
from services.generation.sentences import MAX_SENTENCE, split_sentences
from tests.fuzz.source import Source

SEEDS = (
    b"What was the fee in 2024?\xffBerths 2023\xff# Fees\n\nThe fee was 42 euros in 2023. In 2024 it was 45.5 euros per month.\xffNotice\xff| year | fee |\n|---|---|\n| 2024 | 45 |\n| 2023 | 42 |",
    b"Wie hoch ist die Miete ab dem 1. Januar 2025 in Berlin?\xffMiete\xffAb 1.1.2025 betr\xc3\xa4gt die Miete 1.200,50 \xe2\x82\xac. Bis Q3 FY24 nicht.\xff\xff- eins\n- zwei\n> drei\n```\ncode\n```",
    b"Does version 2.1 or later of Atlas support 10 GB before 5 pm?\xffAtlas v2\xffVersion 2.0 supports at most 8 GB. Version III does not, e.g. after 17:30. See [a](b) and **bold** text.",
    b"Which?\xff\xff | a |  b |\n | :--- | ---: |\n |  1 | \t2 |\n| a |  b\n   | x\n - - - \n * * *x\n ## h  ##\n   ====   ",
    b"How many?\xff\xffTitle\n=====\n\nRow;\ttwo\nx 12 kg; - 4 \xc2\xb0C to 5th of May\xe3\x80\x82\xe4\xba\x8c\xe3\x80\x82",
)  # fmt: skip


def around(run: bytes) -> list[bytes]:
    """Inputs with a long run in them."""
    return [
        b"q\xff\xff| a | b |\n" + run + b"| a | b",
        b"What is the fee in 2024?\xffFees\xffThe fee is 4 kg" + run + b"x.",
        run[:4000] + b"\xff\xffThe fee is 4 kg.",
    ]


def fuzz(data: bytes) -> None:
    """See the module."""
    source = Source(data)
    most, limit = 1 + source.number(200), 1 + source.number(60)
    question = source.text()[:4096]
    passages = [Passage(f"p{n}", source.text(), source.text()) for n in range(3)]
    for passage in passages:
        _check_pieces(passage.text)
    found = candidates(question, passages, limit)
    assert len(found) <= limit
    for candidate in found:
        text = passages[candidate.source].text
        assert 0 <= candidate.start < candidate.end <= len(text)
        assert text[candidate.start : candidate.end].strip()
    if not found:
        return
    judged = [Judged(candidate, 5.0 - place % 3, 4.0) for place, candidate in enumerate(found)]
    chosen = choose(judged, 0.0)
    assert 1 <= len(chosen) <= 3
    statements = compose(chosen, passages, most)
    assert len(statements) >= 1
    assert sum(len(statement.text) for statement in statements[1:]) <= most


def _check_pieces(text: str) -> None:
    blocks = split_blocks(text)
    assert all(one.end <= two.start for one, two in pairwise(blocks))
    for sentence in split_sentences(text):
        assert 0 <= sentence.start < sentence.end <= len(text)
        assert sentence.end - sentence.start <= MAX_SENTENCE or sentence.readable
        readable(text[sentence.start : sentence.end])
