"""The lock that keeps two processes from opening one data directory."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Self

from services.corpus.errors import FailedPrecondition


class DirectoryLock:
    """An exclusive lock on a directory, held until :meth:`release` or the end of the process.

    The kernel drops a flock with its last descriptor, so a crash leaves no stale lock behind; it also holds
    between two opens in one process. (On NFS before Linux 2.6.12 a flock is local: keep data on a local disk.)
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    @classmethod
    def acquire(cls, directory: Path) -> Self:
        """Lock ``directory`` (created, for its owner alone, if it is missing).

        Raises FailedPrecondition at once when somebody else holds it.
        """
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(directory / "store.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise FailedPrecondition("the data directory is in use by another groundwire store") from error
        return cls(descriptor)

    def release(self) -> None:
        """Let others open the directory; calling it again does nothing. The file stays: removing it would race."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
