"""SQLite as the catalog's database: how connections and transactions begin, and the tables in a new file."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, insert, select
from sqlalchemy.exc import SQLAlchemyError

from services.catalog.schema import FORMAT, catalog_format, tables
from services.corpus.errors import FailedPrecondition


def open_engine(path: Path) -> Engine:
    """An engine for the file ``path``; transactions with the option ``immediate`` may write."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 10.0, "check_same_thread": False})
    event.listen(engine, "connect", _set_pragmas)
    event.listen(engine, "begin", _begin)
    return engine


def is_full(error: SQLAlchemyError) -> bool:
    """Whether the database's disk has no space left."""
    origin = getattr(error, "orig", None)
    code = getattr(origin, "sqlite_errorcode", None)
    # Beside the primary code there may be an extended one.
    return code is not None and code & 0xFF == sqlite3.SQLITE_FULL


def _set_pragmas(connection: Any, _record: Any) -> None:
    # The driver must not begin transactions by itself: `_begin` does, in the mode that a writer needs.
    connection.isolation_level = None
    # What is erased is overwritten in the file, not merely unlinked.
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=10000", "secure_delete=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    # A writer takes its lock at once: upgrading later fails when another process has written in between.
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("immediate") else "BEGIN")


class WriteLock:
    """Lets one process at a time write, and fold the write-ahead log into the file, which a commit may do.

    SQLite has a lock of its own for writing, but before 3.51.3 a write and a checkpoint of two connections could
    damage the file (https://www.sqlite.org/wal.html#walresetbug). It is released when its process ends, however it does.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(f"{path}-lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Wait for it and hold it; blocking."""
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Release the file."""
        os.close(self._descriptor)


def prepare(connection: Connection) -> None:
    """Make the tables if there are none; FailedPrecondition if there are those of another format."""
    tables.create_all(connection)
    found = connection.execute(select(catalog_format.c.format)).scalar_one_or_none()
    if found is None:
        connection.execute(insert(catalog_format).prefix_with("OR IGNORE").values(format=FORMAT))
    elif found != FORMAT:
        raise FailedPrecondition(f"the catalog has format {found}, this release reads format {FORMAT}")
