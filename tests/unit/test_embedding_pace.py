"""A slow embedding endpoint is slow, and not broken: requests adapt to what it does, and done work is kept."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from services.corpus.errors import FailedPrecondition, ResourceExhausted, Unavailable
from services.embedding.openai import OpenAIEmbedder
from services.embedding.pace import Pace
from services.embedding.ports import EmbeddingModel
from services.ingestion.batch import Draft, Failure
from services.ingestion.ingestion import Ingestor
from services.ingestion.library import Library
from tests.support.embedding_server import DIMENSION, EmbeddingServer, Reply
from tests.support.ingestion import World

MODEL = EmbeddingModel("test-model", DIMENSION, 512)
TEXTS = [f"passage number {n}" for n in range(64)]


def sizes(server: EmbeddingServer) -> list[int]:
    return [len(request["input"]) for request in server.requests]


async def vectors(server: EmbeddingServer, texts: list[str] = TEXTS, **options: Any) -> Any:
    embedder = OpenAIEmbedder(server.url, MODEL, **options)
    try:
        return await embedder.embed_passages(texts)
    finally:
        await embedder.close()


async def expected(texts: list[str] = TEXTS) -> Any:
    async with EmbeddingServer() as server:
        return await vectors(server, texts)


# --- the pace -------------------------------------------------------------------------------------------------------


def test_requests_shrink_until_they_are_in_time_and_grow_again() -> None:
    pace = Pace(most=32, limit=30.0, patience=120.0)
    assert pace.late(32, pace.limit)
    assert pace.size == 8
    pace.answered(8, 12.0)  # 1.5 s a text: ten take half of the limit
    assert (pace.size, pace.limit) == (10, 30.0)
    pace.answered(10, 1.0)
    assert pace.size == 20
    pace.answered(20, 2.0)
    assert pace.size == 32


def test_one_text_gets_more_time_and_then_no_more() -> None:
    pace = Pace(most=32, limit=30.0, patience=120.0)
    for size in (32, 8, 2):
        assert (pace.size, pace.limit) == (size, 30.0)
        assert pace.late(size, pace.limit)
    assert pace.late(1, pace.limit)
    assert (pace.size, pace.limit) == (1, 120.0)
    pace.answered(1, 50.0)
    assert (pace.size, pace.limit) == (1, 100.0)
    assert pace.late(1, 100.0)
    assert not pace.late(1, 120.0)


def test_a_request_that_is_too_large_is_halved() -> None:
    pace = Pace(most=32, limit=30.0, patience=120.0)
    assert pace.too_large(32)
    assert pace.size == 16
    assert not pace.too_large(1)


# --- over HTTP ------------------------------------------------------------------------------------------------------


async def test_a_slow_endpoint_takes_a_document_in() -> None:
    """1.5 s a text under a limit of 30 s, a hundred times as fast: 32 texts are never in time."""
    async with EmbeddingServer() as server:
        server.seconds = 0.015
        found = await vectors(server, timeout=0.3, patience=1.2)
    assert np.allclose(found, await expected())
    assert sizes(server)[0] == 32
    # What was answered in time was asked for once.
    answered = [text for request in server.requests[1:] for text in request["input"]]
    assert max(sizes(server)[1:]) < 32
    assert set(answered) == set(TEXTS)


async def test_a_text_that_takes_longer_than_the_limit_gets_more_time() -> None:
    async with EmbeddingServer() as server:
        server.seconds = 0.1
        found = await vectors(server, TEXTS[:2], timeout=0.05, patience=30.0)
    assert np.allclose(found, await expected(TEXTS[:2]))


async def test_an_endpoint_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    late: list[tuple[int, float]] = []
    told = Pace.late

    def tell(pace: Pace, texts: int, limit: float) -> bool:
        late.append((texts, limit))
        return told(pace, texts, limit)

    monkeypatch.setattr(Pace, "late", tell)
    async with EmbeddingServer() as server:
        server.held = asyncio.Event()
        with pytest.raises(Unavailable, match="in time"):
            await vectors(server, timeout=0.02, patience=0.05)
        server.held.set()
    assert late == [(32, 0.02), (8, 0.02), (2, 0.02), (1, 0.02), (1, 0.05)]


@pytest.mark.parametrize("status", [408, 504, 524])
async def test_a_proxy_that_gives_up_waiting_is_too_slow(status: int) -> None:
    async with EmbeddingServer(Reply(status)) as server:
        found = await vectors(server)
    assert np.allclose(found, await expected())
    assert sizes(server)[:2] == [32, 8]


@pytest.mark.parametrize("by_half", [False, True])
async def test_an_endpoint_that_takes_fewer_texts_is_asked_in_parts(by_half: bool) -> None:
    async with EmbeddingServer() as server:
        server.most, server.by_half = 5, by_half
        found = await vectors(server)
    assert np.allclose(found, await expected())


async def test_one_text_that_is_refused_spoils_no_other() -> None:
    texts = [*TEXTS[:10], "forbidden", *TEXTS[10:20]]

    class Picky(EmbeddingServer):
        async def _embed(self, line: str, request: Any) -> Reply:
            return Reply(400) if "forbidden" in request["input"] else await super()._embed(line, request)

    async with Picky() as server:
        embedder = OpenAIEmbedder(server.url, MODEL)
        with pytest.raises(FailedPrecondition, match="HTTP 400"):
            await embedder.embed_passages(texts)
        before = len(server.requests)
        found = await embedder.embed_passages(texts[:10])
        await embedder.close()
    # Its neighbours were computed on the way there.
    assert len(server.requests) == before
    assert np.allclose(found, await expected(texts[:10]))


@pytest.mark.parametrize(
    ("failure", "kind"), [(Reply(503), Unavailable), (Reply(429), ResourceExhausted), (None, Unavailable)]
)
async def test_done_work_is_kept_for_when_the_texts_come_again(failure: Reply | None, kind: type[Exception]) -> None:
    class Failing(EmbeddingServer):
        broken = True

        async def _embed(self, line: str, request: Any) -> Reply:
            if self.broken and len(self.requests) == 3:
                self._script = [failure]
                return self._script.pop(0) or Reply(503)
            return await super()._embed(line, request)

    async with Failing() as server:
        embedder = OpenAIEmbedder(server.url, MODEL, batch_size=16)
        with pytest.raises(kind if failure is not None else Unavailable):
            await embedder.embed_passages(TEXTS)
        server.broken = False
        found = await embedder.embed_passages(TEXTS)
        await embedder.close()
    assert np.allclose(found, await expected())
    assert sizes(server) == [16, 16, 16, 16, 16]


async def test_what_a_caller_gave_up_is_kept_too() -> None:
    async with EmbeddingServer() as server:
        embedder = OpenAIEmbedder(server.url, MODEL, batch_size=32)
        server.held = asyncio.Event()
        server.held.set()
        calling = asyncio.ensure_future(embedder.embed_passages(TEXTS))
        while not server.requests:
            await asyncio.sleep(0)
        server.held = asyncio.Event()
        while len(server.requests) < 2:
            await asyncio.sleep(0.001)
        calling.cancel()
        await asyncio.wait({calling})
        server.held.set()
        server.held = None
        await embedder.embed_passages(TEXTS)
        await embedder.close()
    assert [request["input"][0] for request in server.requests] == [TEXTS[0], TEXTS[32], TEXTS[32]]


async def test_many_documents_at_once_wait_for_their_turn() -> None:
    """Their waiting is not counted as the endpoint's time."""
    async with EmbeddingServer() as server:
        server.seconds = 0.01
        embedder = OpenAIEmbedder(server.url, MODEL, timeout=0.2, patience=0.4, concurrency=2)
        documents = [[f"{document} {n}" for n in range(4)] for document in range(30)]
        found = await asyncio.gather(*map(embedder.embed_passages, documents))
        await embedder.close()
    assert [len(rows) for rows in found] == [4] * 30


