"""How a worker tells its supervisor that it serves and is ready: one byte each time, through a pipe of their own.

Nobody can ask a worker through the port that it shares: the kernel would choose who answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from services.runtime.server import Server

_SERVING, _READY, _NOT_READY = b"S", b"R", b"N"


class Report:
    """The supervisor's end of one process's pipe; ``served`` is called when it begins to serve."""

    def __init__(self, served: Callable[[], None]) -> None:
        self._served = served
        self._loop = asyncio.get_running_loop()
        self._end, self.descriptor = os.pipe()
        self.ready = asyncio.Event()
        self.serving = False

    def begin(self) -> None:
        """Listen; the process has the other end now."""
        os.close(self.descriptor)
        os.set_blocking(self._end, False)
        self._loop.add_reader(self._end, self._read)

    def close(self) -> None:
        """The process has ended."""
        self.serving = False
        self.ready.clear()
        if self._end >= 0:
            self._loop.remove_reader(self._end)
            os.close(self._end)
            self._end = -1

    def _read(self) -> None:
        said = os.read(self._end, 4096)
        for code in said:
            byte = bytes((code,))
            if byte == _SERVING:
                self.serving = True
                self._served()
            elif byte == _READY:
                self.ready.set()
            else:
                self.ready.clear()
        if not said:
            self.close()


async def tell(descriptor: int, server: Server) -> None:
    """The worker's side: follow ``server``, which serves, until its health ends."""
    from services.resilience.health import ServingStatus  # noqa: PLC0415 - supervisors need none of this
    from services.runtime.server import READINESS  # noqa: PLC0415

    os.set_inheritable(descriptor, False)
    watcher = server.board.watch(READINESS)
    with contextlib.suppress(BrokenPipeError):  # the supervisor has ended, and so will this process
        os.write(descriptor, _SERVING)
        while watcher is not None and (status := await watcher.next()) is not None:
            os.write(descriptor, _READY if status is ServingStatus.SERVING else _NOT_READY)
