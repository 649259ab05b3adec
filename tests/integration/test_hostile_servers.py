"""Servers that the mesh calls, each doing harm in every way: all are survived, for a reason, while others are served (G1)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from functools import partial

import numpy as np
import pytest
import requests

from services.corpus.errors import GroundwireError, Unavailable
from services.embedding.openai import OpenAIEmbedder
from services.embedding.ports import EmbeddingModel
from services.generation.adapters.memory import ScriptedEndpoint
from services.generation.adapters.openai import OpenAIEndpoint
from services.generation.balancing import BalancingPolicy
from services.generation.generation import GenerationRequest, Generator
from services.generation.ports import Citation, Draft
from services.http.client import HttpClient
from services.http.limits import KIB, MIB, Limits
from services.http.requests_adapter import bounded_session
from services.resilience.endpoints import Role
from services.retrieval.request import RetrieveQuery
from services.security.jwks import KeyFetchError
from services.security.jwks_fetch import HttpsFetcher
from services.vectorstores.chroma import ChromaVectorIndex
from services.vectorstores.ports import Partition
from tests.support.completions import ANSWER, PASSAGES, told
from tests.support.hostile_http import HostileServer, Mode
from tests.support.retrieval_world import ALICE, World

SLOW = {Mode.DRIP, Mode.DRIP_HEAD, Mode.SILENT}
PATIENCE, NO_PATIENCE = 60.0, 0.1
# The socket buffers of both sides take some megabytes before anybody has read a byte.
BUFFERS = 16 * MIB
BACKUP = "It is in the list. [1]"
DIMENSION = 64
PARTITION = Partition("acme", "default")
HEAD = "sent more than 32 KiB before its answer"
COMPRESSED, LATE = "sent a compressed answer, which was not asked for", "did not answer in time"

modes = pytest.mark.parametrize("mode", Mode, ids=lambda mode: mode.name.lower())


def patience(mode: Mode) -> float:
    return NO_PATIENCE if mode in SLOW else PATIENCE


async def survived(server: HostileServer, call: Awaitable[object]) -> object:
    """What ``call`` came to; another server was called meanwhile, and of this one only a little was taken in."""
    task = asyncio.ensure_future(call)
    async with HostileServer(Mode.SILENT, lambda _: b"right", only="/nowhere") as other:
        client = HttpClient(Limits(body=KIB, total=PATIENCE, idle=PATIENCE))
        async with client.call("GET", other.url) as answer:
            assert await answer.read() == b"right"
        await client.close()
    await asyncio.wait([task])
    assert server.sent < BUFFERS
    return task.result()


# --- language models ------------------------------------------------------------------------------------------------

NOT_CHAT = "the endpoint sent no chat completion; check its url"
BROKE = "the connection to the endpoint failed"
REASONS = {
    Mode.BOMB: f"the endpoint {COMPRESSED}",
    Mode.CHARSET: NOT_CHAT,
    Mode.ENDLESS: "the endpoint sent more than 64 KiB",
    Mode.ENDLESS_CHUNKS: "the endpoint sent its answer in too many small pieces",
    Mode.HEARTBEAT: "the endpoint sent more than 64 KiB",
    Mode.BLANK_LINES: "the endpoint sent more than 64 KiB",
    Mode.HEADERS: f"the endpoint {HEAD}",
    Mode.HEADER_LINE: f"the endpoint {HEAD}",
    Mode.CONTINUE: f"the endpoint {HEAD}",
    Mode.EARLY_HINTS: f"the endpoint {HEAD}",
    Mode.DRIP: f"the endpoint {LATE}",
    Mode.DRIP_HEAD: f"the endpoint {LATE}",
    Mode.SILENT: f"the endpoint {LATE}",
    Mode.DEEP: "the endpoint sent more than 64 KiB",
    Mode.MANY: "the endpoint sent more than 64 KiB",
    Mode.REDIRECT: "the endpoint refuses the request with HTTP status 307; check its address, model and context length",
    Mode.ANNOUNCED: "the endpoint sent more than 64 KiB",
    Mode.GIBBERISH: BROKE,
}


@modes
async def test_a_language_model(mode: Mode) -> None:
    # The right answer ends before the harm begins: then there is nothing to complain of.
    right = b"" if mode is Mode.SHORT else told(ANSWER)
    async with HostileServer(mode, lambda _: right, "http://elsewhere.invalid") as server:
        limits = Limits(body=64 * KIB, total=patience(mode), idle=patience(mode))
        endpoint = OpenAIEndpoint("llm", server.url, "m", client=HttpClient(limits))
        backup = ScriptedEndpoint("backup", [BACKUP, Draft(BACKUP, (Citation("[1]", "p1", 0, 7),), 1.0)])
        generator = Generator(
            [endpoint, backup],
            asyncio.get_running_loop().time,
            policy=BalancingPolicy(roles={"llm": Role.PRIMARY, "backup": Role.BACKUP}),
        )
        request = GenerationRequest("What is the fee?", PASSAGES)
        result = await survived(server, generator.generate(request))
        assert result == await generator.generate(request) or mode is Mode.TRAILERS  # the breaker is still closed
        status = generator.list_endpoints()[0]
        if mode is Mode.TRAILERS:
            assert status.error_message == ""
        else:
            assert result.answer == BACKUP  # type: ignore[attr-defined]
            assert status.error_message == REASONS.get(mode, BROKE)
        await generator.close()


# --- embedding models -----------------------------------------------------------------------------------------------


def vectors(_path: str) -> bytes:
    return json.dumps({"data": [{"index": 0, "embedding": [1.0] * DIMENSION}]}).encode()


@modes
async def test_an_embedding_model(mode: Mode) -> None:
    """(G4): questions fall back to words, and passages are refused for a reason."""
    async with HostileServer(mode, vectors, "http://elsewhere.invalid") as server:
        embedder = OpenAIEmbedder(
            server.url,
            EmbeddingModel("hashing-64", DIMENSION, 512),
            timeout=patience(mode),
            patience=patience(mode),
            query_timeout=patience(mode),
        )
        world = World()
        await world.add("a", "alpha")
        world.embedder = embedder
        result = await survived(server, world.retriever().retrieve(ALICE, RetrieveQuery("alpha")))
        assert [passage.key.document_id for passage in result.passages] == ["a"]  # type: ignore[attr-defined]
        assert [notice.code for notice in result.notices] == ["DENSE_SKIPPED"]  # type: ignore[attr-defined]
        server.sent = 0
        with pytest.raises(GroundwireError, match="embedding endpoint"):
            await survived(server, embedder.embed_passages(["alpha"]))
        await embedder.close()


# --- Chroma ---------------------------------------------------------------------------------------------------------

COLLECTION: dict[str, object] = {
    "id": "00000000-0000-0000-0000-000000000001",
    "name": f"gw-{PARTITION.key}",
    "configuration_json": {},
    "metadata": None,
    "dimension": DIMENSION,
    "tenant": "default_tenant",
    "database": "default_database",
    "version": 0,
    "log_position": 0,
}


def chroma(path: str, hits: object = None) -> bytes:
    if path.endswith(("/query", "/get")):
        return json.dumps(hits).encode()
    answers = {
        "identity": {"user_id": "", "tenant": "default_tenant", "databases": ["default_database"]},
        "default_tenant": {"name": "default_tenant"},
        "default_database": {"id": COLLECTION["id"], "name": "default_database", "tenant": "default_tenant"},
        "pre-flight-checks": {"max_batch_size": 10**30},
    }
    return json.dumps(answers.get(path.rpartition("/")[2], COLLECTION)).encode()


@modes
async def test_a_chroma_server_that_one_connects_to(mode: Mode) -> None:
    async with HostileServer(mode, chroma, "http://elsewhere.invalid") as server:
        connect = partial(ChromaVectorIndex.server, "127.0.0.1", server.port, timeout=patience(mode))
        with pytest.raises(Unavailable):
            await survived(server, asyncio.to_thread(connect))


@modes
async def test_a_chroma_server_that_is_searched(mode: Mode) -> None:
    async with HostileServer(mode, chroma, "http://elsewhere.invalid", only="/collections") as server:
        index = await asyncio.to_thread(ChromaVectorIndex.server, "127.0.0.1", server.port, timeout=PATIENCE)
        index._client._server._session._transport._client._limits = Limits(
            body=64 * KIB, total=patience(mode), idle=patience(mode)
        )
        vector = np.ones(DIMENSION, dtype=np.float32)
        calls: list[Callable[[], object]] = [
            lambda: index.search(PARTITION, vector, 10),
            lambda: index.upsert(PARTITION, ["a"], vector[None]),
            lambda: index.delete(PARTITION, ["a"]),
        ]
        for call in calls:
            server.sent = 0
            with pytest.raises(Unavailable):
                await survived(server, asyncio.to_thread(call))
        await asyncio.to_thread(index.close)


@pytest.mark.parametrize(
    "hits",
    [
        {},
        [],
        None,
        {"ids": [], "distances": []},
        {"ids": [["a", "b"]], "distances": [[0.5]]},
        {"ids": [["a"]], "distances": [["near"]]},
        {"ids": [["a"]], "distances": [[float("nan")]]},
        {"ids": [["a"]], "distances": [[10**400]]},
        {"ids": [[1]], "distances": [[0.5]]},
        {"ids": [["\ud83d"]], "distances": [[0.5]]},
        {"ids": [["a"]], "distances": [[0.5]], "metadatas": [[{"#": 1}]], "more": [[]] * 3000},
    ],
    ids=str,
)
async def test_hits_of_a_chroma_server_that_are_none(hits: object) -> None:
    async with HostileServer(Mode.SILENT, partial(chroma, hits=hits), only="/nowhere") as server:
        index = await asyncio.to_thread(ChromaVectorIndex.server, "127.0.0.1", server.port, timeout=PATIENCE)
        with pytest.raises(Unavailable):
            await asyncio.to_thread(index.search, PARTITION, np.ones(DIMENSION, dtype=np.float32), 10)
        await asyncio.to_thread(index.close)


async def test_hits_of_a_chroma_server_that_repeat_themselves_or_were_not_asked_for() -> None:
    hits = {"ids": [["a", "a", "b", "c"]], "distances": [[0.5, 0.5, 0.75, 0.75]]}
    async with HostileServer(Mode.SILENT, partial(chroma, hits=hits), only="/nowhere") as server:
        index = await asyncio.to_thread(ChromaVectorIndex.server, "127.0.0.1", server.port, timeout=PATIENCE)
        found = await asyncio.to_thread(index.search, PARTITION, np.ones(DIMENSION, dtype=np.float32), 2)
        assert found == [("a", 0.5), ("b", 0.25)]
        await asyncio.to_thread(index.close)


# --- signing keys ---------------------------------------------------------------------------------------------------


@modes
async def test_a_server_of_signing_keys(mode: Mode) -> None:
    def no_keys(_path: str) -> bytes:
        return b'{"keys": []}'

    async with HostileServer(mode, no_keys, "http://elsewhere.invalid") as server:
        fetcher = HttpsFetcher(server.url, timeout=patience(mode))
        if mode is Mode.CHARSET:
            assert await survived(server, fetcher.fetch(None)) is not None  # which is no key set then
        else:
            with pytest.raises(KeyFetchError, match="the key server"):
                await survived(server, fetcher.fetch(None))
        await fetcher.close()


# --- collectors of spans --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "problem"),
    [
        (Mode.BOMB, requests.RequestException),
        (Mode.ENDLESS, requests.RequestException),
        (Mode.CONTINUE, requests.RequestException),
        (Mode.HEADERS, requests.RequestException),
        (Mode.DRIP, requests.ReadTimeout),
        (Mode.SILENT, requests.ReadTimeout),
        (Mode.SHORT, requests.ConnectionError),
        (Mode.GIBBERISH, requests.ConnectionError),
    ],
    ids=lambda value: value.name.lower() if isinstance(value, Mode) else "",
)
async def test_a_collector_of_spans(mode: Mode, problem: type[Exception]) -> None:
    async with HostileServer(mode, lambda _: b"taken") as server:
        session = bounded_session()
        with pytest.raises(problem) as caught:
            await survived(server, asyncio.to_thread(session.post, server.url, data=b"spans", timeout=patience(mode)))
        assert type(caught.value) is problem  # what is no error of the connection is not tried again
        session.close()
