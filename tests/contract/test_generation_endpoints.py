"""The contract that every answer endpoint keeps."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing

import pytest

from services.embedding.memory import OverlapCrossEncoder
from services.embedding.onnx import OnnxCrossEncoder
from services.generation.adapters.extractive import ExtractiveEndpoint
from services.generation.adapters.memory import ScriptedEndpoint
from services.generation.adapters.openai import OpenAIEndpoint
from services.generation.ports import ABSTENTION, AnswerEndpoint, Citation, Draft, Passage, Usage
from tests.support.generation_server import chat_server

QUESTION = "How many parking spaces does the garage have?"
UNRELATED = "Which composer wrote this opera?"
PASSAGES = (
    Passage("lunch#1", "Canteen", "Lunch costs €4.50. It is served from noon until two.", 0.4),
    Passage(
        "garage#1", "Offices", "## Parking\n\n- The **garage** has 38 parking spaces.\n- It is open all night.", 0.9
    ),
    Passage("tour#1", "Tours", "The harbour tour takes two hours.", 0.1),
)
MARKER = re.compile(r"\[(\d+)\]")
ADAPTERS = ["extractive-overlap", "extractive-onnx", "openai", "openai-supported", "scripted"]


@pytest.fixture(params=ADAPTERS)
async def endpoint(request: pytest.FixtureRequest) -> AsyncIterator[AnswerEndpoint]:
    async with AsyncExitStack() as stack:
        yield await _endpoint(request.param, stack)


async def _endpoint(kind: str, stack: AsyncExitStack) -> AnswerEndpoint:
    if kind == "scripted":
        start = PASSAGES[1].text.index("- The")
        citation = Citation("[2]", "garage#1", start, start + 39)
        draft = Draft("It has 38 parking spaces. [2]", (citation,), 0.9, usage=Usage(50, 8))
        return ScriptedEndpoint("scripted", ["It has 38 ", "parking spaces. [2]", draft])
    if kind.startswith("openai"):
        server = await stack.enter_async_context(chat_server())
        support = OverlapCrossEncoder() if kind == "openai-supported" else None
        openai = OpenAIEndpoint("openai", server.base_url, "m", api_key="secret", support=support)
        stack.push_async_callback(openai.close)
        return openai
    encoder = OverlapCrossEncoder() if kind == "extractive-overlap" else await OnnxCrossEncoder.load(threads=1)
    stack.push_async_callback(encoder.close)
    return ExtractiveEndpoint(encoder, budget=None)


async def ask(endpoint: AnswerEndpoint, question: str, passages: tuple[Passage, ...]) -> tuple[list[str], Draft]:
    items = [item async for item in endpoint.answer(question, passages, 1000)]
    assert isinstance(items[-1], Draft)
    assert all(isinstance(item, str) for item in items[:-1])
    return [item for item in items if isinstance(item, str)], items[-1]


async def test_an_answer_is_the_sum_of_its_pieces_and_is_cited(endpoint: AnswerEndpoint) -> None:
    pieces, draft = await ask(endpoint, QUESTION, PASSAGES)
    assert "".join(pieces) == draft.answer
    assert "38" in draft.answer
    assert not draft.abstained
    assert 0.0 < draft.confidence <= 1.0
    assert draft.usage.input_tokens > 0
    assert draft.usage.output_tokens > 0
    assert {f"[{number}]" for number in MARKER.findall(draft.answer)} == {c.marker for c in draft.citations}
    for citation in draft.citations:
        passage = PASSAGES[int(citation.marker[1:-1]) - 1]
        assert citation.passage_id == passage.passage_id
        quoted = passage.text[citation.start : citation.end]
        assert quoted
        assert quoted == quoted.strip()
    assert any(c.passage_id == "garage#1" and "38" in PASSAGES[1].text[c.start : c.end] for c in draft.citations)


async def test_without_passages_every_endpoint_abstains(endpoint: AnswerEndpoint) -> None:
    pieces, draft = await ask(endpoint, QUESTION, ())
    assert "".join(pieces) == draft.answer == ABSTENTION
    assert draft.abstained
    assert draft.citations == ()


@pytest.mark.parametrize("endpoint", [kind for kind in ADAPTERS if kind != "scripted"], indirect=True)
async def test_unrelated_passages_make_it_abstain(endpoint: AnswerEndpoint) -> None:
    pieces, draft = await ask(endpoint, UNRELATED, PASSAGES)
    assert "".join(pieces) == draft.answer == ABSTENTION
    assert draft.abstained
    assert draft.citations == ()


@pytest.mark.parametrize("endpoint", [kind for kind in ADAPTERS if kind != "scripted"], indirect=True)
async def test_passages_without_text_make_it_abstain(endpoint: AnswerEndpoint) -> None:
    assert (await ask(endpoint, UNRELATED, (Passage("p", "", "", 0.0),)))[1].abstained


async def test_closing_early_is_fine_and_the_endpoint_answers_again(endpoint: AnswerEndpoint) -> None:
    async with aclosing(endpoint.answer(QUESTION, PASSAGES, 1000)) as items:
        assert isinstance(await anext(items), str)
    assert (await ask(endpoint, QUESTION, PASSAGES))[1].citations


async def test_cancelling_ends_the_answer(endpoint: AnswerEndpoint) -> None:
    started = asyncio.Event()

    async def read() -> None:
        async with aclosing(endpoint.answer(QUESTION, PASSAGES, 1000)) as items:
            started.set()
            async for _ in items:
                await asyncio.Event().wait()

    task = asyncio.create_task(read())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not (await ask(endpoint, QUESTION, PASSAGES))[1].abstained


async def test_answers_at_the_same_time_do_not_mix(endpoint: AnswerEndpoint) -> None:
    answers = await asyncio.gather(*(ask(endpoint, QUESTION, PASSAGES) for _ in range(4)))
    assert len({"".join(pieces) for pieces, _ in answers}) == 1


async def test_an_endpoint_says_what_it_is(endpoint: AnswerEndpoint) -> None:
    assert endpoint.name
    assert endpoint.kind in ("extractive", "openai", "scripted")
    assert endpoint.model
    await endpoint.close()
