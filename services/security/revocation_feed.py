"""Brings the shared store's revocations into this process, four times a second.

A revocation that any process of the host added is therefore known everywhere within a fraction of a second. If the
store cannot be read, what is known keeps serving for ``max_age`` seconds (5): long enough for a busy disk, short
enough that nobody stays in by breaking the store. After that no token is accepted until a read succeeds. Ages are
taken on the clock, not from the poller, so a poller that died or was stopped counts as well.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from services.corpus.errors import Unavailable
from services.security.claims import Claims
from services.security.revocation import Revocation, Revocations, RevocationStore

_logger = logging.getLogger(__name__)
_PRUNE_EVERY = 60.0
# How long a call waits for a read before it is refused; a read that hangs must not hold calls until their deadline.
_PATIENCE = 1.0


class RevocationFeed:
    """The revocations that tokens are checked against, kept up to date. Belongs to one event loop."""

    def __init__(
        self,
        store: RevocationStore,
        *,
        interval: float = 0.25,
        max_age: float = 5.0,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """``interval`` and ``max_age`` in seconds; ``clock`` gives Unix time."""
        self._store = store
        self._interval = interval
        self._max_age = max_age
        self._clock = clock
        self._monotonic = monotonic
        self._known = Revocations()
        self._cursor: object = None
        self._read_at = self._attempted_at = self._pruned_at = float("-inf")
        self._failing = False
        self._flight: asyncio.Task[None] | None = None
        self._poller: asyncio.Task[None] | None = None

    @property
    def generation(self) -> int:
        """Grows with every revocation that becomes known."""
        return self._known.generation

    def covers(self, claims: Claims) -> bool:
        """Whether the token that says ``claims`` is void."""
        return self._known.covers(claims)

    def is_current(self) -> bool:
        """Whether the store was read recently enough to go by what is known."""
        return self._monotonic() - self._read_at <= self._max_age

    async def catch_up(self) -> None:
        """Read now if nobody did so within ``interval``, and wait a moment for it; never raises."""
        if self._flight is None:
            if self._monotonic() - self._attempted_at < self._interval:
                return
            self._begin()
        if self._flight is not None:
            await asyncio.wait({self._flight}, timeout=_PATIENCE)

    async def refresh(self) -> None:
        """Wait a moment for a read that begins now: what was revoked before is known after it; never raises."""
        if self._flight is not None:
            await asyncio.wait({self._flight}, timeout=_PATIENCE)
        self._begin()
        if self._flight is not None:
            await asyncio.wait({self._flight}, timeout=_PATIENCE)

    async def revoke(self, revocation: Revocation) -> None:
        """Make something void: durably, here at once, elsewhere within a second. Unavailable if it cannot be kept."""
        await self._store.add(revocation, self._clock())
        self._known.apply([revocation])

    async def start(self) -> None:
        """Read everything, then go on in the background. Unavailable if the first read fails: nobody could be let in."""
        self._begin()
        if self._flight is not None:
            await asyncio.wait({self._flight})
        if not self.is_current():
            raise Unavailable("revocations cannot be read", retry_after=self._interval)
        self._poller = asyncio.create_task(self._poll())

    async def stop(self) -> None:
        """End the background and close the store."""
        for task in (self._poller, self._flight):
            if task is not None:
                task.cancel()
                await asyncio.wait({task})
        await self._store.close()

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            self._begin()
            if self._flight is not None:
                await asyncio.wait({self._flight})

    def _begin(self) -> None:
        if self._flight is None:
            self._attempted_at = self._monotonic()
            self._flight = asyncio.create_task(self._read())

    async def _read(self) -> None:
        began = self._attempted_at
        try:
            batch = await self._store.read(self._cursor)
            self._known.apply(batch.revocations)
            self._cursor = batch.cursor
            # Of the beginning: what was added while it ran may not be in it.
            self._read_at = began
            self._failing = False
            self._prune(began)
        except Exception as error:  # noqa: BLE001 - whatever goes wrong, the next read must come
            if not self._failing:
                _logger.warning("revocations cannot be read: %s", type(error).__name__)
            self._failing = True
        finally:
            self._flight = None

    def _prune(self, moment: float) -> None:
        if moment - self._pruned_at >= _PRUNE_EVERY:
            self._pruned_at = moment
            self._known.prune(self._clock())
