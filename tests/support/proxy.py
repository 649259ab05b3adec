"""A TCP proxy that can be frozen: connections stay open and nothing passes, as with a process that was stopped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class Proxy:
    """Passes bytes between its ``port`` and a server's, while it is not frozen."""

    def __init__(self, server: int) -> None:
        self._server = server
        self._passing = asyncio.Event()
        self._passing.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.sent = 0
        """How many bytes clients have sent."""

    def freeze(self) -> None:
        """Pass nothing from now on."""
        self._passing.clear()

    def thaw(self) -> None:
        """Pass everything again, and what was held back."""
        self._passing.set()

    async def cut(self) -> None:
        """End every connection; new ones are accepted."""
        tasks, self._tasks = self._tasks, set()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._server)
        except OSError:
            writer.close()
            return
        for source, sink, counted in ((reader, back, True), (there, writer, False)):
            self._tasks.add(task := asyncio.ensure_future(self._pass(source, sink, counted=counted)))
            task.add_done_callback(self._tasks.discard)

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, counted: bool) -> None:
        try:
            with suppress(OSError):
                while data := await source.read(65_536):
                    self.sent += len(data) if counted else 0
                    await self._passing.wait()
                    sink.write(data)
                    await sink.drain()
            await self._passing.wait()
        finally:
            sink.close()


@asynccontextmanager
async def proxy_of(port: int) -> AsyncIterator[Proxy]:
    """A proxy in front of the server on ``port``."""
    proxy = Proxy(port)
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.cut()
