"""The Files port in memory, with a disk that can lose what was not synced; for tests."""

from __future__ import annotations

import errno
import random
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class _File:
    content: bytearray = field(default_factory=bytearray)
    durable: bytes = b""


class MemoryFiles:
    """Keeps what was written, and beside it what a crash would leave."""

    def __init__(self) -> None:
        self._files: dict[str, _File] = {}
        self._durable_names: dict[str, _File] = {}
        self._handles: dict[int, _File] = {}
        self._next_handle = 3

    def crash(self, chance: random.Random | None = None) -> None:
        """Lose what is not durable. With ``chance``, some of the bytes that were not synced are there all the same."""
        for name, file in list(self._durable_names.items()):
            kept = bytearray(file.durable)
            if chance is not None and len(file.content) > len(kept):
                # Pages reach a disk in any order: a length, and holes of zeros in it.
                rest = bytearray(file.content[len(kept) : chance.randint(len(kept), len(file.content))])
                for start in range(0, len(rest), 16):
                    if chance.random() < 0.2:
                        rest[start : start + 16] = bytes(len(rest[start : start + 16]))
                kept += rest
            self._durable_names[name] = _File(kept, bytes(kept))
        self._files = dict(self._durable_names)
        self._handles.clear()

    def names(self) -> Sequence[str]:
        """See the port."""
        return list(self._files)

    def size(self, name: str) -> int:
        """See the port."""
        return len(self._file(name).content)

    def read(self, name: str, offset: int, length: int) -> bytes:
        """See the port."""
        return bytes(self._file(name).content[offset : offset + length])

    def read_back(self, name: str, length: int) -> bytes:
        """See the port."""
        return self._file(name).durable[:length]

    def create(self, name: str) -> int:
        """See the port."""
        file = self._files.setdefault(name, _File())
        file.content.clear()
        return self._open(file)

    def append_to(self, name: str) -> int:
        """See the port."""
        return self._open(self._file(name))

    def write(self, handle: int, data: bytes) -> None:
        """See the port."""
        self._handles[handle].content += data

    def datasync(self, handle: int) -> None:
        """See the port."""
        file = self._handles[handle]
        file.durable = bytes(file.content)

    def close(self, handle: int) -> None:
        """See the port."""
        del self._handles[handle]

    def truncate(self, name: str, size: int) -> None:
        """See the port."""
        file = self._file(name)
        del file.content[size:]
        file.durable = bytes(file.content)

    def rename(self, old: str, new: str) -> None:
        """See the port."""
        self._files[new] = self._file(old)
        del self._files[old]

    def remove(self, name: str) -> None:
        """See the port."""
        self._file(name)
        del self._files[name]

    def sync_directory(self) -> None:
        """See the port."""
        self._durable_names = dict(self._files)

    def release(self) -> None:
        """See the port."""

    def flip(self, name: str, offset: int) -> None:
        """Damage one byte, durably."""
        file = self._file(name)
        file.content[offset] ^= 0x55
        file.durable = bytes(file.content)

    def _open(self, file: _File) -> int:
        handle, self._next_handle = self._next_handle, self._next_handle + 1
        self._handles[handle] = file
        return handle

    def _file(self, name: str) -> _File:
        if name not in self._files:
            raise FileNotFoundError(errno.ENOENT, "no such file", name)
        return self._files[name]