async def test_a_question_has_a_short_limit_of_its_own() -> None:
    async with EmbeddingServer() as server:
        server.held = asyncio.Event()
        # Long enough for a busy machine to connect.
        embedder = OpenAIEmbedder(server.url, MODEL, timeout=600.0, query_timeout=1.0)
        with pytest.raises(Unavailable):
            await embedder.embed_query("question")
        server.held.set()
        await embedder.close()
    assert sizes(server) == [1]


# --- the whole path -------------------------------------------------------------------------------------------------

LONG = " ".join(f"Sentence number {n} is here." for n in range(70)).encode()


def world_over(server: EmbeddingServer) -> tuple[World, OpenAIEmbedder]:
    """Ingestion with an embedder whose times are a hundredth of the usual ones."""
    world, embedder = World(), OpenAIEmbedder(server.url, MODEL, timeout=0.3, patience=1.2)
    world.ingestor = Ingestor(
        catalog=world.catalog, parser=world.parser, embedder=embedder, store=world.store, limits=world.limits
    )
    world.library = Library(world.catalog, world.store, MODEL)
    return world, embedder


async def test_a_document_of_many_passages_is_taken_in_through_a_slow_endpoint() -> None:
    async with EmbeddingServer() as server:
        server.seconds = 0.015
        world, embedder = world_over(server)
        (outcome,) = await world.ingest(Draft(LONG, document_id="long"))
        await embedder.close()
    assert outcome.reason is None
    assert outcome.chunks >= 64


async def test_a_caller_who_comes_again_goes_on_where_the_time_ran_out() -> None:
    async with EmbeddingServer() as server:
        server.seconds = 0.015
        world, embedder = world_over(server)
        # Whatever the machine is busy with: each time more is done, so that it ends.
        tries = 0
        while True:
            tries += 1
            (outcome,) = await world.ingest(Draft(LONG, document_id="long"), patience=0.7)
            if outcome.reason is None:
                break
            assert outcome.reason == Failure.NOT_REACHED.value
        await embedder.close()
    assert tries > 1
    assert outcome.chunks >= 64
