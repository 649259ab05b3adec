"""Work on an event loop that makes way for other work."""

from __future__ import annotations

import asyncio
import time

_SLICE = 0.002


class Pauses:
    """Ends a stretch of work on the event loop after two milliseconds: :meth:`pause` then lets other work run."""

    def __init__(self) -> None:
        self._since = time.monotonic()

    async def pause(self) -> None:
        """Let other work run if it is time for that; call this between any two steps of the work."""
        if time.monotonic() - self._since >= _SLICE:
            await asyncio.sleep(0)
            self._since = time.monotonic()
