"""Which endpoint a question goes to. Pure.

Primaries share the questions; backups, in the order in which they are configured, get them while no primary is sound.
Endpoints that are not sound come last: what is believed about all of them at once is more likely wrong than right
(static stability), so that somebody is asked in any case.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from services.generation.endpoint import CONSECUTIVE_FAILURES, EndpointStatus, WatchedEndpoint
from services.resilience.endpoints import Role


class Balancing(Enum):
    """How primaries share questions: to who has the fewest in flight, or by turns. Equals take turns in any case."""

    LEAST_LOADED = "least_loaded"
    ROUND_ROBIN = "round_robin"


@dataclass(frozen=True, slots=True)
class BalancingPolicy:
    """How questions are shared and failed over.

    ``roles`` by the endpoints' names, PRIMARY where none is given. Attempts beyond the first of each question are at
    most ``retry_ratio`` of the questions and ``retry_floor``, or as many as it takes for every breaker to open and to
    look a few times whether its endpoint is back where that is more, in the time that an answer may take, a minute at
    most. Those behind an endpoint that did nothing are free.
    """

    roles: Mapping[str, Role] = field(default_factory=dict)
    balancing: Balancing = Balancing.LEAST_LOADED
    retry_ratio: float = 0.2
    retry_floor: int = 3

    def floor(self, endpoints: int) -> int:
        """The extra attempts that are allowed in any case."""
        return max(self.retry_floor, 2 * CONSECUTIVE_FAILURES * endpoints)


class LoadBalancer:
    """Chooses between ``endpoints``, in the configured order."""

    def __init__(self, endpoints: Sequence[WatchedEndpoint], balancing: Balancing) -> None:
        self._endpoints = tuple(endpoints)
        self._balancing = balancing
        self._turns = itertools.count(1)

    def choose(self, tried: Collection[WatchedEndpoint] = ()) -> WatchedEndpoint | None:
        """The best endpoint that is not among ``tried``, whose turn it then was; None if there is no other."""
        best = next((endpoint for endpoint in self._ranked() if endpoint not in tried), None)
        if best is not None:
            best.turn = next(self._turns)
        return best

    def statuses(self) -> list[EndpointStatus]:
        """How every endpoint is, in the configured order."""
        serving = self._serving()
        return [endpoint.status(serving=endpoint in serving) for endpoint in self._endpoints]

    def _serving(self) -> list[WatchedEndpoint]:
        """Who gets the questions, but for those that find out whether an endpoint is back."""
        proven = [endpoint for endpoint in self._ranked() if endpoint.proven]
        if not proven or proven[0].role is Role.BACKUP:
            return proven[:1]
        return [endpoint for endpoint in proven if endpoint.role is Role.PRIMARY]

    def _ranked(self) -> list[WatchedEndpoint]:
        def rank(endpoint: WatchedEndpoint) -> tuple[bool, bool, int, int]:
            unsound, backup = not endpoint.sound, endpoint.role is Role.BACKUP
            if backup:
                return unsound, backup, 0, 0
            load = endpoint.in_flight if self._balancing is Balancing.LEAST_LOADED else 0
            return unsound, backup, load, endpoint.turn

        return sorted(self._endpoints, key=rank)
