"""One spool for each process of a service: ``NAME``, ``NAME.2``, ``NAME.3`` … in one directory.

A process has the lowest that nobody else has. The lock decides, and the kernel gives that back with the end of the
process, however it ends: no file says who is alive.
"""

from __future__ import annotations

from pathlib import Path

from services.corpus.errors import FailedPrecondition
from services.journal.files import DirectoryFiles

_MOST = 1_000


def claim(directory: Path, name: str) -> DirectoryFiles:
    """Take the lowest slot of ``name`` that nobody has; blocking.

    FailedPrecondition when all are taken, or the file system of ``directory`` cannot lock.
    """
    for number in range(1, _MOST + 1):
        try:
            return DirectoryFiles.open(directory / (name if number == 1 else f"{name}.{number}"))
        except FailedPrecondition:
            continue
    raise FailedPrecondition(f"none of the {_MOST:,} places of {name!r} in {directory.name!r} can be locked")


def slots(directory: Path, name: str) -> list[Path]:
    """The slots of ``name`` that are there, whoever has them; blocking."""
    numbered = (path for path in directory.glob(f"{name}.*") if path.name.removeprefix(f"{name}.").isdecimal())
    return [path for path in (directory / name, *sorted(numbered)) if path.is_dir()]
