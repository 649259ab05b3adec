"""Lets calls in while the server takes any, and knows how many are running."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from interceptors._shapes import Call, Layer, Proceed
from interceptors.permits import Permits


class Admission(Layer):
    """Admits calls until :meth:`close`, then refuses them with what ``refusal`` makes.

    gRPC's own shutdown drops calls that arrive at its very moment with CANCELLED, which no client tries again, and
    returns before the handlers that it cancelled have ended. ``exempt`` names the methods (health checks) that are
    neither refused nor counted; ``endless`` those that would not end by themselves: closing ends them with the same
    refusal, so that their callers go on elsewhere. All other calls go through ``permits``, where they may have to wait;
    an endless one would never give its permit back.
    """

    def __init__(
        self,
        *,
        exempt: Callable[[str], bool],
        endless: Callable[[str], bool],
        refusal: Callable[[], Exception],
        permits: Permits[Any] | None = None,
    ) -> None:
        self._exempt = exempt
        self._endless = endless
        self._refusal = refusal
        self._permits = permits
        self._running = 0
        self._watches: set[asyncio.Timeout] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False

    def concerns(self, method: str) -> bool:
        """See the class."""
        return not self._exempt(method)

    async def around(self, call: Call, proceed: Proceed) -> Any:
        """Count the call while it runs, or refuse it."""
        if self._closed:
            raise self._refusal()
        if not self._running:
            self._idle.clear()
        self._running += 1
        try:
            if self._endless(call.method):
                async with self._until_closed():
                    return await proceed(call)
            permits = self._permits
            if permits is None:
                return await proceed(call)
            place = permits.arrive(call)
            if place.waiting:
                await permits.wait(place)
            try:
                response = await proceed(call)
            except BaseException as error:
                permits.end(place, error)
                raise
            permits.end(place, None)
            return response
        finally:
            self._running -= 1
            if not self._running:
                self._idle.set()

    def close(self) -> None:
        """Admit no more calls and end the endless ones."""
        self._closed = True
        for watch in self._watches:
            watch.reschedule(0)  # in the past of the loop's clock: now

    async def idle(self) -> None:
        """Wait until no admitted call is running."""
        await self._idle.wait()

    @asynccontextmanager
    async def _until_closed(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(None) as watch:
                self._watches.add(watch)
                try:
                    yield
                finally:
                    self._watches.discard(watch)
        except TimeoutError as error:
            if not watch.expired():
                raise
            raise self._refusal() from error
