"""A backup as one file: the folder in an uncompressed tar (what is sealed does not compress). Blocking."""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

from services.backup.folder import sync_directory
from services.corpus.errors import AlreadyExists, DataLoss, NotFound

SUFFIX = ".tar"


@contextmanager
def packing(target: Path) -> Iterator[Path]:
    """Where a folder is to be built that goes into the file ``target`` when the body ends well; AlreadyExists."""
    if target.exists():
        raise AlreadyExists(f"{target} exists already; nothing is ever overwritten: name another file")
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = target.with_name(f".{target.name}.folder")
    temporary = target.with_name(f".{target.name}.incomplete")
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield folder
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
                tar.add(folder, arcname="backup")
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(target)
        sync_directory(target.parent)
    finally:
        temporary.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def opened(source: Path, *, room: Path | None = None) -> Iterator[Path]:
    """The folder of a backup: ``source`` itself, or what the tar ``source`` holds, unpacked in ``room`` for the time being.

    NotFound, DataLoss.
    """
    if source.is_dir():
        yield source
        return
    if not source.is_file():
        raise NotFound(f"{source}: there is no such backup")
    folder = Path(mkdtemp(prefix=".backup-", dir=room))
    try:
        try:
            with tarfile.open(source, mode="r:") as tar:
                tar.extractall(folder, filter="data")
        except (tarfile.TarError, ValueError) as error:
            raise DataLoss(f"{source} is no backup, or it is damaged: {error}") from error
        yield folder / "backup"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
