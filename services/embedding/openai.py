"""Embeddings from any server that speaks OpenAI's ``POST /v1/embeddings`` (vLLM, llama.cpp, TEI, Ollama, OpenAI)."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Literal

import httpx
import numpy as np
from numpy.typing import NDArray

from services.corpus.errors import FailedPrecondition, ResourceExhausted, Unavailable
from services.embedding.pace import Pace
from services.embedding.ports import EmbeddingModel
from services.embedding.tokens import well_formed
from services.http.client import HttpClient
from services.http.json_values import read_json
from services.http.limits import KIB, HttpProblem, Limits, TooMuch, TooSlow

# Their tokenizer is not known here. English has more than four characters a token; where a server finds a text too
# long all the same, as with scripts that take a token or more for each character, shorter cuts are tried.
_CHARACTERS_PER_TOKEN = (4.0, 1.0, 0.25)
_TOO_LONG = frozenset({400, 413, 422})
_TOO_SLOW = frozenset({408, 504, 524})
# What an answer has: numbers, which are the longest in decimal ("-1.2345678901234567e-05, "), and names around them.
_BYTES_PER_NUMBER = 32
_BYTES_PER_TEXT = 512
_BYTES_AROUND = 64 * KIB
_OTHER_DIMENSION = 8192
_VALUES_PER_TEXT = 16
_VALUES_AROUND = 256
_QUESTIONS_AT_ONCE = 64
_MOST_KEPT = 4096
_MAX_RETRY_AFTER = 3600.0
_LONGEST_DATE = 64


class OpenAIEmbedder:
    """An :class:`~services.embedding.ports.Embedder` behind an OpenAI-compatible endpoint.

    It does not retry failures: the caller's circuit breaker and retry budget decide about that. What is slow has not
    failed: passages are asked for in smaller requests then, and a request that is refused, or answered by half, is asked
    for in parts (:class:`~services.embedding.pace.Pace`). What was computed before a call failed, or its caller gave up,
    is kept for when the same texts come again. An answer has at most the bytes and values that such vectors need.

    Raises:
        FailedPrecondition: From the constructor, when the key cannot be sent in a header; from calls, when the server
            refuses the request, the key or the model (4xx) or answers with another dimension.
        ResourceExhausted: The server is limiting us (429); ``retry_after`` is what it asked for, in seconds.
        Unavailable: The server cannot be reached, took longer than ``patience`` for one passage or ``query_timeout`` for a
            question, failed (5xx), or its answer for one text is not one vector.
    """

    def __init__(
        self,
        base_url: str,
        model: EmbeddingModel,
        *,
        api_key: str | None = None,
        timeout: float = 30.0,
        patience: float = 120.0,
        query_timeout: float = 5.0,
        batch_size: int = 32,
        concurrency: int = 4,
        query_instruction: str = "",
        passage_instruction: str = "",
        encoding: Literal["base64", "float"] = "base64",
    ) -> None:
        """Set up the client; no connection is made yet.

        Args:
            base_url: Up to and including the version, such as ``https://api.openai.com/v1``.
            model: ``name`` is sent as the request's model, ``dimension`` is checked in every answer, and texts are cut
                to about ``max_tokens``.
            api_key: Sent as a bearer token; kept nowhere but in the client's headers, which hide it when printed.
            timeout: Seconds that a request for passages should take; after that a smaller one is tried.
            patience: Seconds that a request for a single passage may take.
            query_timeout: Seconds that a question may take.
            batch_size: The most texts in one request.
            concurrency: The most requests for passages at once; further ones wait, and that is not counted as theirs.
            query_instruction: Put before questions, for models that were trained with one.
            passage_instruction: Put before passages, likewise.
            encoding: What to ask for; either is understood in an answer. Base64 parses much faster.
        """
        headers = {}
        if api_key is not None:
            if not api_key or not all("!" <= character <= "~" for character in api_key):
                # The HTTP library's own error would quote the key.
                raise FailedPrecondition("the API key of the embedding endpoint must be printable ASCII without spaces")
            headers["Authorization"] = f"Bearer {api_key}"
        self._model = model
        self._query_timeout = query_timeout
        self._pace = Pace(most=batch_size, limit=timeout, patience=patience)
        self._turns = asyncio.Semaphore(concurrency)
        self._kept: OrderedDict[bytes, NDArray[np.float32]] = OrderedDict()
        self._query_instruction = query_instruction
        self._passage_instruction = passage_instruction
        self._encoding = encoding
        self._url = _endpoint(base_url)
        longest = max(timeout, patience, query_timeout)
        limits = Limits(
            body=_answer_size(batch_size, model.dimension),
            total=longest,
            idle=longest,
            # Questions never wait for passages.
            connections=concurrency + _QUESTIONS_AT_ONCE,
        )
        self._client = HttpClient(limits, headers=headers)

    @property
    def model(self) -> EmbeddingModel:
        """The model that is asked for."""
        return self._model

    async def embed_passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of shape (len(texts), dimension), one unit row per text, in the order given."""
        vectors = np.zeros((len(texts), self._model.dimension), dtype=np.float32)
        missing = [row for row, text in enumerate(texts) if not self._take_kept(text, vectors[row])]
        done: list[int] = []
        try:
            while len(done) < len(missing):
                async with self._turns:
                    # By the pace of now: others may have learned something while this one waited.
                    rows = missing[len(done) : len(done) + self._pace.size]
                    found = await self._ask([self._passage_instruction + texts[row] for row in rows])
                if found is not None:
                    vectors[rows] = found
                    done += rows
        except BaseException:
            lost = set(missing[len(done) :])
            self._keep((texts[row], vectors[row]) for row in range(len(texts)) if row not in lost)
            raise
        return vectors

    async def embed_query(self, text: str) -> NDArray[np.float32]:
        """The unit vector of a question, shape (dimension,), with the query instruction applied."""
        limit = self._query_timeout
        try:
            # All of it: somebody waits for the answer.
            async with asyncio.timeout(limit):
                vector: NDArray[np.float32] = (await self._embed([self._query_instruction + text], limit))[0]
        except TimeoutError as error:
            raise Unavailable("the embedding endpoint did not answer in time") from error
        return vector

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _ask(self, texts: Sequence[str]) -> NDArray[np.float32] | None:
        """One request for passages; None if it came to nothing and a smaller one, or one with more time, may not."""
        pace, limit, began = self._pace, self._pace.limit, time.monotonic()
        try:
            found = await self._embed(texts, limit)
        except _TooSlowError:
            if pace.late(len(texts), limit):
                return None
            raise
        except (_RefusedError, _IncompleteError):
            if pace.too_large(len(texts)):
                return None
            raise
        pace.answered(len(texts), time.monotonic() - began)
        return found

    def _take_kept(self, text: str, row: NDArray[np.float32]) -> bool:
        found = self._kept.pop(_digest(text), None) if self._kept else None
        if found is not None:
            row[:] = found
        return found is not None

    def _keep(self, done: Iterable[tuple[str, NDArray[np.float32]]]) -> None:
        for text, vector in done:
            self._kept[_digest(text)] = vector.copy()
        while len(self._kept) > _MOST_KEPT:
            self._kept.popitem(last=False)

    async def _embed(self, texts: Sequence[str], limit: float) -> NDArray[np.float32]:
        sent: list[str] = []
        status = 0
        # Several are sent apart when they are refused, so that a text is cut short only for its own length.
        for characters in _CHARACTERS_PER_TOKEN[: 1 if len(texts) > 1 else None]:
            longest = max(1, int(self._model.max_tokens * characters))
            # OpenAI refuses an empty text; a space stands for it.
            cut = [well_formed(text[:longest]) or " " for text in texts]
            if cut == sent:
                continue
            sent = cut
            answer = await self._post(sent, limit)
            status = answer.status
            if status not in _TOO_LONG:
                _raise_for_status(answer)
                if len(texts) == 1:
                    return self._vectors(answer.body, 1)
                return await asyncio.to_thread(self._vectors, answer.body, len(texts))
        raise _RefusedError(_refusal(status))

    async def _post(self, texts: Sequence[str], limit: float) -> _Answer:
        if self._client.closed:
            raise Unavailable("the connection to the embedding endpoint is shut down")
        request = {"model": self._model.name, "input": list(texts), "encoding_format": self._encoding}
        content = json.dumps(request, ensure_ascii=False).encode("utf-8", "replace")
        most = _answer_size(len(texts), self._model.dimension)
        try:
            async with self._client.call("POST", self._url, content=content, total=limit, body=most) as answer:
                # What a failure says is for nobody to see: it may repeat the texts or the key.
                body = await answer.read() if answer.status == HTTPStatus.OK else b""
                return _Answer(answer.status, body, answer.header("retry-after"))
        except TooSlow as error:
            raise _TooSlowError("the embedding endpoint did not answer in time") from error
        except TooMuch as error:
            raise _IncompleteError(f"the embedding endpoint {error.words}") from error
        except HttpProblem as error:
            raise Unavailable(f"the embedding endpoint {error.words}") from error

    def _vectors(self, body: bytes, count: int) -> NDArray[np.float32]:
        try:
            found = read_json(body, values=_most_values(count, self._model.dimension))
            by_index = {item["index"]: _row(item["embedding"]) for item in found["data"]}
            rows = [by_index[index] for index in range(count)]
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise _IncompleteError("the embedding endpoint's answer is not one vector per text") from error
        lengths = {len(row) for row in rows}
        if lengths != {self._model.dimension}:
            raise FailedPrecondition(
                f"the embedding endpoint answers with {max(lengths)} dimensions where {self._model.dimension} are "
                "configured; set the dimension to that of the model"
            )
        vectors = np.stack(rows)
        with np.errstate(over="ignore"):  # what is too long to have a direction is refused below
            norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not np.isfinite(norms).all() or not norms.all():
            raise _IncompleteError("the embedding endpoint's answer holds a vector without a direction")
        unit: NDArray[np.float32] = (vectors / norms).astype(np.float32)
        return unit


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: bytes
    retry_after: str


