"""Errors of files and disks, as the person at the terminal sees them."""

from __future__ import annotations

import errno
from pathlib import Path

from cli.errors import CliError, ExitCode
from services.runtime.data_directory import is_full, meaning, obstacle_of, unusable
from services.runtime.settings import ConfigurationError, Settings, load

_REMEDIES = {
    errno.EROFS: "use a place that can be written",
    errno.EACCES: "change its owner or mode, or run this as its owner",
    errno.EPERM: "change its owner or mode, or run this as its owner",
    errno.EIO: "look at the system's log",
}


def explain(error: OSError) -> CliError | None:
    """What ``error`` means, and what to do about it; None if it is not about files and disks."""
    why = meaning(error)
    if why is None:
        return None
    code = ExitCode.FAILED if is_full(error) else ExitCode.USAGE
    path = Path(str(error.filename)) if isinstance(error.filename, str) and error.filename else None
    data_dir = _data_directory()
    if path is not None and data_dir is not None and _speaks_of(data_dir.absolute(), path.absolute(), error):
        return CliError(unusable(data_dir, error), code=code)
    return CliError(f"{f'{path}: ' if path is not None else ''}{why}; {_remedy(error)}", code=code)


def _speaks_of(data_dir: Path, path: Path, error: OSError) -> bool:
    """Whether an error with ``path`` means that the data directory as a whole cannot be used."""
    if data_dir.is_relative_to(path):
        return True
    # What is true of the whole file system is true of the whole directory.
    return path.is_relative_to(data_dir) and (is_full(error) or error.errno in (errno.EROFS, errno.ENOTDIR))


def refuse_obstacle(data_dir: Path) -> None:
    """CliError where there is a file in the place of the data directory: nothing was ever stored in that."""
    if (obstacle := obstacle_of(data_dir)) is not None:
        error = NotADirectoryError(errno.ENOTDIR, "", str(obstacle))
        raise CliError(unusable(data_dir, error), code=ExitCode.USAGE)


def _remedy(error: OSError) -> str:
    if is_full(error):
        return "free some space, and run the command again"
    return _REMEDIES.get(error.errno or 0, "name another place, or put it right")


def _data_directory() -> Path | None:
    try:
        return load(Settings).data_dir
    except ConfigurationError:
        return None
