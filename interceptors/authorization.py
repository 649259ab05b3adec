"""Decides whether the caller may use the method. The rule is a callable that raises to refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from interceptors import current
from interceptors._shapes import Call, Layer, Proceed

Decide = Callable[[str, Any], None]
"""Takes a method's path as received and the caller's identity (None if exempt); raises to refuse."""


class Authorization(Layer):
    """Asks ``decide`` before the handler runs."""

    def __init__(self, decide: Decide) -> None:
        self._decide = decide

    async def around(self, call: Call, proceed: Proceed) -> Any:
        """Decide, then run the rest."""
        self._decide(call.method, current.caller.get())
        call.allowed = True
        return await proceed(call)
