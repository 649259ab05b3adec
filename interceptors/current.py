"""What the code behind an RPC may ask about the call that it serves.

The variables are set by interceptors and reach unary handlers and async generators alike, because grpc.aio runs
each RPC in a task of its own; that is also why nobody resets them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

request_id: ContextVar[str] = ContextVar("groundwire_request_id", default="")
"""The id of the request that is being served."""

caller: ContextVar[Any] = ContextVar("groundwire_caller", default=None)
"""The verified identity behind the call; interceptors do not know its type."""

credential: ContextVar[Any] = ContextVar("groundwire_credential", default=None)
"""What proved the caller's identity, in the form that calls to other services are derived from."""

record: ContextVar[Any] = ContextVar("groundwire_record", default=None)
"""What the call will leave in the audit log; interceptors do not know its type."""

deadline: ContextVar[float | None] = ContextVar("groundwire_deadline", default=None)
"""When the call's time runs out, on :func:`time.monotonic`'s clock."""

spend: ContextVar[Callable[[int], None] | None] = ContextVar("groundwire_spend", default=None)
"""Charges the caller for tokens that a model has read and written; None where nobody is charged."""


def remaining() -> float | None:
    """Seconds until the current call's deadline (never negative), or None when there is none."""
    at = deadline.get()
    return None if at is None else max(0.0, at - time.monotonic())


def charge(tokens: int) -> None:
    """Charge the current caller for ``tokens``, if anybody counts them."""
    take = spend.get()
    if take is not None:
        take(tokens)
