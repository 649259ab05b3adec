"""The server chain as one ordered list.

Every position has its reason; :func:`build` refuses any other order, and a test holds the list.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from enum import IntEnum

from interceptors._shapes import Call, Chain, Layer


class Position(IntEnum):
    """Where a layer stands, outermost first."""

    TRACING = 1  # first: everything after it can name the request id and the trace
    METRICS = 2  # outside all decisions, so that refusals are counted too
    AUDIT = 3  # outside authentication, so that it sees denials; inside metrics, so that its cost shows
    ERRORS = 4  # inside the observers, so that they see the status that the caller gets
    DEADLINE = 5  # inside errors, so that a time-out becomes a status; outside all work that takes time
    AUTHENTICATION = 6  # before anything that depends on who calls
    AUTHORIZATION = 7  # needs the identity; before any resource is spent on the call
    ADMISSION = 8  # only calls that may run compete for capacity
    ANNOUNCEMENT = 9  # last: only calls that do run are announced, and nothing is sent before


def build(
    layers: Sequence[tuple[Position, Layer]],
    refuse: Callable[[Call], Awaitable[None]],
    *,
    request_time: float | None = None,
) -> Chain:
    """Make the chain; raise ValueError unless positions are strictly ascending.

    ``refuse`` ends calls to paths that this server does not serve, once they have passed all layers. ``request_time``
    is how long the one request of a call may take to arrive, in seconds; None: as long as the call.
    """
    positions = [position for position, _ in layers]
    if positions != sorted(set(positions)):
        raise ValueError(f"the interceptors are out of order: {[position.name for position in positions]}")
    return Chain([layer for _, layer in layers], refuse, request_time=request_time)
