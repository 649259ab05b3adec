"""OpenAIEndpoint: any server that speaks OpenAI's streaming chat completions (llama.cpp, vLLM, Ollama, OpenAI, …).

Source: https://platform.openai.com/docs/api-reference/chat-streaming. What the model writes passes
:class:`services.generation.grounding.AnswerFilter`, so an answer without a single valid citation is never shown: it
becomes an abstention.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from http import HTTPStatus
from typing import Any

import httpx

from services.corpus.errors import FailedPrecondition, GroundwireError, ResourceExhausted, Unavailable
from services.embedding.ports import CrossEncoder
from services.generation.grounding import AnswerFilter, cite, claims, messages
from services.generation.ports import Draft, Passage, Unreached, Usage, abstention
from services.generation.sse import EventTooLarge, SseDecoder

_DONE = "[DONE]"
_CHARACTERS_PER_TOKEN = 4  # of English text, where a server does not count
_MOST_CLAIMS = 8  # of an answer that are checked by the cross-encoder
_MOST_RETRY_AFTER = 300.0
_DISCLAIMED = 0.5  # what is left of the confidence in an answer that its own model also says is not in the sources


class OpenAIEndpoint:
    """Answers by a language model behind ``{base_url}/chat/completions``.

    ``timeout`` is seconds without a byte, ``connect_timeout`` seconds to connect. With a ``support`` cross-encoder
    (not closed with the endpoint) the confidence is how well each claim is supported by what it cites, without one
    how many of its words are. ``transport`` stands in for the network in tests. No proxy or other setting is taken
    from the environment. The API key is kept in the client's headers alone, and never shown.
    """

    def __init__(
        self,
        name: str,
        base_url: str,
        model: str,
        *,
        api_key: str | None = None,
        timeout: float = 60.0,
        connect_timeout: float = 5.0,
        support: CrossEncoder | None = None,
        temperature: float = 0.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        if api_key is not None and not (api_key.isascii() and api_key.isprintable() and api_key.strip() == api_key):
            # Checked here because the HTTP library would show the value in its error.
            raise ValueError(f"the API key of endpoint {name} has characters that a header cannot carry")
        self._name = name
        self._model = model
        self._temperature = temperature
        self._support = support
        self._url = f"{base_url.rstrip('/')}/chat/completions"
        self._client = httpx.AsyncClient(
            headers={"authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(timeout, connect=connect_timeout),
            transport=transport,
            trust_env=False,
        )

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
        text = AnswerFilter(len(passages))
        answer = ""
        written = 0
        usage: Usage | None = None
        async with aclosing(self._chunks(chat, max_tokens)) as chunks:
            async for chunk in chunks:
                usage = _usage(chunk) or usage
                piece = _content(chunk)
                written += len(piece)
                shown = text.feed(piece)
                answer += shown
                # Empty while a piece is held back: a sign of life.
                yield shown
        rest = text.finish()
        answer += rest
        yield rest
        if usage is None:
            read = sum(len(message["content"]) for message in chat)
            usage = Usage(_estimate(read), _estimate(written))
        if answer:
            yield await self._draft(answer, passages, usage, disclaimed=text.disclaimed)
        else:
            draft = abstention(usage=usage)
            yield draft.answer
            yield draft

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _chunks(self, chat: Sequence[Mapping[str, str]], max_tokens: int) -> AsyncGenerator[dict[str, Any], None]:
        """The chunks of a completion, to its end; raise when the server refuses it or breaks it off."""
        finished = False
        with _explained():
            async with self._client.stream("POST", self._url, json=self._body(chat, max_tokens)) as response:
                if response.status_code != HTTPStatus.OK:
                    raise _refused(response)
                decoder = SseDecoder()
                async for data in response.aiter_bytes():
                    for event in decoder.feed(data):
                        if event == _DONE:
                            finished = True
                            continue
                        chunk = _parse(event)
                        finished = finished or _is_last(chunk)
                        yield chunk
        if not finished:
            raise Unavailable("the connection to the endpoint ended in the middle of an answer")

    def _body(self, chat: Sequence[Mapping[str, str]], max_tokens: int) -> dict[str, object]:
        return {
            "model": self._model,
            "messages": chat,
            "max_tokens": max_tokens,
            "temperature": self._temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
        }

    async def _draft(self, answer: str, passages: Sequence[Passage], usage: Usage, *, disclaimed: bool) -> Draft:
        # In a thread: cutting and stemming long sources takes a while.
        citations, confidence = await asyncio.to_thread(cite, answer, passages)
        if self._support is not None:
            confidence = await self._supported(self._support, answer, passages)
        if disclaimed:
            confidence *= _DISCLAIMED
        return Draft(answer, citations, confidence, usage=usage)

    async def _supported(self, encoder: CrossEncoder, answer: str, passages: Sequence[Passage]) -> float:
        """The mean support (0 to 1) of the answer's claims: of each the best of the sources that it cites, else 0."""
        checked = claims(answer)[:_MOST_CLAIMS]
        supports = []
        for claim, numbers in checked:
            texts = [passages[number - 1].text for number in dict.fromkeys(numbers)]
            logits = [logit for logit in await encoder.score(claim, texts) if logit is not None] if texts else []
            supports.append(max((1.0 / (1.0 + math.exp(-logit)) for logit in logits), default=0.0))
        return sum(supports) / len(supports) if supports else 0.0


