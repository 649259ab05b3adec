"""Finds out who calls, and whether that still holds later. What counts as proof is decided by callables."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from interceptors import current
from interceptors._shapes import Call, Layer, Proceed
from interceptors.rechecks import Rechecks

Identify = Callable[[Call], Awaitable[Any]]
"""Returns the caller's identity or raises."""

Confirm = Callable[[Call, Exception | None], Awaitable[Any]]
"""Raises if the caller of a call that is running would not be let in any more. Takes what the call failed with, if it did:
that may tell more about the caller than is known here."""

RECHECK = 1.0
"""How often, in seconds, callers of open streams are confirmed."""


class Authentication(Layer):
    """Sets ``current.caller``; calls that ``exempt`` names (health checks) pass without an identity.

    While a call to a method that ``lasting`` names is open, its caller is confirmed every ``RECHECK`` seconds. A call of
    whatever kind that fails has its caller confirmed before it says so: what stopped it may be that.
    """

    def __init__(
        self,
        identify: Identify,
        exempt: Callable[[str], bool],
        confirm: Confirm | None = None,
        lasting: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self._identify = identify
        self._exempt = exempt
        self._confirm = confirm
        self._lasting = lasting
        self._rechecks = Rechecks(RECHECK, self._still) if confirm is not None else None

    def concerns(self, method: str) -> bool:
        """See the class."""
        return not self._exempt(method)

    async def around(self, call: Call, proceed: Proceed) -> Any:
        """Identify the caller, then run the rest."""
        current.caller.set(await self._identify(call))
        try:
            if self._rechecks is not None and self._lasting(call.method):
                return await self._rechecks.hold(call, proceed(call))
            return await proceed(call)
        except Exception as error:
            if self._confirm is not None:
                await self._confirm(call, error)
            raise

    async def _still(self, call: Call) -> None:
        if self._confirm is not None:
            await self._confirm(call, None)
