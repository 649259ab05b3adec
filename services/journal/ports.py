"""The disk, as a journal uses it: one directory without subdirectories. Every call blocks and may raise OSError."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Files(Protocol):
    """The files of one directory. A handle is open for appending and belongs to one thread at a time."""

    def names(self) -> Sequence[str]:
        """The files' names, in no order."""

    def size(self, name: str) -> int:
        """A file's size in bytes."""

    def read(self, name: str, offset: int, length: int) -> bytes:
        """Up to ``length`` bytes from ``offset`` on; fewer at the end of the file."""

    def read_back(self, name: str, length: int) -> bytes:
        """The first ``length`` bytes, as far as possible from the disk and not from a cache."""

    def create(self, name: str) -> int:
        """Make an empty file, or empty one; a handle to it. Durable after ``datasync`` and ``sync_directory``."""

    def append_to(self, name: str) -> int:
        """A handle to a file that exists."""

    def write(self, handle: int, data: bytes) -> None:
        """Append all of ``data``; after an error any part of it may be there."""

    def datasync(self, handle: int) -> None:
        """Return when what was written is durable."""

    def close(self, handle: int) -> None:
        """Give the handle back."""

    def truncate(self, name: str, size: int) -> None:
        """Cut a file to ``size`` bytes, durably."""

    def rename(self, old: str, new: str) -> None:
        """Replace ``new`` by ``old`` in one step; durable after ``sync_directory``."""

    def remove(self, name: str) -> None:
        """Remove a file; durable after ``sync_directory``."""

    def sync_directory(self) -> None:
        """Return when names that were made, changed or removed are durable."""

    def release(self) -> None:
        """Let others use the directory."""


def replace(files: Files, name: str, content: bytes) -> None:
    """Give ``name`` new content in one durable step: after a crash it has the old content or the new one."""
    temporary = f"{name}.new"
    handle = files.create(temporary)
    try:
        files.write(handle, content)
        files.datasync(handle)
    finally:
        files.close(handle)
    files.rename(temporary, name)
    files.sync_directory()
