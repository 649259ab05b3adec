"""The ports of the embedding room: Embedder (text to vector) and CrossEncoder (question and passage to score)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class EmbeddingModel:
    """Which model made a vector; vectors of different models are never compared."""

    name: str
    dimension: int
    max_tokens: int


class Embedder(Protocol):
    """Turns text into unit vectors. Safe to call concurrently; work runs off the event loop.

    Raises Unavailable when a remote model does not answer or the embedder was closed, ResourceExhausted when a remote
    model limits us, FailedPrecondition when it is set up wrongly. Text beyond ``model.max_tokens`` is cut, not refused.
    """

    @property
    def model(self) -> EmbeddingModel:
        """The model behind this embedder."""

    async def embed_passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of shape (len(texts), dimension), one unit row per text, in the order given."""

    async def embed_query(self, text: str) -> NDArray[np.float32]:
        """The unit vector of a question, shape (dimension,), with the model's query instruction applied."""

    async def close(self) -> None:
        """Release threads and sessions."""


class CrossEncoder(Protocol):
    """Scores how well passages answer a question by reading both together.

    Safe to call concurrently. A passage too long for the model is cut. Raises Unavailable once closed or when a remote
    model does not answer.
    """

    async def score(self, question: str, passages: Sequence[str], *, budget: float | None = None) -> list[float | None]:
        """One logit per passage (higher is better, comparable across calls), in the order given.

        ``budget`` is seconds: passages that were not reached in that time get None, the first ones are scored
        first, and at least one always is.
        """

    async def close(self) -> None:
        """Release threads and sessions."""
