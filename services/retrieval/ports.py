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


def _no_breaker() -> str:
    return ""


@dataclass(frozen=True, slots=True)
class NamedStore:
    """A store under the name that requests, coverage and citations use; ``breaker`` tells its breaker's state."""

    name: str
    store: VectorStore
    breaker: Callable[[], str] = _no_breaker


__all__ = ["Analyzer", "Catalog", "Clock", "CrossEncoder", "Embedder", "NamedStore", "Pressure", "VectorStore"]
