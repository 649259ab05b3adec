"""Files that hold key material: readable by their owner alone, replaced in one step."""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from services.corpus.errors import FailedPrecondition

_OTHERS = 0o077
_SECRET_BYTES = 32


def ensure_private_directory(directory: Path) -> None:
    """Create ``directory`` with mode 0700 if it is missing; FailedPrecondition if others can enter it."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = directory.stat()
    if status.st_mode & _OTHERS or status.st_uid != os.geteuid():
        raise FailedPrecondition("the key directory must belong to this user alone (chmod 700)")


def ensure_private_file(path: Path) -> None:
    """Create an empty file with mode 0600 if it is missing; FailedPrecondition if others can open it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        _require_private(os.fstat(descriptor))
    finally:
        os.close(descriptor)


def read_private(path: Path) -> tuple[bytes, os.stat_result]:
    """A key file's bytes and its status; FailedPrecondition if others can open it, OSError if it cannot be read.

    Symbolic links are followed: that is how orchestrators mount secrets. What counts is the mode of the file itself.
    """
    while True:
        # Without waiting for the other end of a pipe, should it be one.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            _require_private(status)
            content = file.read()
        # replace_private overwrites the file it has replaced: what was read then would be its zeros.
        if path.stat().st_ino == status.st_ino:
            return content, status


def shared_secret_file(path: Path) -> bytes:
    """The random secret in ``path``, made by whichever process comes first; FailedPrecondition if others can read it."""
    # Whoever may enter the directory above could put another one in its place.
    path.parent.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    ensure_private_directory(path.parent)
    if not path.exists():
        draft = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
        draft.touch(mode=0o600)
        draft.write_bytes(secrets.token_bytes(_SECRET_BYTES))
        try:
            path.hardlink_to(draft)  # unlike a rename, this fails if another process was faster
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return read_private(path)[0]


def replace_private(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` in one step, durably, with mode 0600, and overwrite what was there before.

    Overwriting is the best that a program can do: a copy-on-write file system or a flash disk may keep the old blocks.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        old = _open_existing(path)
        try:
            temporary.replace(path)
            _sync_directory(path.parent)
            if old is not None:
                os.pwrite(old, bytes(os.fstat(old).st_size), 0)
                os.fsync(old)
        finally:
            if old is not None:
                os.close(old)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def only_writer(path: Path) -> Iterator[None]:
    """Hold the right to change the key file ``path``, between processes."""
    descriptor = os.open(
        path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
    )
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _require_private(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise FailedPrecondition("a key file must be a regular file")
    if status.st_mode & (_OTHERS | 0o100) or status.st_uid not in {0, os.geteuid()}:
        raise FailedPrecondition("a key file must be accessible to its owner alone (chmod 600)")


def _open_existing(path: Path) -> int | None:
    try:
        return os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
