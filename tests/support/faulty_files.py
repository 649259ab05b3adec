"""A disk that fails when it is told to."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from typing import TypeVar

from services.journal.ports import Files

_T = TypeVar("_T")


class FaultyFiles:
    """Passes everything on to ``inner``; what changes files is counted, and fails from ``fail_at`` on.

    ``times`` is how many operations in a row fail; a write that fails has written a part of its data.
    """

    def __init__(self, inner: Files, *, fail_at: int = -1, code: int = errno.EIO, times: int = 1) -> None:
        self.inner = inner
        self.operations: list[str] = []
        self.failed = 0
        self._fail_at = fail_at
        self._code = code
        self._times = times

    def names(self) -> Sequence[str]:
        return self.inner.names()

    def size(self, name: str) -> int:
        return self.inner.size(name)

    def read(self, name: str, offset: int, length: int) -> bytes:
        return self.inner.read(name, offset, length)

    def read_back(self, name: str, length: int) -> bytes:
        return self.inner.read_back(name, length)

    def create(self, name: str) -> int:
        return self._count("create", lambda: self.inner.create(name))

    def append_to(self, name: str) -> int:
        return self._count("append_to", lambda: self.inner.append_to(name))

    def write(self, handle: int, data: bytes) -> None:
        def part() -> None:
            self.inner.write(handle, data[: len(data) // 2])

        self._count("write", lambda: self.inner.write(handle, data), part)

    def datasync(self, handle: int) -> None:
        self._count("datasync", lambda: self.inner.datasync(handle))

    def close(self, handle: int) -> None:
        self.inner.close(handle)

    def truncate(self, name: str, size: int) -> None:
        self._count("truncate", lambda: self.inner.truncate(name, size))

    def rename(self, old: str, new: str) -> None:
        self._count("rename", lambda: self.inner.rename(old, new))

    def remove(self, name: str) -> None:
        self._count("remove", lambda: self.inner.remove(name))

    def sync_directory(self) -> None:
        self._count("sync_directory", self.inner.sync_directory)

    def release(self) -> None:
        self.inner.release()

    def _count(self, operation: str, work: Callable[[], _T], before_failing: Callable[[], None] | None = None) -> _T:
        place = len(self.operations)
        self.operations.append(operation)
        if self._fail_at >= 0 and self._fail_at <= place < self._fail_at + self._times:
            self.failed += 1
            if before_failing is not None:
                before_failing()
            raise OSError(self._code, os.strerror(self._code))
        return work()
