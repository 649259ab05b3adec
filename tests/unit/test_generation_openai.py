"""The OpenAI-compatible endpoint against a real HTTP server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import aclosing

import pytest

from services.corpus.errors import FailedPrecondition, GroundwireError, ResourceExhausted, Unavailable
from services.embedding.memory import OverlapCrossEncoder
from services.generation import assembly
from services.generation.adapters.openai import OpenAIEndpoint
from services.generation.grounding import SENTINEL
from services.generation.ports import ABSTENTION, Draft, Passage, Unreached, Usage
from services.generation.settings import EndpointOptions, GenerationOptions
from tests.support.generation_server import DONE, Reply, chat_server, chunk, completion

PASSAGES = (Passage("p1", "Parking", "The garage has 38 spaces.", 0.9),)
KEY = "sk-very-secret"


async def pieces(endpoint: OpenAIEndpoint, max_tokens: int = 1000) -> list[str | Draft]:
    return [item async for item in endpoint.answer("How many spaces?", PASSAGES, max_tokens)]


async def answer(reply: Reply, *, support: bool = False) -> tuple[str, Draft]:
    async with chat_server(lambda _: reply) as server:
        encoder = OverlapCrossEncoder() if support else None
        endpoint = OpenAIEndpoint("llm", server.base_url, "m", api_key=KEY, support=encoder)
        items = await pieces(endpoint)
        await endpoint.close()
    draft = items[-1]
    assert isinstance(draft, Draft)
    return "".join(item for item in items if isinstance(item, str)), draft


async def failure(reply: Reply, *, patience: float = 60.0) -> GroundwireError:
    async with chat_server(lambda _: reply) as server:
        endpoint = OpenAIEndpoint("llm", server.base_url, "m", api_key=KEY, timeout=patience)
        with pytest.raises(GroundwireError) as caught:
            await pieces(endpoint)
        await endpoint.close()
    return caught.value


async def test_the_request_is_what_the_api_wants() -> None:
    async with chat_server() as server:
        endpoint = OpenAIEndpoint("llm", server.base_url + "/", "some-model", api_key=KEY)
        await pieces(endpoint, max_tokens=77)
        await endpoint.close()
    [request] = server.requests
    assert (request["model"], request["max_tokens"], request["stream"]) == ("some-model", 77, True)
    assert request["stream_options"] == {"include_usage": True}
    assert [message["role"] for message in request["messages"]] == ["system", "user"]
    assert "The garage has 38 spaces." in request["messages"][1]["content"]
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"


async def test_settings_say_which_parameters_are_sent() -> None:
    options = EndpointOptions.model_validate(
        {
            "name": "llm",
            "model": "m",
            "max_tokens_parameter": "max_completion_tokens",
            "omit_parameters": ["stream_options"],
            "extra_parameters": {"temperature": 1, "chat_template_kwargs": {"enable_thinking": False}},
            "url": "http://127.0.0.1:1/v1",
        }
    )
    async with chat_server() as server:
        encoder = OverlapCrossEncoder()
        endpoint = assembly._endpoint(options.model_copy(update={"url": server.base_url}), encoder, GenerationOptions())
        assert isinstance(endpoint, OpenAIEndpoint)
        await pieces(endpoint, max_tokens=77)
        await endpoint.close()
    [request] = server.requests
    assert set(request) == {
        "model",
        "messages",
        "max_completion_tokens",
        "temperature",
        "stream",
        "chat_template_kwargs",
    }
    assert (request["max_completion_tokens"], request["temperature"]) == (77, 1)
    assert request["chat_template_kwargs"] == {"enable_thinking": False}


async def test_a_model_name_that_cannot_be_sent_is_replaced() -> None:
    async with chat_server() as server:
        endpoint = OpenAIEndpoint("llm", server.base_url, "m\ud83d")
        await pieces(endpoint)
        await endpoint.close()
    assert server.requests[0]["model"] == "m\ufffd"


async def test_a_server_that_stays_behind_the_end_is_not_waited_for() -> None:
    hold = asyncio.Event()
    reply = Reply([chunk("38 spaces [1]."), chunk(finish="stop"), DONE], hold=hold)
    async with chat_server(lambda _: reply) as server:
        endpoint = OpenAIEndpoint("llm", server.base_url, "m")
        items = await pieces(endpoint)
        assert isinstance(items[-1], Draft)
        assert items[-1].answer == "38 spaces [1]."
        assert not hold.is_set()
        await endpoint.close()


async def test_without_a_key_no_authorization_is_sent() -> None:
    async with chat_server() as server:
        endpoint = OpenAIEndpoint("llm", server.base_url, "m")
        await pieces(endpoint)
        await endpoint.close()
    assert "authorization" not in server.headers[0]


async def test_pieces_arrive_while_the_server_still_writes() -> None:
    hold = asyncio.Event()
    reply = Reply([chunk("38 spaces [1]."), chunk(" Indeed")], hold=hold)
    async with chat_server(lambda _: reply) as server:
        endpoint = OpenAIEndpoint("llm", server.base_url, "m")
        async with aclosing(endpoint.answer("How many?", PASSAGES, 100)) as items:
            assert await anext(items) == "38 spaces [1]."
            assert not hold.is_set()
        # Leaving in the middle closes the connection, which stops a server that would go on writing.
        await server.gone.wait()
        await endpoint.close()


async def test_cancelling_a_waiting_answer_closes_the_connection() -> None:
    reply = Reply([chunk("38")], hold=asyncio.Event())
    async with chat_server(lambda _: reply) as server:
        endpoint = OpenAIEndpoint("llm", server.base_url, "m")
        begun = asyncio.Event()

        async def read() -> None:
            async with aclosing(endpoint.answer("How many?", PASSAGES, 100)) as items:
                async for _ in items:
                    begun.set()

        task = asyncio.create_task(read())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.gone.wait()
        await endpoint.close()


@pytest.mark.parametrize(
    "wire",
    [
        b"".join(completion("It has 38", " spaces [1]", ".")),
        b"".join(completion("It has 38", " spaces [1]", ".")).replace(b"\n", b"\r\n"),
        b": ping\n\n" + b"".join(completion("It has 38", " spaces [1]", ".")),
        # Without [DONE], as some servers do, and without usage.
        chunk("It has 38 spaces [1].") + chunk(finish="length"),
        # With fields and shapes that say nothing.
        b'data: {"choices": [], "x": 1}\n\ndata: {"choices": [{"delta": {"role": "assistant", "content": null}}]}\n\n'
        + chunk("It has 38 spaces [1].")
        + DONE,
    ],
)
@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_the_stream_is_read_however_it_is_cut(wire: bytes, size: int) -> None:
    text, draft = await answer(Reply([wire[i : i + size] for i in range(0, len(wire), size)]))
    assert text == draft.answer == "It has 38 spaces [1]."
    assert [(c.passage_id, c.start, c.end) for c in draft.citations] == [("p1", 0, 25)]


async def test_usage_is_the_servers_or_estimated() -> None:
    assert (await answer(Reply(completion("38 [1]"))))[1].usage == Usage(100, 20)
    estimated = (await answer(Reply([chunk("38 [1]"), DONE])))[1].usage
    assert estimated.output_tokens == 2
    assert estimated.input_tokens > 100


@pytest.mark.parametrize("texts", [(SENTINEL,), ("NO_", "ANSWER", "_IN_SOURCES."), ("It is 38.",), ("It is 38 [4].",)])
async def test_the_sentinel_and_answers_without_a_valid_citation_become_abstentions(texts: Sequence[str]) -> None:
    text, draft = await answer(Reply(completion(*texts)))
    assert text == draft.answer == ABSTENTION
    assert (draft.abstained, draft.citations) == (True, ())


async def test_confidence_is_the_share_of_words_that_the_sources_support() -> None:
    good = (await answer(Reply(completion("The garage has 38 spaces [1]."))))[1].confidence
    vague = (await answer(Reply(completion("The garage has a pool and a cinema [1]."))))[1].confidence
    doubtful = (await answer(Reply(completion("The garage has 38 spaces [1]. ", SENTINEL))))[1].confidence
    assert good == 1.0
    assert vague < 0.5
    assert doubtful == 0.5


async def test_a_cross_encoder_judges_the_claims_against_what_they_cite() -> None:
    good = (await answer(Reply(completion("The garage has 38 spaces [1].")), support=True))[1].confidence
    half = (await answer(Reply(completion("The garage has 38 spaces [1]. So says she.")), support=True))[1].confidence
    assert good > 0.99
    assert half == pytest.approx(good / 2, abs=0.01)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, FailedPrecondition),
        (403, FailedPrecondition),
        (404, FailedPrecondition),
        (400, FailedPrecondition),
        (302, FailedPrecondition),
        (408, Unavailable),
        (429, ResourceExhausted),
        (500, Unavailable),
        (503, Unavailable),
    ],
)
async def test_statuses_become_domain_errors_that_tell_nothing(status: int, error: type[GroundwireError]) -> None:
    raised = await failure(Reply([b'{"error": "the key sk-very-secret asked: How many spaces?"}'], status=status))
    assert type(raised) is error
    assert KEY not in raised.message
    assert "spaces" not in raised.message


@pytest.mark.parametrize(("value", "seconds"), [("17", 17.0), ("100000", 300.0), ("soon", 0.0), ("-5", 0.0)])
async def test_a_rate_limit_says_when_to_come_back(value: str, seconds: float) -> None:
    raised = await failure(Reply(status=429, headers=[("retry-after", value)]))
    assert isinstance(raised, ResourceExhausted)
    assert raised.retry_after == seconds


@pytest.mark.parametrize(
    "reply",
    [
        Reply([chunk("It has 38 spaces [1].")], cut=True),
        Reply([chunk("It has 38 spaces [1].")]),
        Reply([chunk("It has"), b'data: {"error": {"message": "overloaded"}}\n\n', DONE]),
        Reply([b"data: {not json\n\n"]),
        Reply([b"data: [1, 2]\n\n"]),
        Reply([b"data: " + b"x" * 3_000_000]),
        Reply([b'{"choices": [{"message": {"content": "no stream"}}]}']),
    ],
)
async def test_a_stream_that_breaks_off_or_makes_no_sense_is_a_failure(reply: Reply) -> None:
    assert isinstance(await failure(reply), Unavailable)


async def test_a_silent_server_is_given_up() -> None:
    raised = await failure(Reply([chunk("It")], hold=asyncio.Event()), patience=0.05)
    assert isinstance(raised, Unavailable)
    assert raised.message == "the endpoint did not answer in time"


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    async with chat_server() as server:
        address = server.base_url
    endpoint = OpenAIEndpoint("llm", address, "m", api_key=KEY)
    with pytest.raises(Unreached, match="could not be reached"):
        await pieces(endpoint)
    await endpoint.close()


async def test_the_key_is_never_shown(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with chat_server(lambda _: Reply(status=500)) as server:
        endpoint = OpenAIEndpoint("llm", server.base_url, "m", api_key=KEY)
        with pytest.raises(Unavailable):
            await pieces(endpoint)
        await endpoint.close()
    assert KEY not in repr(endpoint)
    assert KEY not in str(vars(endpoint))
    assert KEY not in caplog.text


@pytest.mark.parametrize("key", ["sk-secret\n", "sk-sécret", " sk-secret", "sk\rsecret"])
def test_a_key_that_no_header_carries_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(ValueError, match="characters") as caught:
        OpenAIEndpoint("llm", "http://127.0.0.1:1/v1", "m", api_key=key)
    assert key.strip() not in str(caught.value)
