"""One contract for every Embedder: whatever it runs on, callers may rely on the same things."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Literal

import numpy as np
import pytest

from services.corpus.errors import GroundwireError
from services.embedding.memory import HashingEmbedder
from services.embedding.onnx import OnnxEmbedder
from services.embedding.openai import OpenAIEmbedder
from services.embedding.ports import Embedder, EmbeddingModel
from tests.support.embedding_server import DIMENSION, EmbeddingServer

PASSAGES = [
    "The Rhine rises in the Swiss Alps and flows into the North Sea.",
    "Photosynthesis turns carbon dioxide and water into sugar and oxygen, using light.",
    "A circuit breaker opens after repeated failures and lets a trial call through later.",
    "Short.",
    "Bread dough needs flour, water, yeast and salt; " * 12,
]
ODD = [
    "",
    " \t\n",
    "\x00\x07",
    "\ud800 lone surrogate",
    "🧪👩‍🔬 e\u0301 ﷽",
    "漢字かな交じり文",
    "[SEP] [CLS] [MASK]",
    "a" * 5000,
]


@pytest.fixture(scope="module")
def onnx() -> Iterator[OnnxEmbedder]:
    embedder = asyncio.run(OnnxEmbedder.load(threads=2))
    yield embedder
    asyncio.run(embedder.close())


@pytest.fixture
def hashing() -> HashingEmbedder:
    return HashingEmbedder()


@asynccontextmanager
async def _openai(encoding: Literal["base64", "float"]) -> AsyncIterator[OpenAIEmbedder]:
    model = EmbeddingModel("test-model", DIMENSION, 512)
    async with EmbeddingServer() as server:
        embedder = OpenAIEmbedder(server.url, model, api_key="key-for-tests", batch_size=2, encoding=encoding)
        yield embedder
        await embedder.close()


@pytest.fixture
async def openai_base64() -> AsyncIterator[OpenAIEmbedder]:
    async with _openai("base64") as embedder:
        yield embedder


@pytest.fixture
async def openai_float() -> AsyncIterator[OpenAIEmbedder]:
    async with _openai("float") as embedder:
        yield embedder


@pytest.fixture(params=["onnx", "hashing", "openai_base64", "openai_float"])
def embedder(request: pytest.FixtureRequest) -> Embedder:
    # The ONNX model is loaded once for the module and used from one event loop per test: it must bind to none.
    found: Embedder = request.getfixturevalue(request.param)
    return found


def assert_units(vectors: np.ndarray, count: int, dimension: int) -> None:
    assert vectors.shape == (count, dimension)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)


def assert_same(left: np.ndarray, right: np.ndarray) -> None:
    # int8 activations are scaled by the whole batch, so padding and neighbours move a vector a little.
    assert (left * right).sum(axis=-1).min() >= 0.995


async def test_passages_are_unit_rows_in_the_order_given(embedder: Embedder) -> None:
    vectors = await embedder.embed_passages(PASSAGES)
    assert_units(vectors, len(PASSAGES), embedder.model.dimension)
    alone = np.vstack([await embedder.embed_passages([passage]) for passage in PASSAGES])
    assert_same(vectors, alone)
    similarity = vectors @ alone.T
    assert similarity.argmax(axis=1).tolist() == list(range(len(PASSAGES)))


async def test_the_order_of_the_texts_does_not_matter(embedder: Embedder) -> None:
    forwards = await embedder.embed_passages(PASSAGES)
    backwards = await embedder.embed_passages(PASSAGES[::-1])
    assert_same(forwards, backwards[::-1])


async def test_the_same_call_gives_the_same_vectors(embedder: Embedder) -> None:
    assert_same(await embedder.embed_passages(PASSAGES), await embedder.embed_passages(PASSAGES))
    assert_same(await embedder.embed_query("where is it?"), await embedder.embed_query("where is it?"))


async def test_no_texts_give_no_rows(embedder: Embedder) -> None:
    vectors = await embedder.embed_passages([])
    assert vectors.shape == (0, embedder.model.dimension)
    assert vectors.dtype == np.float32


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Where does the Rhine flow into the sea?", 0),
        ("What do plants make from carbon dioxide and light?", 1),
        ("When does a circuit breaker open?", 2),
    ],
)
async def test_a_relevant_passage_is_nearer_than_the_others(embedder: Embedder, question: str, answer: int) -> None:
    vectors = await embedder.embed_passages(PASSAGES)
    query = await embedder.embed_query(question)
    assert_units(query[None], 1, embedder.model.dimension)
    assert int((vectors @ query).argmax()) == answer


async def test_odd_texts_have_unit_vectors_too(embedder: Embedder) -> None:
    assert_units(await embedder.embed_passages(ODD), len(ODD), embedder.model.dimension)
    queries = np.stack([await embedder.embed_query(text) for text in ODD])
    assert_units(queries, len(ODD), embedder.model.dimension)


async def test_text_beyond_the_models_length_is_cut(embedder: Embedder) -> None:
    long = "river water mountain " * 20_000
    vectors = await embedder.embed_passages([long, long + "entirely different ending"])
    assert_units(vectors, 2, embedder.model.dimension)
    assert_same(vectors[:1], vectors[1:])


async def test_concurrent_calls_do_not_mix(embedder: Embedder) -> None:
    expected = await embedder.embed_passages(PASSAGES)
    question = await embedder.embed_query("What is bread made of?")

    async def ask() -> np.ndarray:
        return (await embedder.embed_query("What is bread made of?"))[None]

    calls = [embedder.embed_passages(PASSAGES[at:] + PASSAGES[:at]) for at in range(5)]
    *rotated, asked = await asyncio.gather(*calls, ask())
    for at, vectors in enumerate(rotated):
        assert_same(np.roll(vectors, at, axis=0), expected)
    assert_same(asked, question[None])


async def test_a_closed_embedder_closes_again_and_never_hangs(embedder: Embedder) -> None:
    if isinstance(embedder, OnnxEmbedder):
        embedder = await OnnxEmbedder.load(threads=1)
    await embedder.close()
    await embedder.close()
    try:
        vectors = await embedder.embed_passages(PASSAGES)
    except GroundwireError:
        assert not isinstance(embedder, HashingEmbedder)
    else:
        assert isinstance(embedder, HashingEmbedder)
        assert_units(vectors, len(PASSAGES), embedder.model.dimension)