@contextmanager
def _explained() -> Iterator[None]:
    """What the HTTP library raises, as errors of the domain."""
    try:
        yield
    except httpx.ConnectTimeout as error:
        raise Unreached("the endpoint did not answer in time") from error
    except httpx.ConnectError as error:
        raise Unreached("the connection to the endpoint failed") from error
    except httpx.TimeoutException as error:
        raise Unavailable("the endpoint did not answer in time") from error
    except httpx.HTTPError as error:
        raise Unavailable("the connection to the endpoint failed") from error
    except EventTooLarge as error:
        raise Unavailable("the endpoint's answer could not be read") from error


def _estimate(characters: int) -> int:
    return -(-characters // _CHARACTERS_PER_TOKEN)


def _refused(response: httpx.Response) -> GroundwireError:
    """The error for a status other than 200; the body is never read: it may repeat the question or the key."""
    status = response.status_code
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


def _retry_after(response: httpx.Response, default: float = 1.0) -> float:
    """Seconds to wait; the date form of the header is not worth a clock here."""
    value = response.headers.get("retry-after", "")
    return min(float(value), _MOST_RETRY_AFTER) if value.isascii() and value.isdigit() else default


def _parse(event: str) -> dict[str, Any]:
    try:
        chunk = json.loads(event)
    except ValueError as error:
        raise Unavailable("the endpoint's answer could not be read") from error
    if not isinstance(chunk, dict):
        raise Unavailable("the endpoint's answer could not be read")
    if chunk.get("error"):
        raise Unavailable("the endpoint reported an error in the middle of an answer")
    return chunk


def _choice(chunk: Mapping[str, Any]) -> Mapping[str, Any]:
    choices = chunk.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, dict) else {}


def _content(chunk: Mapping[str, Any]) -> str:
    delta = _choice(chunk).get("delta")
    content = delta.get("content") if isinstance(delta, dict) else None
    return content if isinstance(content, str) else ""


def _is_last(chunk: Mapping[str, Any]) -> bool:
    return _choice(chunk).get("finish_reason") is not None


def _usage(chunk: Mapping[str, Any]) -> Usage | None:
    usage = chunk.get("usage")
    if not isinstance(usage, dict):
        return None
    counts = [usage.get("prompt_tokens"), usage.get("completion_tokens")]
    read, written = (count if isinstance(count, int) and count >= 0 else 0 for count in counts)
    return Usage(read, written)
