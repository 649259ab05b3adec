"""Takes up what commands of the same data directory left in spools of their own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from services.audit.adapters.own_log import append_serialized
from services.audit.log import AuditLog
from services.journal.leftovers import Leftovers
from services.journal.spool import COMMAND_PREFIX
from services.runtime.auditing.delivery import close_interrupted

_INTERVAL = 1.0


def command_spools(directory: Path, log: AuditLog) -> Leftovers:
    """What puts the commands' spools in ``directory`` into ``log``, once they have ended."""

    async def deliver(events: Sequence[bytes]) -> None:
        await append_serialized(log, events)

    def found() -> list[Path]:
        return sorted(directory.glob(f"{COMMAND_PREFIX}*"))

    return Leftovers(found, deliver, close_interrupted, interval=_INTERVAL)