def _most_numbers(texts: int, dimension: int) -> int:
    """The most numbers that answers to ``texts`` may have: enough to see that one text has too many dimensions."""
    return texts * dimension + _OTHER_DIMENSION


def _answer_size(texts: int, dimension: int) -> int:
    return _most_numbers(texts, dimension) * _BYTES_PER_NUMBER + texts * _BYTES_PER_TEXT + _BYTES_AROUND


def _most_values(texts: int, dimension: int) -> int:
    return _most_numbers(texts, dimension) + texts * _VALUES_PER_TEXT + _VALUES_AROUND


class _TooSlowError(Unavailable):
    """No answer in time; less at once, or more time, may help."""


class _RefusedError(FailedPrecondition):
    """The request was refused; parts of it may not be."""


class _IncompleteError(Unavailable):
    """The answer cannot be used; that to parts of the request may be."""


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _endpoint(base_url: str) -> httpx.URL:
    problem = FailedPrecondition("the embedding endpoint's URL must be http:// or https:// with a host")
    try:
        url = httpx.URL(f"{base_url.rstrip('/')}/embeddings")
    except httpx.InvalidURL as error:
        raise problem from error
    if url.scheme not in ("http", "https") or not url.host:
        raise problem
    return url


def _row(embedding: Any) -> NDArray[np.float64]:
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding, validate=True), dtype="<f4").astype(np.float64)
    row = np.asarray(embedding, dtype=np.float64)
    if row.ndim != 1:
        raise ValueError("not a vector")
    return row


