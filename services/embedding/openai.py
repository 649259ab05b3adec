"""Embeddings from any server that speaks OpenAI's ``POST /v1/embeddings`` (vLLM, llama.cpp, TEI, Ollama, OpenAI)."""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from typing import Any, Literal

import httpx
import numpy as np
from numpy.typing import NDArray

from services.corpus.errors import FailedPrecondition, ResourceExhausted, Unavailable
from services.embedding.ports import EmbeddingModel
from services.embedding.tokens import well_formed

# Their tokenizer is not known here. English has more than four characters a token; where a server finds a text too
# long all the same, as with scripts that take a token or more for each character, shorter cuts are tried.
_CHARACTERS_PER_TOKEN = (4.0, 1.0, 0.25)
_TOO_LONG = frozenset({400, 413, 422})
_MAX_RETRY_AFTER = 3600.0


class OpenAIEmbedder:
    """An :class:`~services.embedding.ports.Embedder` behind an OpenAI-compatible endpoint.

    It does not retry failures: the caller's circuit breaker and retry budget decide about that. Redirects are not
    followed, and proxies and credentials of the environment are not used.

    Raises:
        FailedPrecondition: From the constructor, when the key cannot be sent in a header; from calls, when the server
            refuses the request, the key or the model (4xx) or answers with another dimension.
        ResourceExhausted: The server is limiting us (429); ``retry_after`` is what it asked for, in seconds.
        Unavailable: The server cannot be reached, took longer than ``timeout``, failed (5xx), or its answer is not
            one vector per text.
    """

    def __init__(
        self,
        base_url: str,
        model: EmbeddingModel,
        *,
        api_key: str | None = None,
        timeout: float = 30.0,
        batch_size: int = 32,
        query_instruction: str = "",
        passage_instruction: str = "",
        encoding: Literal["base64", "float"] = "base64",
        proxy: str | None = None,
    ) -> None:
        """Set up the client; no connection is made yet.

        Args:
            base_url: Up to and including the version, such as ``https://api.openai.com/v1``.
            model: ``name`` is sent as the request's model, ``dimension`` is checked in every answer, and texts are cut
                to about ``max_tokens``.
            api_key: Sent as a bearer token; kept nowhere but in the client's headers, which hide it when printed.
            timeout: Seconds for each phase of a request (connecting, sending, waiting for an answer).
            batch_size: Texts in one request.
            query_instruction: Put before questions, for models that were trained with one.
            passage_instruction: Put before passages, likewise.
            encoding: What to ask for; either is understood in an answer. Base64 parses much faster.
            proxy: URL of an HTTP proxy.
        """
        headers = {}
        if api_key is not None:
            if not api_key or not all("!" <= character <= "~" for character in api_key):
                # The HTTP library's own error would quote the key.
                raise FailedPrecondition("the API key of the embedding endpoint must be printable ASCII without spaces")
            headers["Authorization"] = f"Bearer {api_key}"
        self._model = model
        self._batch_size = batch_size
        self._query_instruction = query_instruction
        self._passage_instruction = passage_instruction
        self._encoding = encoding
        self._url = _endpoint(base_url)
        self._client = httpx.AsyncClient(headers=headers, timeout=timeout, proxy=proxy, trust_env=False)

    @property
    def model(self) -> EmbeddingModel:
        """The model that is asked for."""
        return self._model

    async def embed_passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of shape (len(texts), dimension), one unit row per text, in the order given."""
        vectors = np.zeros((len(texts), self._model.dimension), dtype=np.float32)
        for at in range(0, len(texts), self._batch_size):
            batch = [self._passage_instruction + text for text in texts[at : at + self._batch_size]]
            vectors[at : at + len(batch)] = await self._embed(batch)
        return vectors

    async def embed_query(self, text: str) -> NDArray[np.float32]:
        """The unit vector of a question, shape (dimension,), with the query instruction applied."""
        vector: NDArray[np.float32] = (await self._embed([self._query_instruction + text]))[0]
        return vector

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        sent: list[str] = []
        status = 0
        for characters in _CHARACTERS_PER_TOKEN:
            limit = max(1, int(self._model.max_tokens * characters))
            # OpenAI refuses an empty text; a space stands for it.
            cut = [well_formed(text[:limit]) or " " for text in texts]
            if cut == sent:
                continue
            sent = cut
            response = await self._post(sent)
            status = response.status_code
            if status not in _TOO_LONG:
                _raise_for_status(response)
                return self._vectors(response, len(texts))
        raise _refused(status)

    async def _post(self, texts: Sequence[str]) -> httpx.Response:
        if self._client.is_closed:
            raise Unavailable("the connection to the embedding endpoint is shut down")
        request = {"model": self._model.name, "input": list(texts), "encoding_format": self._encoding}
        try:
            return await self._client.post(self._url, json=request)
        except httpx.TimeoutException as error:
            raise Unavailable("the embedding endpoint did not answer in time") from error
        except httpx.RequestError as error:
            raise Unavailable("the embedding endpoint could not be reached") from error

    def _vectors(self, response: httpx.Response, count: int) -> NDArray[np.float32]:
        try:
            by_index = {item["index"]: _row(item["embedding"]) for item in response.json()["data"]}
            rows = [by_index[index] for index in range(count)]
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise Unavailable("the embedding endpoint's answer is not one vector per text") from error
        lengths = {len(row) for row in rows}
        if lengths != {self._model.dimension}:
            raise FailedPrecondition(
                f"the embedding endpoint answers with {max(lengths)} dimensions where {self._model.dimension} are "
                "configured; set the dimension to that of the model"
            )
        vectors = np.stack(rows)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not np.isfinite(norms).all() or not norms.all():
            raise Unavailable("the embedding endpoint's answer holds a vector without a direction")
        unit: NDArray[np.float32] = (vectors / norms).astype(np.float32)
        return unit


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


def _raise_for_status(response: httpx.Response) -> None:
    status = response.status_code
    if status == 200:
        return
    if status == 429:
        raise ResourceExhausted("the embedding endpoint limits our requests", retry_after=_retry_after(response))
    if status in (408, 425) or status >= 500:
        raise Unavailable(f"the embedding endpoint failed with HTTP {status}", retry_after=_retry_after(response))
    if status in (401, 403):
        raise FailedPrecondition(f"the embedding endpoint refused the API key (HTTP {status}); configure a valid one")
    if status == 404:
        raise FailedPrecondition("the embedding endpoint has no such model or path (HTTP 404); check both")
    raise _refused(status)


def _refused(status: int) -> FailedPrecondition:
    return FailedPrecondition(f"the embedding endpoint refused the request (HTTP {status}); check its configuration")


def _retry_after(response: httpx.Response) -> float:
    """Seconds from the Retry-After header, a number or a date (RFC 9110, section 10.2.3); 1 where it says nothing."""
    value = response.headers.get("Retry-After", "")
    try:
        seconds = float(value) if value.strip().isdigit() else parsedate_to_datetime(value).timestamp() - time.time()
    except ValueError:
        return 1.0
    return min(max(seconds, 0.0), _MAX_RETRY_AFTER)
