"""Finds out who calls. What counts as proof is decided by a callable."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from interceptors import current
from interceptors._shapes import Call, Layer, Proceed

Identify = Callable[[Call], Awaitable[Any]]
"""Returns the caller's identity or raises."""


class Authentication(Layer):
    """Sets ``current.caller``; calls that ``exempt`` names (health checks) pass without an identity."""

    def __init__(self, identify: Identify, exempt: Callable[[str], bool]) -> None:
        self._identify = identify
        self._exempt = exempt

    def concerns(self, method: str) -> bool:
        """See the class."""
        return not self._exempt(method)

    async def around(self, call: Call, proceed: Proceed) -> Any:
        """Identify the caller, then run the rest."""
        current.caller.set(await self._identify(call))
        return await proceed(call)
