"""OpenAIEndpoint: any server that speaks OpenAI's streaming chat completions (llama.cpp, vLLM, Ollama, OpenAI, …).

Source: https://platform.openai.com/docs/api-reference/chat-streaming. What servers make of it, and what of a model's text is
let through, is the business of :mod:`services.generation.completions`; here are the connection, the statuses, and the
judgement about the answer. docs/endpoints.md lists every shape that is known.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from http import HTTPStatus
from typing import Any

from services.corpus.errors import FailedPrecondition, GroundwireError, ResourceExhausted, Unavailable
from services.embedding.ports import CrossEncoder
from services.generation.adapters.openai_request import Parameters
from services.generation.completions.completion import Completion, Ended
from services.generation.completions.parameters import refused_parameter
from services.generation.completions.sse import Event, EventTooLarge, SseDecoder
from services.generation.grounding import cite, claims, messages
from services.generation.ports import Draft, Passage, Unreached, Usage, abstention
from services.http.client import Answer, HttpClient
from services.http.limits import KIB, MIB, Broken, HttpProblem, Limits, NotConnected
from services.http.pauses import Pauses

_MOST_CLAIMS = 8  # of an answer that are checked by the cross-encoder
_MOST_RETRY_AFTER = 300.0
_DISCLAIMED = 0.5  # what is left of the confidence in an answer that its own model also says is not in the sources
_MOST_ERROR_BYTES = 16 * KIB
_MOST_BODY_BYTES = MIB  # of an answer that is not streamed
_MOST_STREAM_BYTES = 16 * MIB
_MOST_TRIES = 6  # of one question, each without one more parameter
_JSON_BEGINS = (bytearray(b"{"), bytearray(b"["))
_BEFORE_JSON = b"\xef\xbb\xbf \t\r\n"
_LONGEST_HEAD = 64
# Statuses that are about something else than the request's parameters.
_NOT_ABOUT_PARAMETERS = frozenset({401, 402, 403, 407, 408, 413, 429, 502, 503, 504})
_log = logging.getLogger(__name__)


class OpenAIEndpoint:
    """Answers by a language model behind ``{base_url}/chat/completions``.

    ``timeout`` is seconds without a byte, ``total`` seconds of waiting in all, ``connect_timeout`` seconds to connect. With a ``support`` cross-encoder
    (not closed with the endpoint) the confidence is how well each claim is supported by what it cites, without one
    how many of its words are. ``parameters`` are sent until the server refuses one: then it is left out, or renamed,
    and that is kept once it helped. ``opened`` tells that the model's chat template opens its thoughts, so that all
    text up to their end belongs to them; without it that is found out by the first such answer. ``client`` stands in
    for the network in tests. The API key is kept in the client's headers alone, and never shown.
    """

    def __init__(
        self,
        name: str,
        base_url: str,
        model: str,
        *,
        api_key: str | None = None,
        timeout: float = 60.0,
        total: float = 600.0,
        connect_timeout: float = 5.0,
        support: CrossEncoder | None = None,
        parameters: Parameters | None = None,
        opened: bool = False,
        client: HttpClient | None = None,
    ) -> None:
        if api_key is not None and not (api_key.isascii() and api_key.isprintable() and api_key.strip() == api_key):
            # Checked here because the HTTP library would show the value in its error.
            raise ValueError(f"the API key of endpoint {name} has characters that a header cannot carry")
        self._name = name
        self._model = model
        self._support = support
        self._parameters = parameters or Parameters()
        self._opened: bool | None = opened
        self._url = f"{base_url.rstrip('/')}/chat/completions"
        limits = Limits(body=_MOST_STREAM_BYTES, total=total, idle=timeout, connect=connect_timeout)
        self._client = client or HttpClient(limits, headers={"authorization": f"Bearer {api_key}"} if api_key else {})

    @property
    def name(self) -> str:
        """The configured name."""
        return self._name

    @property
    def kind(self) -> str:
        """Always "openai"."""
        return "openai"

    @property
    def model(self) -> str:
        """The model that the server is asked for."""
        return self._model

    async def answer(
        self, question: str, passages: Sequence[Passage], max_tokens: int
    ) -> AsyncGenerator[str | Draft, None]:
        """See :class:`services.generation.ports.AnswerEndpoint`."""
        if not passages:
            draft = abstention()
            yield draft.answer
            yield draft
            return
        chat = messages(question, passages)
        prompt = sum(len(message["content"].encode("utf-8", "replace")) for message in chat)
        completion = Completion(passages, max_tokens, prompt=prompt, opened=self._opened)
        pauses = Pauses()
        try:
            with _explained():
                async with aclosing(self._events(chat, max_tokens)) as events:
                    async for event in events:
                        for shown in completion.steps(event):
                            # Empty while a piece is held back: a sign of life.
                            yield shown
                            await pauses.pause()
                        if completion.done:
                            break
        except Unavailable as error:
            # A connection that breaks behind the end takes nothing away.
            if not (completion.complete and isinstance(error.__cause__, HttpProblem)):
                raise
        ended = completion.finish()
        if self._opened is not True:
            self._opened = None if completion.began_inside else False
        usage = Usage(ended.read, ended.written)
        if not ended.text:
            draft = abstention(usage=usage)
            yield draft.answer
            yield draft
            return
        if ended.rest is not None:
            yield ended.rest
        yield await self._draft(ended, passages, usage)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _events(self, chat: list[dict[str, str]], max_tokens: int) -> AsyncGenerator[Event, None]:
        """The events of a completion; raise when the server refuses it. A refused parameter is left out, once."""
        parameters = self._parameters
        for number in range(_MOST_TRIES):
            body = parameters.body(self._model, chat, max_tokens)
            content = json.dumps(body, ensure_ascii=False).encode()
            async with self._client.call("POST", self._url, content=content) as response:
                if response.status == HTTPStatus.OK:
                    self._keep(parameters)
                    async with aclosing(_events_of(response)) as events:
                        async for event in events:
                            yield event
                    return
                refused = await _refused_parameter(response, body)
                fitted = parameters.without(refused) if refused and number + 1 < _MOST_TRIES else None
                if fitted is None:
                    raise _refusal(response, f"{refused}: {parameters.advice(refused)}" if refused else "")
                parameters = fitted

    def _keep(self, parameters: Parameters) -> None:
        """Go on with what the server took."""
        before, self._parameters = self._parameters, parameters
        refused = sorted(parameters.omitted - before.omitted)
        if refused:
            _log.warning(
                "endpoint %s refuses the parameter %s and is asked without it from now on; %s to spare it the try",
                self._name,
                ", ".join(refused),
                Parameters.settings(parameters),
            )

    async def _draft(self, ended: Ended, passages: Sequence[Passage], usage: Usage) -> Draft:
        # In a thread: cutting and stemming long sources takes a while.
        citations, confidence = await asyncio.to_thread(cite, ended.text, passages)
        if self._support is not None:
            confidence = await self._supported(self._support, ended.text, passages)
        if ended.disclaimed:
            confidence *= _DISCLAIMED
        return Draft(ended.text, citations, confidence, usage=usage, notices=ended.notices)

    async def _supported(self, encoder: CrossEncoder, answer: str, passages: Sequence[Passage]) -> float:
        """The mean support (0 to 1) of the answer's claims: of each the best of the sources that it cites, else 0."""
        checked = claims(answer, len(passages))[:_MOST_CLAIMS]
        supports = []
        for claim, numbers in checked:
            texts = [passages[number - 1].text for number in dict.fromkeys(numbers)]
            logits = [logit for logit in await encoder.score(claim, texts) if logit is not None] if texts else []
            supports.append(max((1.0 / (1.0 + math.exp(-logit)) for logit in logits), default=0.0))
        return sum(supports) / len(supports) if supports else 0.0


