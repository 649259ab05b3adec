"""GenerationService over real gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from groundwire.generation.v1 import generation_service_pb2 as pb
from groundwire.generation.v1 import generation_service_pb2_grpc
from services.corpus.errors import Unavailable
from services.corpus.principal import Caller
from services.embedding.memory import OverlapCrossEncoder
from services.generation.adapters.extractive import ExtractiveEndpoint
from services.generation.adapters.memory import ScriptedEndpoint
from services.generation.adapters.openai import OpenAIEndpoint
from services.generation.convert import parse_request
from services.generation.generation import Generator
from services.generation.ports import AnswerEndpoint
from services.generation.servicer import GenerationServicer
from tests.support.fake_http import FakeAnswer, FakeHttpClient
from tests.support.serving import running_out_of_time

REQUEST = pb.GenerateRequest(
    query="How many parking spaces does the garage have?",
    passages=[
        pb.Passage(passage_id="lunch#1", title="Canteen", text="Lunch costs €4.50.", score=0.3),
        pb.Passage(
            passage_id="garage#1", title="Parking", text="The garage has 38 parking spaces. It is open.", score=0.9
        ),
    ],
)


# A caller, and the service that acts for it.
ALICE = Caller("acme", "alice")
QUERY = replace(ALICE, acting_service="query")


@asynccontextmanager
async def serving(
    tmp_path: Path, endpoints: Sequence[AnswerEndpoint], caller: Caller = QUERY
) -> AsyncIterator[generation_service_pb2_grpc.GenerationServiceAsyncStub]:
    generator = Generator(endpoints, asyncio.get_running_loop().time)
    server = grpc.aio.server()
    generation_service_pb2_grpc.add_GenerationServiceServicer_to_server(
        GenerationServicer(generator, lambda: caller), server
    )
    address = f"unix:{tmp_path}/s"
    server.add_insecure_port(address)
    await server.start()
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            yield generation_service_pb2_grpc.GenerationServiceStub(channel)
    finally:
        await server.stop(None)


def extractive() -> ExtractiveEndpoint:
    return ExtractiveEndpoint(OverlapCrossEncoder(), budget=None)


async def test_callers_bring_no_passages_of_their_own(tmp_path: Path) -> None:
    """(X1): what they bring was not found under their rights, nor is it bounded by what passages of documents are."""
    async with serving(tmp_path, [extractive()], ALICE) as stub:
        with pytest.raises(grpc.aio.AioRpcError, match=r"generation\.callers_may_bring_passages"):
            await stub.Generate(REQUEST)
        with pytest.raises(grpc.aio.AioRpcError, match=r"generation\.callers_may_bring_passages"):
            _ = [event async for event in stub.StreamGenerate(REQUEST)]
        assert not (await stub.Generate(pb.GenerateRequest(query="How many parking spaces?"))).citations


async def test_generate_answers_with_citations(tmp_path: Path) -> None:
    async with serving(tmp_path, [extractive()]) as stub:
        response = await stub.Generate(REQUEST)
    assert response.answer == "The garage has 38 parking spaces. [2]"
    assert [(c.marker, c.passage_id, c.start_offset, c.end_offset) for c in response.citations] == [
        ("[2]", "garage#1", 0, 33)
    ]
    assert response.endpoint == "extractive"


async def test_a_stream_starts_over_with_the_next_endpoint(tmp_path: Path) -> None:
    broken = ScriptedEndpoint("broken", ["The garage ", Unavailable("down")])
    async with serving(tmp_path, [broken, extractive()]) as stub:
        events = [event async for event in stub.StreamGenerate(REQUEST)]
        listed = await stub.ListEndpoints(pb.ListEndpointsRequest())
    assert [event.WhichOneof("event") for event in events] == [
        "attempt",
        "delta",
        "reset",
        "attempt",
        "delta",
        "final",
    ]
    assert events[-2].delta.text == events[-1].final.answer
    assert [(e.name, e.kind, e.healthy, e.error_message) for e in listed.endpoints] == [
        ("broken", "scripted", False, "down"),
        ("extractive", "extractive", True, ""),
    ]


@pytest.mark.parametrize(
    "wire",
    [
        b"[" * 5_000,
        b"data: " + b'{"choices": ' * 3_000 + b"\n\n",
        b'data: {"usage": {"prompt_tokens": 1' + b"0" * 30 + b', "completion_tokens": -7}}\n\n',
        b'data: {"error": {"type": "\\ud83d", "code": 1' + b"0" * 30 + b"}}\n\n",
        b'event: \xed\xa0\xbd\ndata: {"choices": [{"delta": {"content": "\\ud83d"}}]}\n\n',
    ],
    ids=["deep", "deep-event", "usage", "error", "surrogates"],
)
async def test_the_backup_answers_for_an_endpoint_whose_answer_cannot_be_used(tmp_path: Path, wire: bytes) -> None:
    """(G3)."""
    client = FakeHttpClient(lambda _content: FakeAnswer(200, [wire]))
    harmful = OpenAIEndpoint("llm", "http://llm.test/v1", "m", client=client)
    async with serving(tmp_path, [harmful, extractive()]) as stub:
        response = await stub.Generate(REQUEST)
        events = [event async for event in stub.StreamGenerate(REQUEST)]
        listed = await stub.ListEndpoints(pb.ListEndpointsRequest())
    assert response.endpoint == "extractive"
    assert events[-1].final.answer == response.answer == "The garage has 38 parking spaces. [2]"
    assert response.usage.input_tokens + response.usage.output_tokens < 10_000
    assert not listed.endpoints[0].healthy
    assert "unexpectedly" not in listed.endpoints[0].error_message
    with pytest.raises(Unavailable, match="no endpoint answered"):
        await Generator([harmful], asyncio.get_running_loop().time).generate(parse_request(REQUEST))


@pytest.mark.parametrize("leave", ["cancel", "deadline"])
async def test_a_client_that_leaves_ends_the_endpoints_work(tmp_path: Path, leave: str) -> None:
    endpoint = ScriptedEndpoint("slow", ["The garage ", asyncio.Event()])
    async with serving(tmp_path, [endpoint]) as stub:
        if leave == "cancel":
            call = stub.StreamGenerate(REQUEST)
            await endpoint.waiting.wait()
            assert endpoint.open == 1
            call.cancel()
        else:
            call = await running_out_of_time(
                lambda seconds: stub.StreamGenerate(REQUEST, timeout=seconds), endpoint.waiting.is_set
            )
        await endpoint.ended.wait()
        status = (await stub.ListEndpoints(pb.ListEndpointsRequest())).endpoints[0]
    assert (status.in_flight, status.healthy) == (0, True)
