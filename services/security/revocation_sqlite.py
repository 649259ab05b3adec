"""Revocations in a SQLite file that all processes of a host share.

A rollback journal, not WAL: several processes write here, seldom, and WAL with several writers had a corruption bug
until SQLite 3.51.3. Every write has a connection of its own; the one that reads is kept open, because ``PRAGMA
data_version`` tells a connection cheaply whether another one has changed the file.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

from services.corpus.errors import Unavailable
from services.security.revocation import Batch, Revocation, SubjectRevoked, TokenRevoked

_BUSY = 2.0
_Result = TypeVar("_Result")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS revocation (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL CHECK (kind IN ('token', 'subject')),
    realm TEXT NOT NULL,
    name TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    until INTEGER NOT NULL
) STRICT
"""


class SqliteRevocationStore:
    """A :class:`~services.security.revocation.RevocationStore` in the file ``path``, made for its owner alone."""

    def __init__(self, path: Path) -> None:
        """Nothing is opened before the first call."""
        self._path = path
        # A thread of its own: in the shared pool a read would wait behind embedding and parsing, and while nobody knows
        # what is revoked, nobody gets in.
        self._thread: ThreadPoolExecutor | None = None
        self._reader: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._opened = 0
        self._seen: tuple[int, Batch] | None = None

    async def add(self, revocation: Revocation, now: float) -> None:
        """Commit a revocation with ``synchronous=FULL`` and drop what expired before ``now``."""
        await self._in_thread(partial(self._add, revocation, now))

    async def read(self, after: object) -> Batch:
        """What was added after the cursor; all of it if the file was replaced since."""
        return await self._in_thread(partial(self._read, after))

    async def close(self) -> None:
        """Close the connection that reads, and end the thread; another call begins anew."""
        if self._thread is not None:
            await self._in_thread(self._forget)
            self._thread.shutdown(wait=False)
            self._thread = None

    async def _in_thread(self, work: Callable[[], _Result]) -> _Result:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="revocations")
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _add(self, revocation: Revocation, now: float) -> None:
        with _unavailable("revocations cannot be stored"), closing(self._connect(create=True)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("DELETE FROM revocation WHERE until < ?", (int(now),))
            connection.execute(
                "INSERT INTO revocation (kind, realm, name, epoch, until) VALUES (?, ?, ?, ?, ?)", _row(revocation)
            )
            connection.execute("COMMIT")

    def _read(self, after: object) -> Batch:
        with _unavailable("revocations cannot be read"):
            try:
                return self._changes(self._open(), after)
            except (sqlite3.Error, OSError):
                self._forget()
                raise

    def _changes(self, connection: sqlite3.Connection, after: object) -> Batch:
        (version,) = connection.execute("PRAGMA data_version").fetchone()
        if self._seen is not None and self._seen[0] == version and self._seen[1].cursor == after:
            return Batch((), after)
        # A cursor counts within one opening of the file: in a restored copy, numbers are given out again.
        seq = after[1] if isinstance(after, tuple) and after[0] == self._opened else 0
        rows = connection.execute(
            "SELECT seq, kind, realm, name, epoch, until FROM revocation WHERE seq > ? ORDER BY seq", (seq,)
        ).fetchall()
        batch = Batch([_revocation(*row[1:]) for row in rows], (self._opened, rows[-1][0] if rows else seq))
        # The version was taken first: a change in between is seen again, never missed.
        self._seen = (version, batch)
        return batch

    def _open(self) -> sqlite3.Connection:
        if self._reader is not None and self._identity() == self._file:
            return self._reader
        self._forget()
        # A file that vanished is not made again by reading: everybody's revocations would be gone without a trace.
        self._reader = self._connect(create=self._opened == 0)
        self._opened += 1
        self._file = self._identity()
        return self._reader

    def _connect(self, *, create: bool) -> sqlite3.Connection:
        if create and not self._path.exists():
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        before = self._identity()
        connection = sqlite3.connect(self._path, timeout=_BUSY, isolation_level=None)
        with ExitStack() as stack:
            stack.callback(connection.close)
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute(_SCHEMA)
            if self._identity() != before:
                raise sqlite3.OperationalError("the file was replaced while it was opened")
            stack.pop_all()
        return connection

    def _identity(self) -> tuple[int, int]:
        status = self._path.stat()
        return status.st_dev, status.st_ino

    def _forget(self) -> None:
        if self._reader is not None:
            self._reader.close()
        self._reader = self._file = self._seen = None


@contextmanager
def _unavailable(message: str) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError, ValueError) as error:
        raise Unavailable(message, retry_after=1.0) from error


def _row(revocation: Revocation) -> tuple[str, str, str, int, int]:
    if isinstance(revocation, TokenRevoked):
        return "token", revocation.issuer, revocation.token_id, 0, revocation.until
    return "subject", revocation.tenant, revocation.subject, revocation.epoch, revocation.until


def _revocation(kind: str, realm: str, name: str, epoch: int, until: int) -> Revocation:
    return TokenRevoked(realm, name, until) if kind == "token" else SubjectRevoked(realm, name, epoch, until)
