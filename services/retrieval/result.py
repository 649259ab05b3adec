"""What retrieval answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from services.corpus.chunk import Passage
from services.corpus.coverage import Coverage, Notice


class ChunkKey(NamedTuple):
    """A chunk as a store names it.

    The document and version stand in the key so that two stores that disagree about a chunk's document are never
    merged into one candidate. It sorts by chunk id first, which is the tie-break of every ranking.
    """

    chunk_id: str
    collection: str
    document_id: str
    version: int

    @property
    def reference(self) -> Reference:
        """The version of the document that the chunk belongs to."""
        return Reference(self.collection, self.document_id, self.version)


class Reference(NamedTuple):
    """A version of a document, as sources refer to it."""

    collection: str
    document_id: str
    version: int


@dataclass(frozen=True, slots=True)
class StageScores:
    """A chunk's scores by stage: cosine (-1..1), BM25, fused (0..1), logit. None where a stage did not see it."""

    dense: float | None = None
    lexical: float | None = None
    fused: float | None = None
    rerank: float | None = None


@dataclass(frozen=True, slots=True)
class RetrievedPassage:
    """A passage that the caller may read, with its final ``score`` (0..1) and the stores that found it."""

    key: ChunkKey
    title: str
    uri: str
    passage: Passage
    score: float
    scores: StageScores
    stores: tuple[str, ...]


@dataclass(slots=True)
class StageTimings:
    """Seconds by stage; ``check`` is checking access and filters and fetching texts."""

    embed: float = 0.0
    search: float = 0.0
    check: float = 0.0
    rerank: float = 0.0
    total: float = 0.0


@dataclass(frozen=True, slots=True)
class RetrieveResult:
    """The passages, best first, and what stands behind them."""

    passages: tuple[RetrievedPassage, ...] = ()
    coverage: Coverage = field(default_factory=Coverage)
    timings: StageTimings = field(default_factory=StageTimings)
    notices: tuple[Notice, ...] = ()
    withheld: tuple[str, ...] = ()
    """Ids of documents that a store found and the caller may not read: for the audit log, never for the caller."""


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """What one store can do and how it is; ``error`` says in a few safe words why it, or a part of it, does not answer.

    ``breaker`` is "closed", "open", "half-open" or, without one, empty. ``chunk_count`` counts the caller's tenant's
    chunks in the default collection.
    """

    name: str
    engine: str = ""
    dense: bool = False
    lexical: bool = False
    healthy: bool = False
    breaker: str = ""
    chunk_count: int = 0
    error: str = ""
    in_flight: int = 0
