"""Key stores: in memory, and in a SQLite file of its own that several processes share.

The file stands alone in a directory of mode 0700, apart from the data it protects, so that backups can treat it
apart (see :meth:`Keyring.shred <services.security.keyring.Keyring.shred>`).
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from services.corpus.errors import DataLoss, DiskFull, FailedPrecondition, Unavailable
from services.security.encryption import KeyRecord, Purpose, WrappedKey
from services.security.key_files import ensure_private_directory, ensure_private_file

_T = TypeVar("_T")
_FORMAT = 1
_BUSY_SECONDS = 10.0
_SCHEMA = f"""
CREATE TABLE records (tenant TEXT PRIMARY KEY, generation INTEGER NOT NULL, shred_time REAL) STRICT;
CREATE TABLE wrapped_keys (
    tenant TEXT NOT NULL,
    purpose TEXT NOT NULL,
    number INTEGER NOT NULL,
    create_time REAL NOT NULL,
    master_key_id TEXT NOT NULL,
    wrapped BLOB NOT NULL,
    PRIMARY KEY (tenant, purpose, number)
) STRICT;
CREATE TABLE checkpoints (tenant TEXT NOT NULL, task TEXT NOT NULL, state TEXT NOT NULL, PRIMARY KEY (tenant, task)) STRICT;
PRAGMA user_version = {_FORMAT};
"""


class MemoryKeyStore:
    """Implements KeyStore and Checkpoints in dictionaries; nothing survives the process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._records: dict[str, KeyRecord] = {}
        self._checkpoints: dict[tuple[str, str], str] = {}

    def get(self, tenant: str) -> KeyRecord | None:
        """See the port."""
        return self._records.get(tenant)

    def replace(self, record: KeyRecord, *, expected: int) -> bool:
        """See the port."""
        with self._lock:
            known = self._records.get(record.tenant)
            if (known.generation if known else 0) != expected or (known and known.shred_time is not None):
                return False
            self._records[record.tenant] = record
            if record.shred_time is not None:
                for key in [key for key in self._checkpoints if key[0] == record.tenant]:
                    del self._checkpoints[key]
            return True

    def tenants(self, *, after: str = "", limit: int = 100) -> list[str]:
        """See the port."""
        with self._lock:
            return sorted(tenant for tenant in self._records if tenant > after)[:limit]

    def load_checkpoint(self, tenant: str, task: str) -> str | None:
        """See the port."""
        return self._checkpoints.get((tenant, task))

    def save_checkpoint(self, tenant: str, task: str, state: str | None) -> None:
        """See the port."""
        with self._lock:
            if state is None:
                self._checkpoints.pop((tenant, task), None)
            else:
                self._checkpoints[tenant, task] = state

    def close(self) -> None:
        """See the port."""


