"""How much of the corpus stands behind a result: which stores were asked and what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class StoreState(Enum):
    """How one store took part in a search."""

    ASKED = "asked"
    ANSWERED = "answered"
    TIMED_OUT = "timed-out"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class StoreCoverage:
    """One store's part. ``duration`` is in seconds; ``reason`` says in a few safe words why it did not answer."""

    store: str
    state: StoreState
    hits: int = 0
    duration: float = 0.0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Coverage:
    """All stores' parts, in the configured order."""

    stores: tuple[StoreCoverage, ...] = ()

    @property
    def degraded(self) -> bool:
        """Whether a store that should have answered did not."""
        return any(store.state in (StoreState.TIMED_OUT, StoreState.FAILED, StoreState.ASKED) for store in self.stores)


@dataclass(frozen=True, slots=True)
class Notice:
    """Something a caller should know about a result that is nevertheless good (``Warning`` on the wire)."""

    code: str
    message: str
