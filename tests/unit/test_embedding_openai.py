"""The OpenAI-compatible embedder: what it sends, and what each failure becomes."""

from __future__ import annotations

import asyncio
import time
from email.utils import formatdate
from typing import Any

import pytest

from services.corpus.errors import FailedPrecondition, GroundwireError, ResourceExhausted, Unavailable
from services.embedding.openai import OpenAIEmbedder
from services.embedding.ports import EmbeddingModel
from tests.support.embedding_server import DIMENSION, EmbeddingServer, Reply

KEY = "sk-secret-0123456789"
MODEL = EmbeddingModel("test-model", DIMENSION, 8)


def _answer(*rows: Any) -> Reply:
    return Reply(body={"data": [{"index": index, "embedding": row} for index, row in enumerate(rows)]})


async def _failure(server: EmbeddingServer, **options: Any) -> GroundwireError:
    embedder = OpenAIEmbedder(server.url, MODEL, api_key=KEY, **options)
    try:
        with pytest.raises(GroundwireError) as caught:
            await embedder.embed_query("secret question")
    finally:
        await embedder.close()
    for hidden in (KEY, "secret question", "127.0.0.1"):
        assert hidden not in caught.value.message
    return caught.value


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (302, FailedPrecondition),
        (400, FailedPrecondition),
        (401, FailedPrecondition),
        (403, FailedPrecondition),
        (404, FailedPrecondition),
        (408, Unavailable),
        (500, Unavailable),
        (502, Unavailable),
        (503, Unavailable),
    ],
)
async def test_an_http_status_becomes_a_domain_error(status: int, kind: type[GroundwireError]) -> None:
    async with EmbeddingServer(*[Reply(status)] * 3) as server:
        assert isinstance(await _failure(server), kind)


@pytest.mark.parametrize(
    ("header", "low", "high"),
    [
        ("17", 17, 17),
        ("999999999", 3600, 3600),
        # A year ahead, capped like any long wait: how much of a shorter one is left when the test runs is not known.
        (formatdate(time.time() + 366 * 86_400, usegmt=True), 3600, 3600),
        (formatdate(0, usegmt=True), 0, 0),
        ("soon", 1, 1),
        ("", 1, 1),
    ],
    ids=["seconds", "capped", "date", "past", "nonsense", "empty"],
)
async def test_a_limit_says_when_to_come_back(header: str, low: float, high: float) -> None:
    async with EmbeddingServer(Reply(429, headers={"Retry-After": header})) as server:
        error = await _failure(server)
    assert isinstance(error, ResourceExhausted)
    assert low <= error.retry_after <= high


async def test_a_server_that_hangs_up_or_is_gone_is_unavailable() -> None:
    async with EmbeddingServer(None) as server:
        assert isinstance(await _failure(server), Unavailable)
    assert isinstance(await _failure(server), Unavailable)


async def test_a_server_that_does_not_answer_is_unavailable() -> None:
    async with EmbeddingServer() as server:
        server.held = asyncio.Event()
        assert isinstance(await _failure(server, query_timeout=0.05), Unavailable)
        server.held.set()


@pytest.mark.parametrize("row", [[1.0] * 3, [1.0] * (DIMENSION + 1), "AACAPw=="])
async def test_another_dimension_is_a_configuration_error(row: object) -> None:
    async with EmbeddingServer(_answer(row)) as server:
        error = await _failure(server)
    assert isinstance(error, FailedPrecondition)
    assert f"{DIMENSION} are" in error.message


@pytest.mark.parametrize(
    "reply",
    [
        Reply(body=b"<html>"),
        Reply(body=b"\xff\xfe"),
        Reply(body=[]),
        Reply(body={"data": None}),
        Reply(body={"data": []}),
        Reply(body={"data": [{"index": 1, "embedding": [1.0] * DIMENSION}]}),
        _answer([[1.0] * DIMENSION]),
        _answer(["x"] * DIMENSION),
        _answer("not base64!"),
        _answer([0.0] * DIMENSION),
        _answer([float("nan")] * DIMENSION),
        _answer([10**400] * DIMENSION),
        _answer([1e308] * DIMENSION),
        # Deeper than a parser goes, as a whole and in the place of a vector (G4).
        Reply(body=b"[" * 5_000),
        Reply(body=b'{"data": [{"index": 0, "embedding": ' + b"[" * 3_000 + b"]" * 3_000 + b"}]}"),
        Reply(body=b'{"data": [{"index": 0, "embedding": "\\ud83d"}]}'),
        Reply(body={"data": [{"index": [], "embedding": [1.0] * DIMENSION}]}),
        Reply(body={"data": [[]] * 20_000}),
    ],
)
async def test_an_answer_that_is_no_embedding_is_unavailable(reply: Reply) -> None:
    async with EmbeddingServer(reply) as server:
        assert isinstance(await _failure(server), Unavailable)


async def test_requests_carry_model_key_instructions_and_batches() -> None:
    async with EmbeddingServer() as server:
        embedder = OpenAIEmbedder(
            server.url + "/", MODEL, api_key=KEY, batch_size=2, query_instruction="q: ", passage_instruction="p: "
        )
        await embedder.embed_passages(["a", "b", "c"])
        await embedder.embed_query("d")
        await embedder.close()
    assert [request["input"] for request in server.requests] == [["p: a", "p: b"], ["p: c"], ["q: d"]]
    assert {request["model"] for request in server.requests} == {"test-model"}
    assert {headers["authorization"] for headers in server.headers} == {f"Bearer {KEY}"}


async def test_a_text_that_the_server_finds_too_long_is_cut_further() -> None:
    async with EmbeddingServer(Reply(400), Reply(413)) as server:
        embedder = OpenAIEmbedder(server.url, MODEL)
        vectors = await embedder.embed_passages(["語" * 100])
        await embedder.close()
    assert vectors.shape == (1, DIMENSION)
    assert [len(request["input"][0]) for request in server.requests] == [32, 8, 2]


async def test_a_refused_short_text_is_not_sent_again() -> None:
    async with EmbeddingServer(Reply(400)) as server:
        embedder = OpenAIEmbedder(server.url, MODEL)
        with pytest.raises(FailedPrecondition):
            await embedder.embed_passages(["ab"])
        await embedder.close()
    assert len(server.requests) == 1


def test_the_key_is_never_printed() -> None:
    embedder = OpenAIEmbedder("http://127.0.0.1:1/v1", MODEL, api_key=KEY)
    shown = f"{embedder!r} {embedder} {vars(embedder)!r} {vars(embedder._client)!r}"
    assert KEY not in shown


@pytest.mark.parametrize("key", ["", "two words", "line\nbreak", "schlüssel"])
def test_a_key_that_no_header_can_carry_is_refused_without_quoting_it(key: str) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        OpenAIEmbedder("http://127.0.0.1:1/v1", MODEL, api_key=key)
    assert not key or key not in caught.value.message


@pytest.mark.parametrize("url", ["", "localhost:8080/v1", "ftp://host/v1", "http://", "http://host:port/v1"])
def test_a_bad_url_is_refused(url: str) -> None:
    with pytest.raises(FailedPrecondition):
        OpenAIEmbedder(url, MODEL)
