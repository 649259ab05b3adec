"""The folder of a backup: written under another name, hashed as it is written, and renamed when it is durable."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from services.backup.manifest import NAME, FileEntry, Manifest, decode, encode
from services.corpus.errors import AlreadyExists, DataLoss, NotFound
from services.journal.files import LOCK, DirectoryFiles

_BLOCK = 1024 * 1024
Told = Callable[[int], None]
"""Told of so many bytes (or items) more that are done."""


class HashedFile:
    """A file that is being written; its entry is known when it is closed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> None:
        """Append all of ``data``."""
        self._file.write(data)
        self._hash.update(data)
        self.size += len(data)

    @property
    def entry(self) -> FileEntry:
        """What the manifest will say of it."""
        return FileEntry(self.size, self._hash.hexdigest())


class Folder:
    """A folder that is being written: private, each file durable when its ``with`` ends. Names have slashes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: dict[str, FileEntry] = {}

    @contextmanager
    def create(self, name: str) -> Iterator[HashedFile]:
        """Write ``name``, or write it anew."""
        path = self.path(name)
        with _private(path) as file:
            hashed = HashedFile(file)
            yield hashed
            file.flush()
            os.fsync(file.fileno())
        self.files[name] = hashed.entry

    def adopt(self, name: str) -> None:
        """Take over a file that somebody else has written to :meth:`path`."""
        path = self.root / name
        path.chmod(0o600)
        with path.open("rb") as file:
            os.fsync(file.fileno())
        self.files[name] = entry_of(path)

    def remove(self, name: str) -> None:
        """Take a file out again."""
        (self.root / name).unlink()
        del self.files[name]

    def path(self, name: str) -> Path:
        """Where ``name`` goes; its directory is made."""
        path = self.root / name
        _make_private(path.parent)
        return path

    def finish(self, manifest: Manifest) -> bytes:
        """Write the manifest, which makes a folder a backup; its bytes."""
        data = encode(manifest)
        with _private(self.root / NAME) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        return data


@contextmanager
def building(target: Path) -> Iterator[Folder]:
    """A folder that becomes ``target`` in one step when the body ends well, and is removed when it does not.

    AlreadyExists unless ``target`` is missing or an empty directory; FailedPrecondition while another process builds it.
    What an earlier process left half-built is removed.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise AlreadyExists(f"{target} exists already; nothing is ever overwritten: name another place")
    target.parent.mkdir(parents=True, exist_ok=True)
    root = target.with_name(f".{target.name}.incomplete")
    held = DirectoryFiles.open(root)
    root.chmod(0o700)
    try:
        for entry in root.iterdir():
            if entry.name != LOCK:
                _remove(entry)
        try:
            yield Folder(root)
            (root / LOCK).unlink()
            sync_tree(root)
            root.rename(target)
            sync_directory(target.parent)
        except BaseException:
            shutil.rmtree(root, ignore_errors=True)
            raise
    finally:
        held.release()


def read_manifest(root: Path) -> tuple[Manifest, bytes]:
    """A backup's manifest and its bytes; NotFound if this is no backup, DataLoss if it is damaged."""
    if not root.is_dir():
        raise NotFound(f"{root}: there is no such backup")
    try:
        data = (root / NAME).read_bytes()
    except OSError as error:
        raise NotFound(f"{root} is not a backup: {NAME} cannot be read ({error.strerror})") from error
    manifest = decode(data)
    for name in manifest.files:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise DataLoss(f"{NAME} names a file outside of the backup")
    return manifest, data


def check_files(root: Path, manifest: Manifest, told: Told = lambda _: None) -> None:
    """Compare every file with its hash; DataLoss names those that are missing or damaged. Blocking."""
    problems: list[str] = []
    for name, expected in sorted(manifest.files.items()):
        try:
            found = entry_of(root / name, told)
        except OSError as error:
            problems.append(f"{name} cannot be read ({error.strerror})")
            continue
        if found != expected:
            problems.append(f"{name} is damaged")
    if problems:
        raise DataLoss("the backup is damaged: " + _list(problems))


def entry_of(path: Path, told: Told = lambda _: None) -> FileEntry:
    """A file's size and hash. Blocking; OSError."""
    hashed, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            hashed.update(block)
            size += len(block)
            told(len(block))
    return FileEntry(size, hashed.hexdigest())


def copy_file(source: Path, target: Path) -> None:
    """Copy a file, private and durable."""
    _make_private(target.parent)
    with source.open("rb") as origin, _private(target) as copy:
        shutil.copyfileobj(origin, copy, _BLOCK)
        copy.flush()
        os.fsync(copy.fileno())


def sync_tree(root: Path) -> None:
    """Make the names in a directory and in all below it durable."""
    for directory, _, _ in os.walk(root):
        sync_directory(Path(directory))


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_private(directory: Path) -> None:
    """Make a directory for its owner alone; with ``parents=True``, those above it would get what the umask leaves."""
    if not directory.is_dir():
        _make_private(directory.parent)
        directory.mkdir(mode=0o700, exist_ok=True)


def _private(path: Path) -> BinaryIO:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o600), "wb")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _list(problems: list[str]) -> str:
    more = len(problems) - 3
    return ", ".join(problems[:3]) + (f", and {more:,} more" if more > 0 else "")
