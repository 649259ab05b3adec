"""Takes up what commands of the same data directory left in spools of their own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path

import structlog

from services.audit.adapters.own_log import append_serialized
from services.audit.log import AuditLog
from services.corpus.errors import FailedPrecondition, GroundwireError
from services.journal.files import LOCK, DirectoryFiles
from services.journal.spool import COMMAND_PREFIX, Spool
from services.runtime.auditing.recorder import interrupted

_INTERVAL = 1.0
_log = structlog.get_logger(__name__)


class CommandSpools:
    """Looks into ``directory`` once a second. A spool whose command still runs is left alone: the command has its lock."""

    def __init__(self, directory: Path, log: AuditLog) -> None:
        self._directory = directory
        self._log = log
        self._task: asyncio.Task[None] | None = None
        self._told: set[str] = set()

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._follow())

    async def close(self) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _follow(self) -> None:
        while True:
            for path in await asyncio.to_thread(self._found):
                try:
                    await self._take(path)
                except FailedPrecondition:
                    pass  # its command is still running
                except Exception as error:  # noqa: BLE001 - the others still can be
                    self._tell(path.name, error)
            await asyncio.sleep(_INTERVAL)

    def _tell(self, name: str, error: Exception) -> None:
        if name not in self._told:
            self._told.add(name)
            unexpected = None if isinstance(error, GroundwireError | OSError) else error
            _log.error("a command's record cannot be taken up", spool=name, reason=str(error), exc_info=unexpected)

    def _found(self) -> list[Path]:
        return sorted(self._directory.glob(f"{COMMAND_PREFIX}*"))

    async def _take(self, path: Path) -> None:
        files = await asyncio.to_thread(DirectoryFiles.open, path)

        async def deliver(events: Sequence[bytes]) -> None:
            await append_serialized(self._log, events)

        spool = await Spool.open(files, deliver, max_bytes=1 << 40)
        try:
            await spool.deliver_all()
            await deliver([interrupted(key, begun).SerializeToString() for key, begun in spool.left_open.items()])
        finally:
            await spool.close()
        await asyncio.to_thread(_remove, path)


def _remove(path: Path) -> None:
    # Nobody else opens it: its name is its command's alone, and that has ended.
    for file in path.iterdir():
        if file.name != LOCK:
            file.unlink()
    with contextlib.suppress(OSError):
        (path / LOCK).unlink()
        path.rmdir()
