"""Who waits for a permit, and who is next. Pure.

Between tenants the smallest share goes first: the tenant that has the fewest calls running for its weight, and of
equals the one whose last turn is longest ago. This is max-min fairness over what runs (the resource is concurrency, so
deficit round robin, which shares out known costs, has nothing to count). Within a tenant the first to come is the
first to go, or, while there is too much to do, the last (adaptive LIFO: Maurer, "Fail at Scale", ACM Queue 13(8),
2015): then those that can still be answered in time are, instead of everybody being answered late.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Generic, Protocol, TypeVar


class Waiting(Protocol):
    """What the queue knows of those in it."""

    tenant: str
    arrived: float


_T = TypeVar("_T", bound=Waiting)


class FairQueue(Generic[_T]):
    """Those who wait, by tenant. ``weight`` gives a tenant's share, above 0."""

    def __init__(self, weight: Callable[[str], float]) -> None:
        self._weight = weight
        # Dictionaries keep the order of arrival, and give up any entry at once.
        self._tenants: dict[str, dict[int, _T]] = {}
        self._last_turn: dict[str, int] = {}
        self._turns = 0
        self.count = 0
        """How many wait. An attribute: it is asked five times for each call that passes."""

    def __iter__(self) -> Iterator[_T]:
        return (entry for entries in self._tenants.values() for entry in entries.values())

    def oldest(self) -> float | None:
        """When the one that has waited longest came; None if nobody waits."""
        return min((next(iter(entries.values())).arrived for entries in self._tenants.values()), default=None)

    def of(self, tenant: str) -> int:
        """How many of a tenant wait."""
        return len(self._tenants.get(tenant, ()))

    @property
    def tenants(self) -> int:
        """How many tenants wait."""
        return len(self._tenants)

    def push(self, entry: _T) -> None:
        """Let ``entry`` wait."""
        self._tenants.setdefault(entry.tenant, {})[id(entry)] = entry
        self.count += 1

    def remove(self, entry: _T) -> None:
        """Let ``entry`` go; it must be waiting."""
        entries = self._tenants[entry.tenant]
        del entries[id(entry)]
        self.count -= 1
        if not entries:
            del self._tenants[entry.tenant]

    def pop(self, running: Mapping[str, int], *, newest: bool) -> _T:
        """Take out whose turn it is; ``running`` counts each tenant's calls. Somebody must be waiting."""
        tenant = min(
            self._tenants,
            key=lambda name: (running.get(name, 0) / self._weight(name), self._last_turn.get(name, -1)),
        )
        self.take_turn(tenant)
        entry = self._at_end(tenant, newest=newest)
        self.remove(entry)
        return entry

    def take_turn(self, tenant: str) -> None:
        """Somebody of a tenant begins: from the queue, or without having had to wait."""
        self._turns += 1
        self._last_turn[tenant] = self._turns

    def hindmost(self, *, newest: bool) -> _T:
        """Who would be served last: of the tenant with the longest queue for its weight. Somebody must be waiting."""
        tenant = max(self._tenants, key=lambda name: len(self._tenants[name]) / self._weight(name))
        return self._at_end(tenant, newest=not newest)

    def forget(self, tenant: str) -> None:
        """A tenant has nothing running: if it does not wait either, its last turn no longer counts."""
        if tenant not in self._tenants:
            self._last_turn.pop(tenant, None)

    def _at_end(self, tenant: str, *, newest: bool) -> _T:
        entries = self._tenants[tenant]
        return next(reversed(entries.values()) if newest else iter(entries.values()))