class SqliteKeyStore:
    """Implements KeyStore and Checkpoints in one SQLite file."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    @classmethod
    def open(cls, path: Path) -> SqliteKeyStore:
        """Open, or create, the file ``path``; its directory (created if missing) must be the owner's alone.

        FailedPrecondition if others could open it or its format is not ours; Unavailable.
        """
        try:
            ensure_private_directory(path.parent)
            # SQLite gives its journal the mode of the database, so the database must have the right one from birth.
            ensure_private_file(path)
        except OSError:
            raise Unavailable("the key store cannot be opened") from None
        with _translated():
            connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        store = cls(connection)
        try:
            store._prepare()
        except BaseException:
            connection.close()
            raise
        return store

    def _prepare(self) -> None:
        with _translated():
            # A rollback journal: several processes write here, and this SQLite's WAL is safe with one writer only.
            # EXTRA is FULL that also survives a power cut between a commit and the journal's removal being on disk.
            for pragma in ("secure_delete = ON", "journal_mode = DELETE", "synchronous = EXTRA", "temp_store = MEMORY"):
                self._connection.execute(f"PRAGMA {pragma}")

        def create(connection: sqlite3.Connection) -> None:
            found = int(connection.execute("PRAGMA user_version").fetchone()[0])
            if found not in {0, _FORMAT}:
                raise FailedPrecondition(f"the key store has format {found}, this release reads format {_FORMAT}")
            if found == 0:
                # Not executescript: that would commit first, and let another process in.
                for statement in _SCHEMA.split(";"):
                    connection.execute(statement)

        self._transact(create)

    def get(self, tenant: str) -> KeyRecord | None:
        """See the port."""
        # One statement, so that it sees one state of the store.
        query = (
            "SELECT r.generation, r.shred_time, k.purpose, k.number, k.create_time, k.master_key_id, k.wrapped"
            " FROM records r LEFT JOIN wrapped_keys k ON k.tenant = r.tenant WHERE r.tenant = ?"
            " ORDER BY k.purpose, k.number"
        )
        with self._lock, _translated():
            rows = self._connection.execute(query, (tenant,)).fetchall()
        if not rows:
            return None
        try:
            keys = tuple(
                WrappedKey(Purpose(purpose), number, create_time, master_key_id, wrapped)
                for _, _, purpose, number, create_time, master_key_id, wrapped in rows
                if purpose is not None
            )
        except ValueError:
            raise DataLoss("the key store is damaged") from None
        return KeyRecord(tenant, rows[0][0], keys, rows[0][1])

    def replace(self, record: KeyRecord, *, expected: int) -> bool:
        """See the port."""

        def change(connection: sqlite3.Connection) -> bool:
            tenant = record.tenant
            known = connection.execute("SELECT generation, shred_time FROM records WHERE tenant = ?", (tenant,))
            generation, shred_time = known.fetchone() or (0, None)
            if generation != expected or shred_time is not None:
                return False
            # secure_delete makes SQLite write zeros over what is deleted.
            connection.execute("DELETE FROM wrapped_keys WHERE tenant = ?", (tenant,))
            connection.execute(
                "INSERT INTO records VALUES (?, ?, ?) ON CONFLICT (tenant)"
                " DO UPDATE SET generation = excluded.generation, shred_time = excluded.shred_time",
                (tenant, record.generation, record.shred_time),
            )
            connection.executemany(
                "INSERT INTO wrapped_keys VALUES (?, ?, ?, ?, ?, ?)",
                [
                    (tenant, key.purpose.value, key.number, key.create_time, key.master_key_id, key.wrapped)
                    for key in record.keys
                ],
            )
            if record.shred_time is not None:
                connection.execute("DELETE FROM checkpoints WHERE tenant = ?", (tenant,))
            return True

        return self._transact(change)

    def tenants(self, *, after: str = "", limit: int = 100) -> list[str]:
        """See the port."""
        query = "SELECT tenant FROM records WHERE tenant > ? ORDER BY tenant LIMIT ?"
        with self._lock, _translated():
            return [tenant for (tenant,) in self._connection.execute(query, (after, limit)).fetchall()]

    def load_checkpoint(self, tenant: str, task: str) -> str | None:
        """See the port."""
        query = "SELECT state FROM checkpoints WHERE tenant = ? AND task = ?"
        with self._lock, _translated():
            row = self._connection.execute(query, (tenant, task)).fetchone()
        return None if row is None else str(row[0])

    def save_checkpoint(self, tenant: str, task: str, state: str | None) -> None:
        """See the port."""

        def change(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM checkpoints WHERE tenant = ? AND task = ?", (tenant, task))
            if state is not None:
                connection.execute("INSERT INTO checkpoints VALUES (?, ?, ?)", (tenant, task, state))

        self._transact(change)

    def close(self) -> None:
        """See the port."""
        with self._lock:
            self._connection.close()

    def _transact(self, change: Callable[[sqlite3.Connection], _T]) -> _T:
        with self._lock, _translated():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                result = change(self._connection)
                self._connection.execute("COMMIT")
            except BaseException:
                # A failed COMMIT may or may not have ended the transaction.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
            return result


@contextmanager
def _translated() -> Iterator[None]:
    """SQLite's errors in the language of the port, without its messages: they may name files."""
    try:
        yield
    except (sqlite3.OperationalError, sqlite3.ProgrammingError) as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
            raise DiskFull("the key store") from None
        raise Unavailable("the key store did not answer") from None
    except sqlite3.DatabaseError:
        raise DataLoss("the key store is damaged") from None