def _raise_for_status(answer: _Answer) -> None:
    status = answer.status
    if status == 200:
        return
    if status == 429:
        raise ResourceExhausted(
            "the embedding endpoint limits our requests", retry_after=_retry_after(answer.retry_after)
        )
    if status in _TOO_SLOW:
        raise _TooSlowError(f"the embedding endpoint did not answer in time (HTTP {status})")
    if status == 425 or status >= 500:
        raise Unavailable(
            f"the embedding endpoint failed with HTTP {status}", retry_after=_retry_after(answer.retry_after)
        )
    if status in (401, 403):
        raise FailedPrecondition(f"the embedding endpoint refused the API key (HTTP {status}); configure a valid one")
    if status == 404:
        raise FailedPrecondition("the embedding endpoint has no such model or path (HTTP 404); check both")
    raise FailedPrecondition(_refusal(status))


def _refusal(status: int) -> str:
    return f"the embedding endpoint refused the request (HTTP {status}); check its configuration"


def _retry_after(value: str) -> float:
    """Seconds from the Retry-After header, a number or a date (RFC 9110, section 10.2.3); 1 where it says nothing."""
    value = value.strip()[:_LONGEST_DATE]
    try:
        seconds = float(value) if value.isdecimal() else parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, TypeError, IndexError, OverflowError, OSError):  # what the library makes of odd dates
        return 1.0
    return min(max(seconds, 0.0), _MAX_RETRY_AFTER)
