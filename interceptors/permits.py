"""Lets a call wait for its permit, holds the permit while the call runs, and gives it back however the call ends.

Who runs, who waits and who is refused is decided by a gate, which knows no call; :class:`Permits` waits for it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from enum import Enum
from typing import Generic, Protocol, TypeVar

from interceptors import current
from interceptors._shapes import Call

# While calls wait the gate is asked this often whether time alone has changed something, in seconds.
_LOOK_AGAIN = 1.0


class Ended(Enum):
    """How a call ended: well, because its time ran out, or in another way."""

    COMPLETED = 1
    LATE = 2
    OTHER = 3


class Place(Protocol):
    """One call's place at the gate. ``settled`` is called once when its wait is over."""

    settled: Callable[[], None] | None

    @property
    def refusal(self) -> Exception | None:
        """Why the call may not run; None while it may, or may yet."""

    @property
    def waiting(self) -> bool:
        """Whether it has to wait."""

    @property
    def expires(self) -> float:
        """When its wait ends at the latest, on the event loop's clock."""


_P = TypeVar("_P", bound=Place)


class Gate(Protocol[_P]):
    """Decides. None of its methods waits."""

    def arrive(self, call: Call) -> _P:
        """A call has come; raises what refuses it for reasons that have nothing to do with its place."""

    def advance(self) -> None:
        """Time has passed."""

    def end(self, place: _P, how: Ended) -> None:
        """A call has ended, or has been given up while it waited."""


class Permits(Generic[_P]):
    """Takes every call through the gate. The time that it waits counts against its deadline."""

    def __init__(self, gate: Gate[_P]) -> None:
        self._gate = gate
        self._waiting = 0
        self._looking: asyncio.TimerHandle | None = None

    def arrive(self, call: Call) -> _P:
        """The call's place, which may have to wait; raises what refuses it at once."""
        place = self._gate.arrive(call)
        if place.refusal is not None:
            raise place.refusal
        return place

    def end(self, place: _P, error: BaseException | None) -> None:
        """Give back what a call had that has ended, with ``error`` if it failed."""
        if error is None:
            self._gate.end(place, Ended.COMPLETED)
        else:
            self._gate.end(place, Ended.LATE if current.remaining() == 0 else Ended.OTHER)

    async def wait(self, place: _P) -> None:
        """Wait for the permit of a place that has none yet; raises what refuses it."""
        await self._wait(place)
        if place.refusal is not None:
            raise place.refusal

    async def _wait(self, place: _P) -> None:
        loop = asyncio.get_running_loop()
        over: asyncio.Future[None] = loop.create_future()

        def end_wait() -> None:
            if not over.done():
                over.set_result(None)

        place.settled = end_wait
        # Timers of the loop's own: a task or a time-out for each call that waits would cost more than the wait decides.
        expiry = loop.call_at(place.expires, self._gate.advance) if place.expires < math.inf else None
        self._waiting += 1
        if self._waiting == 1:
            self._look(loop)
        try:
            await over
        except asyncio.CancelledError:
            # It may have got its permit a moment ago: it is given back just the same.
            place.settled = None
            self._gate.end(place, Ended.OTHER)
            raise
        finally:
            self._waiting -= 1
            if expiry is not None:
                expiry.cancel()
            if not self._waiting and self._looking is not None:
                self._looking.cancel()

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._looking = loop.call_later(_LOOK_AGAIN, self._look, loop)
        self._gate.advance()