async def _events_of(response: Answer) -> AsyncGenerator[Event, None]:
    """The events of a stream, or a body of JSON as one event: some servers do not stream, asked or not."""
    decoder = SseDecoder()
    head: bytearray | None = bytearray()
    body = bytearray()
    whole = False
    async with aclosing(response.pieces()) as pieces:
        async for data in pieces:
            piece = data
            if head is not None:
                head += data
                begun = head.lstrip(_BEFORE_JSON)
                if not begun and len(head) <= _LONGEST_HEAD:
                    continue
                piece, head, whole = bytes(head), None, begun[:1] in _JSON_BEGINS
            if not whole:
                for event in decoder.feed(piece):
                    yield event
                continue
            body += piece
            if len(body) > _MOST_BODY_BYTES:
                raise EventTooLarge("an answer is too large")
            yield Event("")  # a sign of life
    if whole:
        yield Event(body.decode("utf-8-sig", "replace"), whole=True)
    for event in decoder.finish():
        yield event


@contextmanager
def _explained() -> Iterator[None]:
    """What became of a call, as errors of the domain."""
    try:
        yield
    except NotConnected as error:
        raise Unreached(f"the endpoint {error.words}") from error
    except Broken as error:
        raise Unavailable("the connection to the endpoint failed") from error
    except HttpProblem as error:
        raise Unavailable(f"the endpoint {error.words}") from error
    except EventTooLarge as error:
        raise Unavailable("the endpoint's answer could not be read") from error


async def _refused_parameter(response: Answer, body: dict[str, Any]) -> str | None:
    if response.status < HTTPStatus.BAD_REQUEST or response.status in _NOT_ABOUT_PARAMETERS:
        return None
    read = bytearray()
    async with aclosing(response.pieces()) as pieces:
        async for data in pieces:
            read += data
            if len(read) > _MOST_ERROR_BYTES:
                break
    return refused_parameter(read[:_MOST_ERROR_BYTES].decode("utf-8", "replace"), set(body))


def _refusal(response: Answer, parameter: str) -> GroundwireError:
    """The error for a status other than 200; the body is not shown: it may repeat the question or the key."""
    status = response.status
    if parameter:
        return FailedPrecondition(f"the endpoint refuses (HTTP status {status}) the parameter {parameter}")
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return FailedPrecondition("the endpoint refuses the configured credentials")
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return ResourceExhausted(
            "the endpoint's rate limit was reached", retry_after=_retry_after(response, default=0.0)
        )
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status == HTTPStatus.REQUEST_TIMEOUT:
        return Unavailable(f"the endpoint failed with HTTP status {status}", retry_after=_retry_after(response))
    return FailedPrecondition(
        f"the endpoint refuses the request with HTTP status {status}; check its address, model and context length"
    )


def _retry_after(response: Answer, default: float = 1.0) -> float:
    """Seconds to wait; the date form of the header is not worth a clock here."""
    value = response.header("retry-after")
    return min(float(value), _MOST_RETRY_AFTER) if value.isascii() and value.isdigit() else default
