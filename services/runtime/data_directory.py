"""Whether durable data can be kept in a directory, and what an error of the file system means to a person."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from pathlib import Path

from services.runtime.settings import PREFIX, ConfigurationError

DATA_DIR_VARIABLE = f"{PREFIX}DATA_DIR"
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
_MEANINGS = {
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "this user may not write there",
    errno.EPERM: "this user may not write there",
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "this user's share of the disk is used up",
    errno.ENOTDIR: "a part of this path is not a directory",
    errno.EEXIST: "there is a file of this name already",
    errno.EISDIR: "it is a directory",
    errno.ENOENT: "there is no such file or directory",
    errno.ELOOP: "its symbolic links lead in a circle",
    errno.ENAMETOOLONG: "a name in this path is too long",
    errno.EIO: "the disk fails",
}
_PROBE_BYTES = 4096
_OTHERS = 0o077


def is_full(error: OSError) -> bool:
    """Whether there is no space left."""
    return error.errno in _NO_SPACE


def meaning(error: OSError) -> str | None:
    """What is wrong, in plain words; None if ``error`` is not about files and disks."""
    return _MEANINGS.get(error.errno or 0)


def require_usable(directory: Path, what: str = "the data directory", named_by: str = DATA_DIR_VARIABLE) -> None:
    """Make ``directory``, for its owner alone, if it is missing, and write in it.

    ConfigurationError, with what a person can do, if that fails. ``named_by`` is how another one is chosen. Blocking.
    """
    probe = directory / f".writable-{secrets.token_hex(8)}"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            # A full disk still takes names.
            os.write(descriptor, bytes(_PROBE_BYTES))
        finally:
            os.close(descriptor)
            probe.unlink()
    except OSError as error:
        raise ConfigurationError(unusable(directory, error, what, named_by)) from error


def keep_from_others(directory: Path) -> str:
    """Take from other users what they may do in ``directory``, and with this user's files in it; what was changed.

    Empty if it was private. A directory of another user, as orchestrators mount them, stays as it is, but not the files.
    Links are never followed. Blocking; OSError if it cannot be read.
    """
    status = directory.stat()
    if not status.st_mode & _OTHERS:
        return ""
    changed = 0
    for _, _, files, folder in os.fwalk(directory, follow_symlinks=False):
        for name in (".", *files):
            changed += _take_from_others(name, folder)
    own = directory.stat()
    if own.st_mode & _OTHERS:
        if not changed:
            return ""
        told = f"the directory {directory} belongs to another user and lets others in (mode {own.st_mode & 0o7777:o})"
        return f"{told}: {changed} files in it are private now; change its mode to 700 if nobody needs it"
    return (
        f"other users could read the data in {directory} (mode {status.st_mode & 0o7777:o}): "
        + (f"it and {changed - 1} files and directories in it are" if changed > 1 else "it is")
        + " for this user alone now"
    )


def _take_from_others(name: str, folder: int) -> bool:
    """Whether the file or directory ``name`` was this user's and others could use it."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(name, flags, dir_fd=folder)
    except OSError:
        # A link, a socket, or a file that is gone by now: sockets get their mode where they are made.
        return False
    try:
        status = os.fstat(descriptor)
        regular = stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)
        if not regular or status.st_uid != os.geteuid() or not status.st_mode & _OTHERS:
            return False
        os.fchmod(descriptor, stat.S_IMODE(status.st_mode) & ~_OTHERS)
    finally:
        os.close(descriptor)
    return True


def unusable(
    directory: Path, error: OSError, what: str = "the data directory", named_by: str = DATA_DIR_VARIABLE
) -> str:
    """Why ``directory`` cannot be used after ``error``, and the remedy, in one line."""
    why = meaning(error) or (error.strerror or str(error)).lower()
    another = f"name another one with {named_by}"
    if (obstacle := obstacle_of(directory)) is not None:
        return f"{what} {directory} cannot be used: {_no_directory(obstacle, directory)}; {another}"
    if is_full(error):
        return f"{what} {directory} cannot be used: {why}; free some space there, or {another}"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"{what} {directory} cannot be used: {why}; change its owner or mode, or {another}"
    if error.errno == errno.ENOENT:
        why = "it cannot be made there"
    return f"{what} {directory} cannot be used: {why}; {another}"


def obstacles(directory: Path) -> str | None:
    """Why ``directory`` could not be used, without making anything; None if it could be."""
    if (obstacle := obstacle_of(directory)) is not None:
        return _no_directory(obstacle, directory)
    existing = next(folder for folder in (directory.absolute(), *directory.absolute().parents) if folder.exists())
    if os.access(existing, os.W_OK | os.X_OK):
        return None
    read_only = os.statvfs(existing).f_flag & os.ST_RDONLY
    return _MEANINGS[errno.EROFS if read_only else errno.EACCES]


def _no_directory(obstacle: Path, directory: Path) -> str:
    it = "it" if obstacle == directory.absolute() else str(obstacle)
    if obstacle.is_symlink() and not obstacle.exists():
        return f"{it} is a symbolic link to {obstacle.readlink()}, which is not there or leads in a circle"
    return f"{it} is not a directory"


def obstacle_of(directory: Path) -> Path | None:
    """The part of the path that is there and is not a directory."""
    path = directory.absolute()
    return next((part for part in (path, *path.parents) if os.path.lexists(part) and not part.is_dir()), None)
