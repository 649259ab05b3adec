"""Embedding without a model: deterministic, instant, and good enough to rank by shared words.

For tests and for the memory assembly, where no weights may be needed. Texts that share no stem are orthogonal
(up to collisions of the hash), so nothing here knows a synonym.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from hashlib import blake2b
from math import log1p

import numpy as np
from numpy.typing import NDArray

from services.corpus.terms import analyze
from services.embedding.ports import EmbeddingModel

_MAX_TOKENS = 512
_LOGIT_RANGE = 11.0


class HashingEmbedder:
    """An :class:`~services.embedding.ports.Embedder` by feature hashing of word stems.

    Each stem adds its damped count to one of ``dimension`` components with a sign, both taken from a hash
    (Weinberger et al., "Feature Hashing for Large Scale Multitask Learning", 2009). A text without a stem gets a
    fixed unit vector. The first 512 stems of a text count.
    """

    def __init__(self, dimension: int = 256) -> None:
        self._model = EmbeddingModel(f"hashing-{dimension}", dimension, _MAX_TOKENS)

    @property
    def model(self) -> EmbeddingModel:
        """The pretended model; its name tells the dimension."""
        return self._model

    async def embed_passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of shape (len(texts), dimension), one unit row per text, in the order given."""
        rows = [self._vector(text) for text in texts]
        return np.stack(rows) if rows else np.zeros((0, self._model.dimension), dtype=np.float32)

    async def embed_query(self, text: str) -> NDArray[np.float32]:
        """The unit vector of a question, shape (dimension,)."""
        return self._vector(text)

    async def close(self) -> None:
        """Nothing to release."""

    def _vector(self, text: str) -> NDArray[np.float32]:
        vector = np.zeros(self._model.dimension, dtype=np.float32)
        for stem, count in Counter(_stems(text)).items():
            number = int.from_bytes(blake2b(stem.encode(), digest_size=8).digest(), "big")
            sign = 1.0 if number & 1 else -1.0
            vector[(number >> 1) % self._model.dimension] += sign * (1.0 + log1p(count - 1))
        norm = float(np.linalg.norm(vector))
        if norm == 0.0:  # no stem at all, or collisions that cancel out
            vector[0] = norm = 1.0
        return (vector / norm).astype(np.float32)


class OverlapCrossEncoder:
    """A :class:`~services.embedding.ports.CrossEncoder` that counts the question's stems that a passage has.

    The share of them, 0 to 1, is mapped to a logit of -11 to 11, the range of the MS MARCO cross-encoders.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock

    async def score(self, question: str, passages: Sequence[str], *, budget: float | None = None) -> list[float | None]:
        """One logit per passage, in the order given; None for those that the budget did not reach."""
        end = None if budget is None else self._clock() + budget
        wanted = set(_stems(question))
        scores: list[float | None] = [None] * len(passages)
        for index, passage in enumerate(passages):
            if index and end is not None and self._clock() >= end:
                break
            share = len(wanted.intersection(_stems(passage))) / len(wanted) if wanted else 0.0
            scores[index] = _LOGIT_RANGE * (2.0 * share - 1.0)
        return scores

    async def close(self) -> None:
        """Nothing to release."""


def _stems(text: str) -> list[str]:
    return analyze(text[: _MAX_TOKENS * 100])[:_MAX_TOKENS]
