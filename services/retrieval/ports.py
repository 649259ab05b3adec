"""What retrieval needs from the floors below: named stores, the models and the catalog."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from services.catalog.ports import Catalog
from services.embedding.ports import CrossEncoder, Embedder
from services.resilience.brownout import BrownoutStep
from services.vectorstores.ports import VectorStore

Analyzer: TypeAlias = Callable[[str], Sequence[str]]
"""From a text to the terms that the lexical indexes hold."""

Clock: TypeAlias = Callable[[], float]
"""Monotonic seconds."""

Pressure: TypeAlias = Callable[[], BrownoutStep]
"""What is left out for now, because there is too much to do."""


@dataclass(frozen=True, slots=True)
class StoreCondition:
    """How a store's endpoints are, as far as calls to it have shown.

    ``breaker`` is the worst state of their breakers, empty where there is none; ``problem`` says in a few safe words
    which of them do not answer, ``in_flight`` how many calls are on their way.
    """

    breaker: str = ""
    problem: str = ""
    in_flight: int = 0


@dataclass(frozen=True, slots=True)
class NamedStore:
    """A store under the name that requests, coverage and citations use; ``condition`` tells how its endpoints are."""

    name: str
    store: VectorStore
    condition: Callable[[], StoreCondition] = StoreCondition


__all__ = [
    "Analyzer",
    "Catalog",
    "Clock",
    "CrossEncoder",
    "Embedder",
    "NamedStore",
    "Pressure",
    "StoreCondition",
    "VectorStore",
]
