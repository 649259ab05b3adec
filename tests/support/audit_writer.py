"""Appends events to an audit log until it is killed, and prints each index when it is acknowledged.

Started once, it forks for every directory that it reads from its standard input: a child costs no imports.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from services.audit.log import AuditLog
from services.journal.files import DirectoryFiles
from tests.support.audit_world import LOG, event


async def _append(directory: Path) -> None:
    log = await AuditLog.open(
        DirectoryFiles.open(directory / "events"), DirectoryFiles.open(directory / "checkpoints"), LOG
    )
    number = log.size

    async def caller(place: int) -> None:
        nonlocal number
        while True:
            number += 1
            made = event(number, event_id=f"{os.getpid()}-{number}-{place}")
            (index,) = await log.append([made])
            os.write(1, f"{index} {made.event_id}\n".encode())
            if index % 7 == 0:
                await log.sign()

    await asyncio.gather(*(caller(place) for place in range(4)))


def main() -> None:
    """Serve directories."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            asyncio.run(_append(Path(line.strip())))
        os.write(1, f"pid {child}\n".encode())
        os.waitpid(child, 0)
        os.write(1, b"end\n")


if __name__ == "__main__":
    main()
