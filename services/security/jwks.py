"""An issuer's public keys, fetched from where it publishes them and kept fresh.

* In the background they are fetched every ``every`` seconds (after a failure, every ``cooldown``).
* A token with a key that nobody knows causes a fetch, unless one of any kind was tried within ``cooldown``; all
  callers share the one fetch that is under way. Made-up key names therefore cost an issuer nothing.
* When fetching fails, the last good keys serve until they are ``usable_for`` seconds old. Then there are no keys, and
  every token of the issuer is refused, cached ones too.
* A document that is well-formed is the truth, even if it holds no usable key; one that is not counts as a failure.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from services.security.keysets import Algorithm, MalformedKeySetError, VerificationKey, parse_jwks, select

_logger = logging.getLogger(__name__)
UNUSABLE = -1
"""The generation of keys that are too old to serve, or were never fetched."""


class KeyFetchError(Exception):
    """The keys could not be fetched; the message is safe to log."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A JWK Set as it was found, and what tells it from a later one (None: nothing does)."""

    document: bytes
    version: object = None


class KeyFetcher(Protocol):
    """Where JWK Sets are published."""

    async def fetch(self, known: object) -> Fetched | None:
        """The present document; None if its version is still ``known``. KeyFetchError if it cannot be had.

        Must end within a bounded time.
        """

    async def close(self) -> None:
        """Release connections."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshPolicy:
    """When keys are fetched and how long they serve, all in seconds."""

    every: float = 300.0
    cooldown: float = 30.0
    usable_for: float = 3600.0


class RefreshingKeys:
    """A :class:`~services.security.keysets.KeySource` over a :class:`KeyFetcher`. Belongs to one event loop."""

    def __init__(
        self,
        fetcher: KeyFetcher,
        algorithm: Algorithm,
        policy: RefreshPolicy | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fetcher = fetcher
        self._algorithm = algorithm
        self._policy = policy or RefreshPolicy()
        self._clock = clock
        self._keys: Mapping[str, VerificationKey] = {}
        self._version: object = None
        self._generation = 0
        self._succeeded_at = self._attempted_at = float("-inf")
        self._flight: asyncio.Task[None] | None = None
        self._background: asyncio.Task[None] | None = None

    @property
    def generation(self) -> int:
        """Counts the changes of the keys; ``UNUSABLE`` while there are none that are fresh enough."""
        usable = self._clock() - self._succeeded_at <= self._policy.usable_for
        return self._generation if usable else UNUSABLE

    def find(self, key_id: str | None) -> VerificationKey | None:
        """The key of that name among those that are fresh enough."""
        return None if self.generation == UNUSABLE else select(self._keys, key_id)

    async def look_again(self, key_id: str | None) -> VerificationKey | None:
        """Fetch, if the cool-down is over, or wait for the fetch that is under way; then find."""
        if self._flight is not None or self._clock() - self._attempted_at >= self._policy.cooldown:
            await self.refresh()
        return self.find(key_id)

    async def refresh(self) -> None:
        """Fetch now, together with everybody else who wants to; a failure is logged and changes nothing."""
        if self._flight is None:
            self._attempted_at = self._clock()
            self._flight = asyncio.create_task(self._attempt())
        # A caller that goes away must not take the fetch from the others.
        await asyncio.shield(self._flight)

    def due_in(self) -> float:
        """Seconds until the background's next fetch."""
        failed = self._succeeded_at < self._attempted_at
        pause = min(self._policy.every, self._policy.cooldown) if failed else self._policy.every
        return max(0.0, self._attempted_at + pause - self._clock())

    async def start(self) -> None:
        """Fetch once and go on in the background. An issuer that is down does not stop the start."""
        await self.refresh()
        self._background = asyncio.create_task(self._keep_fresh())

    async def stop(self) -> None:
        """End everything that is under way."""
        for task in (self._background, self._flight):
            if task is not None:
                task.cancel()
                await asyncio.wait({task})
        await self._fetcher.close()

    async def _keep_fresh(self) -> None:
        while True:
            await asyncio.sleep(self.due_in())
            await self.refresh()

    async def _attempt(self) -> None:
        try:
            fetched = await self._fetcher.fetch(self._version)
            if fetched is not None:
                self._accept(fetched)
            # As of the attempt's start: what was read is at least as new as that.
            self._succeeded_at = self._attempted_at
        except (KeyFetchError, MalformedKeySetError) as error:
            _logger.warning("signing keys could not be refreshed: %s", error)
        except Exception as error:  # noqa: BLE001 - whatever goes wrong, the next attempt must come
            _logger.warning("signing keys could not be refreshed: %s", type(error).__name__)
        finally:
            self._flight = None

    def _accept(self, fetched: Fetched) -> None:
        parsed = parse_jwks(fetched.document, self._algorithm)
        if parsed.keys != self._keys:
            self._keys = parsed.keys
            self._generation += 1
            _logger.info("signing keys changed: %d usable, %d ignored", len(parsed.keys), parsed.ignored)
        self._version = fetched.version
