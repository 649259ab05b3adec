"""What the query domain needs: somebody who finds passages and somebody who answers from them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from collections.abc import Collection as Some
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from services.corpus.coverage import Coverage, Notice
from services.corpus.filter import Filter


class Reference(NamedTuple):
    """A version of a document."""

    collection: str
    document_id: str
    version: int


@dataclass(frozen=True, slots=True)
class FoundPassage:
    """A passage that the caller may read. ``start`` is its offset in the document's text, in code points."""

    chunk_id: str
    collection: str
    document_id: str
    version: int
    title: str
    uri: str
    text: str
    headings: tuple[str, ...]
    start: int
    page: int
    score: float
    stores: tuple[str, ...]

    @property
    def reference(self) -> Reference:
        """The version of the document that the passage belongs to."""
        return Reference(self.collection, self.document_id, self.version)


@dataclass(frozen=True, slots=True)
class Found:
    """What retrieval gives: passages, best first, and how much of the corpus stands behind them."""

    passages: tuple[FoundPassage, ...]
    coverage: Coverage
    notices: tuple[Notice, ...] = ()


@dataclass(frozen=True, slots=True)
class Search:
    """What to look for."""

    query: str
    filter_: Filter | None
    collections: tuple[str, ...]
    top_k: int


class Retrieval(Protocol):
    """Finds passages. Raises the domain errors that the retrieval service reports."""

    async def retrieve(self, search: Search) -> Found:
        """The passages that answer ``search``, among those that the current caller may read."""

    async def still_readable(self, references: Some[Reference]) -> frozenset[Reference]:
        """Those of ``references`` that are current versions of documents that the current caller may read now."""

    async def close(self) -> None:
        """Release connections."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """An endpoint starts to write; attempts count from 1."""

    endpoint: str
    number: int


@dataclass(frozen=True, slots=True)
class Delta:
    """More text."""

    text: str


@dataclass(frozen=True, slots=True)
class Reset:
    """All text so far is void."""

    reason: str


@dataclass(frozen=True, slots=True)
class Citation:
    """``passages[place].text[start:end]`` supports what stands before ``marker`` in the answer."""

    marker: str
    place: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Written:
    """The end of a generation."""

    answer: str
    citations: tuple[Citation, ...]
    confidence: float
    abstained: bool
    low_confidence: bool
    endpoint: str
    input_tokens: int
    output_tokens: int
    notices: tuple[Notice, ...] = ()


GenerationStep = Attempt | Delta | Reset | Written


class Generation(Protocol):
    """Answers from passages. Raises the domain errors that the generation service reports."""

    def write(
        self, query: str, passages: Sequence[FoundPassage], *, max_tokens: int, min_confidence: float
    ) -> AsyncGenerator[GenerationStep, None]:
        """Attempts, deltas and resets as they come, and one Written at the end."""

    async def close(self) -> None:
        """Release connections."""
