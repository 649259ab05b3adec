"""That one mesh at a time runs on a data directory and on its ports, before anything of it is started.

The kernel gives both back when the processes end, however they do: nothing that a killed one leaves behind is in the way.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from cli.errors import CliError

LOCK = "up.lock"


class MeshLock:
    """The right to run the mesh of one data directory: two locks on one file.

    One (POSIX) belongs to the process of ``groundwire up`` alone. The other (flock) belongs to every process with the
    ``descriptor``, which it lends to the processes of the mesh: it is free when the last of them has ended.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    @classmethod
    def take(cls, data_dir: Path, say: Callable[[str], None], *, make: bool) -> Self | None:
        """Take the lock of ``data_dir``; None if there is no lock and ``make`` is False.

        CliError at once if another ``groundwire up`` runs there. If that one was killed, its processes are about to
        end: they are waited for.
        """
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_CREAT if make else 0)
        try:
            descriptor = os.open(data_dir / LOCK, flags, 0o600)
        except (FileNotFoundError, NotADirectoryError):
            if make:
                raise
            return None
        try:
            if not _locked(fcntl.lockf, descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB):
                raise _in_use(data_dir, _holder(descriptor))  # noqa: TRY301 - the descriptor is closed below
            if not _locked(fcntl.flock, descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB):
                say("the last mesh of this data directory was killed; waiting until all of its processes have ended")
                _locked(fcntl.flock, descriptor, fcntl.LOCK_EX)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(descriptor)

    def close(self) -> None:
        """Give it back; the file stays, because removing it would race."""
        os.close(self.descriptor)


class HeldPorts:
    """Announces to every other ``groundwire up`` of this machine where this one is about to listen."""

    def __init__(self, names: Sequence[socket.socket], taken: Sequence[str]) -> None:
        self._names = names
        self.taken = tuple(taken)

    @classmethod
    def of(cls, addresses: Mapping[str, str]) -> Self:
        """Hold the ports of ``addresses``; ``taken`` are the services whose address another one holds."""
        held: list[socket.socket] = []
        taken: list[str] = []
        for name, address in addresses.items():
            # Abstract sockets are Linux's own, belong to the same network namespace as ports, and leave no file.
            if sys.platform != "linux" or address.startswith("unix:") or address.endswith(":0"):
                continue
            announced = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                announced.bind(f"\0groundwire up {address}")
            except OSError as error:
                announced.close()
                if error.errno == errno.EADDRINUSE:
                    taken.append(name)
            else:
                held.append(announced)
        return cls(held, taken)

    def close(self) -> None:
        """Let others have them."""
        for announced in self._names:
            announced.close()


def _in_use(data_dir: Path, holder: int | None) -> CliError:
    who = "a process" if holder is None else f"process {holder}"
    return CliError(
        f"another groundwire uses this data directory: {who} runs `groundwire up` on {data_dir}; "
        "end that one, or use other places with --data-dir DIR --port-base N"
    )


def _locked(lock: Callable[[int, int], object], descriptor: int, flags: int) -> bool:
    try:
        lock(descriptor, flags)
    except (BlockingIOError, PermissionError):
        # POSIX lets a system say either when another process has the lock.
        return False
    return True


def _holder(descriptor: int) -> int | None:
    with suppress(ValueError):
        return int(os.pread(descriptor, 32, 0))
    return None
