"""How well something works; and the states behind ``grpc.health.v1``: who serves, and who wants to know.

Each watcher has a slot that holds only the latest value. Setting a status fills slots and never waits, so a watcher
that reads slowly, or never, holds up nobody. The number of watchers is bounded, and shared fairly: when there are too
many, whoever holds most of them makes room.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime
from enum import Enum


class ServiceHealth(Enum):
    """How well something works: with all of its parts, with less than all, or not at all."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """The result of one check. ``response_time`` is in seconds; ``error_message`` is empty when all is well."""

    service_name: str
    status: ServiceHealth
    response_time: float
    last_check: datetime
    error_message: str = ""


class ServingStatus(Enum):
    """The statuses of the health protocol; UNKNOWN is what a watcher of an unknown service sees."""

    SERVING = 1
    NOT_SERVING = 2
    UNKNOWN = 3


class Watcher:
    """A slot for the latest status of one service.

    ``displaced`` says that the watch had to make room for another peer's.
    """

    def __init__(self, name: str = "", peer: str = "") -> None:
        self.name = name
        self.peer = peer
        self.displaced = False
        self._latest: ServingStatus | None = None
        self._seen: ServingStatus | None = None
        self._filled = asyncio.Event()
        self._closed = False

    def put(self, status: ServingStatus) -> None:
        """Replace the value that has not been read yet."""
        self._latest = status
        self._filled.set()

    def close(self) -> None:
        """End the watch once the latest value has been read."""
        self._closed = True
        self._filled.set()

    async def next(self) -> ServingStatus | None:
        """Wait for a status that differs from the last one returned; None when the watch has ended."""
        while self._latest is None or self._latest is self._seen:
            if self._closed:
                return None
            self._filled.clear()
            await self._filled.wait()
        self._seen = self._latest
        return self._seen


class HealthBoard:
    """The serving status of each named service, all NOT_SERVING until told otherwise.

    ``closed`` says that watches have ended for good. There are ``max_watchers`` at most, whatever they watch.
    """

    def __init__(self, names: tuple[str, ...], *, max_watchers: int = 1000) -> None:
        self._statuses = dict.fromkeys(names, ServingStatus.NOT_SERVING)
        self._watchers: dict[str, set[Watcher]] = {}
        # In the order of their coming.
        self._peers: dict[str, dict[Watcher, None]] = {}
        self._watching = 0
        self._max_watchers = max_watchers
        self._final = False
        self.closed = False

    def status(self, name: str) -> ServingStatus | None:
        """The status of ``name``, or None for a name that is not served here."""
        return self._statuses.get(name)

    def statuses(self) -> dict[str, ServingStatus]:
        """A copy of all statuses."""
        return dict(self._statuses)

    def set(self, name: str, status: ServingStatus) -> None:
        """Change one status and tell its watchers; ignored once :meth:`end` was called."""
        if self._final or self._statuses[name] is status:
            return
        self._statuses[name] = status
        for watcher in self._watchers.get(name, ()):
            watcher.put(status)

    def set_all(self, status: ServingStatus) -> None:
        """Change every status."""
        for name in self._statuses:
            self.set(name, status)

    def end(self) -> None:
        """Set everything to NOT_SERVING for good."""
        self.set_all(ServingStatus.NOT_SERVING)
        self._final = True

    def close_watchers(self) -> None:
        """End all watches, each after its last value, and begin no more."""
        self.closed = True
        for watchers in self._watchers.values():
            for watcher in watchers:
                watcher.close()

    def watch(self, name: str, peer: str = "") -> Watcher | None:
        """Begin to watch ``name``, which may be unknown, for ``peer``, whoever shares what is bounded.

        None when closed, and when there are too many watchers already and no peer has at least two more than this one:
        otherwise that peer's latest is displaced, until all have as many as each other.
        """
        if self.closed or (self._watching >= self._max_watchers and not self._make_room(peer)):
            return None
        watcher = Watcher(name, peer)
        watcher.put(self._statuses.get(name, ServingStatus.UNKNOWN))
        self._watchers.setdefault(name, set()).add(watcher)
        self._peers.setdefault(peer, {})[watcher] = None
        self._watching += 1
        return watcher

    def unwatch(self, watcher: Watcher) -> None:
        """Forget a watcher."""
        watchers = self._watchers.get(watcher.name)
        if watchers is None or watcher not in watchers:
            return
        watchers.remove(watcher)
        del self._peers[watcher.peer][watcher]
        self._watching -= 1
        if not watchers:
            del self._watchers[watcher.name]
        if not self._peers[watcher.peer]:
            del self._peers[watcher.peer]

    def _make_room(self, peer: str) -> bool:
        greedy = max(self._peers.values(), key=len)
        if len(greedy) < len(self._peers.get(peer, ())) + 2:
            return False
        latest = next(reversed(greedy))
        self.unwatch(latest)
        latest.displaced = True
        latest.close()
        return True
