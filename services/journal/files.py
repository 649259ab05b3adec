"""The Files port over a directory of a POSIX file system."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from services.corpus.errors import FailedPrecondition

LOCK = "lock"
_NEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC


class DirectoryFiles:
    """Files that their owner alone can read (mode 0600), in a directory (0700) that one process uses at a time."""

    def __init__(self, directory: Path, lock: int | None) -> None:
        self.directory = directory
        self._lock = lock

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Take ``directory``, which is made if it is missing; FailedPrecondition if another process has it.

        The kernel gives the lock (flock) back with the end of the process, however it ends.
        """
        while True:
            # It may be removed, or made by another process, between two of these steps.
            with suppress(FileNotFoundError):
                return cls.open_left(directory)
            if (made := cls._make(directory)) is not None:
                return made

    @classmethod
    def _make(cls, directory: Path) -> Self | None:
        """Make ``directory``, locked from its first moment on; None if another process made it meanwhile."""
        directory.parent.mkdir(parents=True, exist_ok=True)
        # Under its own name a process that looks for spools left behind could lock it first.
        new = directory.with_name(f".{directory.name}-{secrets.token_hex(8)}")
        new.mkdir(mode=0o700)
        files = cls.open_left(new)
        try:
            new.rename(directory)
        except OSError as error:
            files.discard()
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                return None
            raise
        files.directory = directory
        _sync(directory.parent)
        return files

    @classmethod
    def open_left(cls, directory: Path) -> Self:
        """Take a ``directory`` that is there; FileNotFoundError if it is not, FailedPrecondition as :meth:`open`."""
        lock = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            raise FailedPrecondition(f"the directory {directory.name!r} is in use by another process") from error
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock), (directory / LOCK).stat()):
                return cls(directory, lock)
        # It was removed, and perhaps made anew by somebody else, before it was locked.
        os.close(lock)
        raise FileNotFoundError(directory)

    @classmethod
    def unlocked(cls, directory: Path) -> Self:
        """Only to read: for a copy, or beside the process that writes."""
        return cls(directory, None)

    def names(self) -> Sequence[str]:
        """See the port."""
        return [entry.name for entry in os.scandir(self.directory) if entry.is_file() and entry.name != LOCK]

    def size(self, name: str) -> int:
        """See the port."""
        return (self.directory / name).stat().st_size

    def read(self, name: str, offset: int, length: int) -> bytes:
        """See the port."""
        with (self.directory / name).open("rb", buffering=0) as file:
            return _pread(file.fileno(), offset, length)

    def read_back(self, name: str, length: int) -> bytes:
        """See the port. The kernel drops what it holds of the file, unless it is still to be written."""
        with (self.directory / name).open("rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            return _pread(file.fileno(), 0, length)

    def create(self, name: str) -> int:
        """See the port."""
        return os.open(self.directory / name, _NEW, 0o600)

    def append_to(self, name: str) -> int:
        """See the port."""
        return os.open(self.directory / name, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)

    def write(self, handle: int, data: bytes) -> None:
        """See the port."""
        view = memoryview(data)
        while view:
            view = view[os.write(handle, view) :]

    def datasync(self, handle: int) -> None:
        """See the port."""
        os.fdatasync(handle)

    def close(self, handle: int) -> None:
        """See the port."""
        os.close(handle)

    def truncate(self, name: str, size: int) -> None:
        """See the port."""
        handle = self.append_to(name)
        try:
            os.ftruncate(handle, size)
            os.fsync(handle)
        finally:
            os.close(handle)

    def rename(self, old: str, new: str) -> None:
        """See the port."""
        (self.directory / old).replace(self.directory / new)

    def remove(self, name: str) -> None:
        """See the port."""
        (self.directory / name).unlink()

    def sync_directory(self) -> None:
        """See the port."""
        _sync(self.directory)

    def release(self) -> None:
        """See the port. The lock's file stays."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def discard(self) -> None:
        """Remove the directory with all that is in it, and then give it back: whoever takes it makes it anew."""
        for name in sorted(self.names()):  # a journal without its oldest segments is whole, one with a gap is not
            self.remove(name)
        (self.directory / LOCK).unlink(missing_ok=True)
        with suppress(OSError):  # somebody else may be making it already
            self.directory.rmdir()
        DirectoryFiles.release(self)


def _pread(descriptor: int, offset: int, length: int) -> bytes:
    parts: list[bytes] = []
    while length > 0:
        part = os.pread(descriptor, length, offset)
        if not part:
            break
        parts.append(part)
        offset += len(part)
        length -= len(part)
    return b"".join(parts)


def _sync(directory: Path) -> None:
    with suppress(FileNotFoundError):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
