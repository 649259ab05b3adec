"""What one call to an HTTP server may cost, and how much of that is left. Pure.

A server that is called may be broken, or in the hands of an attacker: what it sends is bounded by what the call needs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB

_FREE_PIECES = 4_000
_LEAST_PIECE = 8  # bytes that pieces have on average, behind the first ones


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one call may cost.

    ``head`` are bytes up to the answer's body, answers such as 100 Continue included; ``body`` are bytes behind them,
    as they are sent, framing included. ``connect`` are seconds for a connection, ``idle`` seconds without a byte, and
    ``total`` seconds that are spent on the network in all. ``connections`` are the most at the same time.
    """

    body: int
    total: float
    idle: float
    connect: float = 5.0
    head: int = 32 * KIB
    connections: int = 100


class HttpProblem(Exception):
    """A call came to nothing. ``words`` go on behind "the server", say nothing of its address, and are safe to show."""

    def __init__(self, words: str) -> None:
        super().__init__(words)
        self.words = words


class NotConnected(HttpProblem):
    """There was no connection: the server did nothing."""


class TooSlow(HttpProblem):
    """The answer, or the rest of it, did not come in time."""


class Broken(HttpProblem):
    """The connection failed, or what came was not HTTP."""


class TooMuch(HttpProblem):
    """The answer is larger than it may be, or compressed, and was not read to its end."""


class Allowance:
    """What is left to one call. ``clock`` gives monotonic seconds."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._seconds = limits.total
        self._head = limits.head
        self._body = limits.body
        self._pieces = 0
        self._received = 0
        self.in_body = False

    @property
    def to_connect(self) -> float:
        """Seconds for a connection, or for TLS on it; TooSlow when there are none left."""
        return min(self._limits.connect, self._left())

    @property
    def to_wait(self) -> float:
        """Seconds until the next byte comes or is taken; TooSlow when there are none left."""
        return min(self._limits.idle, self._left())

    @contextmanager
    def spending(self) -> Iterator[None]:
        """Count the time inside."""
        began = self._clock()
        try:
            yield
        finally:
            self._seconds -= self._clock() - began

    def announced(self, length: int) -> None:
        """A body of ``length`` bytes is announced; TooMuch when it is too large."""
        if length > self._limits.body:
            raise self._too_large()

    def received(self, size: int) -> None:
        """``size`` bytes came from the network; TooMuch when they are too many, or come in too small pieces."""
        if not self.in_body:
            self._head -= size
            if self._head < 0:
                raise TooMuch(f"sent more than {_shown(self._limits.head)} before its answer")
            return
        self._body -= size
        if self._body < 0:
            raise self._too_large()

    def piece(self, size: int) -> None:
        """A piece of the body has ``size`` bytes; TooMuch when pieces are too small for the work that each costs."""
        self._pieces += 1
        self._received += size
        if self._pieces > _FREE_PIECES + self._received // _LEAST_PIECE:
            raise TooMuch("sent its answer in too many small pieces")

    def _left(self) -> float:
        if self._seconds <= 0:
            raise TooSlow("did not answer in time")
        return self._seconds

    def _too_large(self) -> TooMuch:
        return TooMuch(f"sent more than {_shown(self._limits.body)}")


def _shown(size: int) -> str:
    for unit, name in ((MIB, "MiB"), (KIB, "KiB")):
        if size >= unit:
            return f"{size // unit} {name}"
    return f"{size} bytes"
