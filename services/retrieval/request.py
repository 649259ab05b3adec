"""What a caller asks retrieval for."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from services.corpus.filter import Filter

DEFAULT_TOP_K = 10
MAX_TOP_K = 100


class RetrievalMode(Enum):
    """How chunks are looked for: by meaning and words, by meaning alone, by words alone."""

    HYBRID = "hybrid"
    DENSE = "dense"
    LEXICAL = "lexical"


class RerankMode(Enum):
    """Whether a cross-encoder reads the best candidates again: for natural questions, always, never."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class RetrieveQuery:
    """What to look for, and where. No ``collections`` means the default one, no ``stores`` means all."""

    query: str
    filter_: Filter | None = None
    collections: tuple[str, ...] = ()
    top_k: int = DEFAULT_TOP_K
    mode: RetrievalMode = RetrievalMode.HYBRID
    rerank: RerankMode = RerankMode.AUTO
    stores: tuple[str, ...] = ()
