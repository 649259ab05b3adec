"""One contract for every CrossEncoder."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from services.corpus.errors import Unavailable
from services.embedding.memory import OverlapCrossEncoder
from services.embedding.onnx import OnnxCrossEncoder
from services.embedding.ports import CrossEncoder

QUESTION = "Where does the Rhine flow into the sea?"
RELEVANT = "The Rhine rises in the Alps and flows into the North Sea at the Dutch coast."
OTHERS = ["Yeast makes bread dough rise.", "A breaker opens after failures.", "Light drives photosynthesis. " * 200]


class SteppingClock:
    """Each look at it takes a second, so that a budget in seconds is a number of looks."""

    def __init__(self) -> None:
        self._now = 0.0
        self._lock = threading.Lock()

    def __call__(self) -> float:
        with self._lock:
            self._now += 1.0
            return self._now


async def _onnx() -> OnnxCrossEncoder:
    return await OnnxCrossEncoder.load(threads=2, clock=SteppingClock())


@pytest.fixture(scope="module")
def onnx() -> Iterator[OnnxCrossEncoder]:
    encoder = asyncio.run(_onnx())
    yield encoder
    asyncio.run(encoder.close())


@pytest.fixture(params=["onnx", "overlap"])
def encoder(request: pytest.FixtureRequest) -> CrossEncoder:
    if request.param == "overlap":
        return OverlapCrossEncoder(clock=SteppingClock())
    found: CrossEncoder = request.getfixturevalue("onnx")
    return found


async def scored(encoder: CrossEncoder, question: str, passages: list[str]) -> list[float]:
    scores = await encoder.score(question, passages)
    assert len(scores) == len(passages)
    return [score for score in scores if score is not None]


@pytest.mark.parametrize("position", [0, 1, 3])
async def test_scores_stand_in_the_order_given_and_the_answer_is_highest(encoder: CrossEncoder, position: int) -> None:
    passages = [*OTHERS[:position], RELEVANT, *OTHERS[position:]]
    scores = await scored(encoder, QUESTION, passages)
    assert len(scores) == 4
    assert scores.index(max(scores)) == position


async def test_a_score_does_not_depend_on_the_call(encoder: CrossEncoder) -> None:
    together = await scored(encoder, QUESTION, [RELEVANT, *OTHERS])
    alone = [(await scored(encoder, QUESTION, [passage]))[0] for passage in [RELEVANT, *OTHERS]]
    assert together == pytest.approx(alone, abs=0.05)
    assert max(abs(score) for score in together) <= 15.0


async def test_no_passages_give_no_scores(encoder: CrossEncoder) -> None:
    assert await encoder.score(QUESTION, []) == []
    assert await encoder.score(QUESTION, [], budget=0.0) == []


@pytest.mark.parametrize("budget", [0.0, -1.0])
async def test_without_time_the_first_passage_is_scored_alone(encoder: CrossEncoder, budget: float) -> None:
    scores = await encoder.score(QUESTION, [RELEVANT, *OTHERS], budget=budget)
    assert scores[0] is not None
    assert scores[1:] == [None, None, None]


async def test_a_spent_budget_leaves_the_rest_unscored(encoder: CrossEncoder) -> None:
    scores = await encoder.score(QUESTION, [OTHERS[0]] * 30, budget=10.0)
    reached = [score is not None for score in scores]
    assert 2 <= sum(reached) <= 12
    assert reached == sorted(reached, reverse=True)  # a prefix: the first ones are scored first


async def test_a_wide_budget_reaches_everything(encoder: CrossEncoder) -> None:
    assert None not in await encoder.score(QUESTION, [RELEVANT, *OTHERS], budget=1e9)


async def test_odd_and_very_long_texts_are_scored(encoder: CrossEncoder) -> None:
    passages = ["", "\x00", "\ud800", "🧪 漢字", "[SEP] [CLS]", "word " * 20_000]
    for question in ("", "\udfff?", "why " * 20_000, QUESTION):
        assert len(await scored(encoder, question, passages)) == len(passages)


async def test_concurrent_calls_do_not_mix(encoder: CrossEncoder) -> None:
    passages = [RELEVANT, *OTHERS]
    expected = await scored(encoder, QUESTION, passages)
    calls = [scored(encoder, QUESTION, passages[at:] + passages[:at]) for at in range(4)]
    for at, scores in enumerate(await asyncio.gather(*calls)):
        assert scores == pytest.approx(expected[at:] + expected[:at], abs=0.05)


async def test_the_onnx_cross_encoder_refuses_work_once_closed() -> None:
    encoder = await _onnx()
    await encoder.close()
    await encoder.close()
    with pytest.raises(Unavailable):
        await encoder.score(QUESTION, [RELEVANT])
