"""Unix sockets that a token may be sent to: nobody but this user and root can have put them where they are."""

from __future__ import annotations

import os
import stat
from pathlib import Path

PREFIX = "unix:"


def untrusted(address: str) -> str:
    """Why no token may be sent to ``address``, as the end of a sentence; empty if one may, or if nothing is there yet.

    Only paths of unix sockets are looked at: the socket and its directory must belong to this user or to root, and
    others must not be able to replace the one in the other.
    """
    if not address.startswith(PREFIX):
        return ""
    path = Path(address.removeprefix(PREFIX))
    try:
        if problem := untrusted_directory(path.parent):
            return problem
        link, status = path.lstat(), path.stat()
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"{path} cannot be looked at: {(error.strerror or str(error)).lower()}"
    if not stat.S_ISSOCK(status.st_mode):
        return f"{path} is no socket"
    others = {link.st_uid, status.st_uid} - trusted_owners()
    return f"the socket {path} belongs to another user (uid {min(others)})" if others else ""


def untrusted_directory(directory: Path) -> str:
    """Why others could put a socket into ``directory``, as the end of a sentence; empty if they could not.

    OSError if it cannot be looked at.
    """
    link, status = directory.lstat(), directory.stat()
    for owner in (link.st_uid, status.st_uid):
        if owner not in trusted_owners():
            return f"the directory {directory} belongs to another user (uid {owner})"
    if status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX:
        return f"every user can change the directory {directory} (mode {stat.S_IMODE(status.st_mode):o})"
    return ""


def trusted_owners() -> frozenset[int]:
    """The users whose files count: this one and root."""
    return frozenset({0, os.geteuid()})
