"""The chunk table: what a store knows about its chunks besides vectors and postings, in SQLite.

It is the store's own truth: searches drop hits that are not *ready* here. A chunk's row is reserved before the
engines are told of it and made ready after, so whatever an engine may hold is always listed here, and a crash at
any point leaves nothing that a later delete could miss.
"""

from __future__ import annotations

import json
import math
import queue
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.corpus.errors import DataLoss, FailedPrecondition, Unavailable
from services.vectorstores.ports import FetchedChunk, IndexedTerms, KeptPayload, Partition, PayloadChange, StoredChunk

FORMAT = "1"

# Payloads and terms stand apart, so that looking up many chunks reads small rows only. `tallies` keeps counts per
# reader set, which every narrowed search needs and which counting rows would make O(chunks).
_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE partitions (
    id INTEGER PRIMARY KEY AUTOINCREMENT, tenant TEXT NOT NULL, collection TEXT NOT NULL, dimension INTEGER NOT NULL,
    UNIQUE (tenant, collection)
);
CREATE TABLE chunks (
    id INTEGER PRIMARY KEY, partition INTEGER NOT NULL REFERENCES partitions (id), chunk_id TEXT NOT NULL,
    document_id TEXT NOT NULL, version INTEGER NOT NULL, ordinal INTEGER NOT NULL, reader_set INTEGER NOT NULL,
    ready INTEGER NOT NULL, UNIQUE (partition, chunk_id)
);
CREATE INDEX chunks_by_document ON chunks (partition, document_id);
CREATE INDEX chunks_by_reader_set ON chunks (partition, reader_set);
CREATE INDEX chunks_not_ready ON chunks (partition) WHERE ready = 0;
CREATE TABLE contents (id INTEGER PRIMARY KEY, payload BLOB NOT NULL, terms TEXT NOT NULL);
CREATE TABLE tallies (
    partition INTEGER NOT NULL, reader_set INTEGER NOT NULL, chunks INTEGER NOT NULL,
    PRIMARY KEY (partition, reader_set)
) WITHOUT ROWID;
CREATE TRIGGER chunk_added AFTER INSERT ON chunks WHEN new.ready BEGIN
    INSERT INTO tallies VALUES (new.partition, new.reader_set, 1) ON CONFLICT DO UPDATE SET chunks = chunks + 1;
END;
CREATE TRIGGER chunk_left AFTER UPDATE OF ready, reader_set ON chunks WHEN old.ready BEGIN
    UPDATE tallies SET chunks = chunks - 1 WHERE partition = old.partition AND reader_set = old.reader_set;
END;
CREATE TRIGGER chunk_joined AFTER UPDATE OF ready, reader_set ON chunks WHEN new.ready BEGIN
    INSERT INTO tallies VALUES (new.partition, new.reader_set, 1) ON CONFLICT DO UPDATE SET chunks = chunks + 1;
END;
CREATE TRIGGER chunk_removed AFTER DELETE ON chunks BEGIN
    DELETE FROM contents WHERE id = old.id;
    UPDATE tallies SET chunks = chunks - 1
    WHERE old.ready AND partition = old.partition AND reader_set = old.reader_set;
END;
"""

_BATCH = 500  # ids in one IN (…); statements of few different lengths stay in SQLite's cache


@dataclass(frozen=True, slots=True)
class ChunkRow:
    """What a search needs to know of a chunk."""

    document_id: str
    version: int
    reader_set: int


class ChunkTable:
    """The table, in one file. Safe for several threads; one write at a time. Every commit is on disk on return.

    Raises FailedPrecondition for a file of another format or another engine, DataLoss for a damaged one and
    Unavailable when the disk does not do as told.
    """

    def __init__(self, path: Path, *, vector_engine: str) -> None:
        self._path = path
        self._writing = threading.Lock()
        self._idle: queue.LifoQueue[sqlite3.Connection] = queue.LifoQueue()
        with _translated():
            self._writer = self._connect()
            try:
                self._writer.execute("PRAGMA synchronous = FULL")  # durable, not merely consistent, after power loss
                self._writer.execute("PRAGMA secure_delete = ON")  # erased means overwritten, not unlinked
                self._writer.create_function(
                    "sorted_terms", 1, lambda text: _terms_to_text(_terms_from_text(text)), deterministic=True
                )
                self._prepare(vector_engine)
            except BaseException:
                self._writer.close()
                raise

    # --- writes ---------------------------------------------------------------------------------------------------

    def reserve(self, partition: Partition, dimension: int, chunks: Sequence[StoredChunk]) -> None:
        """List chunks as about to be written; those that exist already stay as they are, and ready."""
        with self._transaction() as db:
            db.execute(
                "INSERT INTO partitions (tenant, collection, dimension) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                (partition.tenant, partition.collection, dimension),
            )
            key = _required_key(db, partition)
            db.executemany(
                "INSERT INTO chunks (partition, chunk_id, document_id, version, ordinal, reader_set, ready)"
                " VALUES (?, ?, ?, ?, ?, ?, 0) ON CONFLICT DO NOTHING",
                ((key, c.chunk_id, c.document_id, c.version, c.ordinal, c.reader_set) for c in chunks),
            )

    def put(self, partition: Partition, chunks: Sequence[StoredChunk]) -> None:
        """Write reserved chunks in full and make them ready."""
        with self._transaction() as db:
            key = _required_key(db, partition)
            for c in chunks:
                ((row_id,),) = db.execute(
                    "INSERT INTO chunks (partition, chunk_id, document_id, version, ordinal, reader_set, ready)"
                    " VALUES (?, ?, ?, ?, ?, ?, 1) ON CONFLICT (partition, chunk_id) DO UPDATE SET"
                    " document_id = excluded.document_id, version = excluded.version, ordinal = excluded.ordinal,"
                    " reader_set = excluded.reader_set, ready = 1 RETURNING id",
                    (key, c.chunk_id, c.document_id, c.version, c.ordinal, c.reader_set),
                ).fetchall()
                db.execute(
                    "INSERT INTO contents VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET"
                    " payload = excluded.payload, terms = excluded.terms",
                    (row_id, c.payload, _terms_to_text(c.terms)),
                )

    def hide(self, partition: Partition, ids: Sequence[str]) -> None:
        """Make chunks not ready, so that no search returns them any more."""
        self._for_each_id(partition, ids, "UPDATE chunks SET ready = 0 WHERE partition = ? AND chunk_id = ?")

    def remove(self, partition: Partition, ids: Sequence[str]) -> None:
        """Delete rows for good."""
        self._for_each_id(partition, ids, "DELETE FROM chunks WHERE partition = ? AND chunk_id = ?")

    def hide_partition(self, partition: Partition) -> None:
        """Make all of a partition's chunks not ready."""
        with self._transaction() as db:
            db.execute("UPDATE chunks SET ready = 0 WHERE partition = ?", (_key(db, partition),))

    def remove_partition(self, partition: Partition) -> None:
        """Delete a partition's rows, and its dimension with them."""
        with self._transaction() as db:
            key = _key(db, partition)
            for statement in (
                "DELETE FROM chunks WHERE partition = ?",
                "DELETE FROM tallies WHERE partition = ?",
                "DELETE FROM partitions WHERE id = ?",
            ):
                db.execute(statement, (key,))

    def set_readers(self, partition: Partition, document_id: str, reader_set: int) -> list[IndexedTerms]:
        """Move a document's chunks to a reader set; return what the lexical index must now hold for them."""
        with self._transaction() as db:
            key = _key(db, partition)
            db.execute(
                "UPDATE chunks SET reader_set = ? WHERE partition = ? AND document_id = ?",
                (reader_set, key, document_id),
            )
            rows = db.execute(
                "SELECT chunk_id, terms FROM chunks JOIN contents USING (id)"
                " WHERE partition = ? AND document_id = ? AND ready",
                (key, document_id),
            ).fetchall()
        return [IndexedTerms(chunk_id, reader_set, _terms_from_text(terms)) for chunk_id, terms in rows]

    def replace_payloads(self, tenant: str, changes: Sequence[PayloadChange]) -> int:
        """Make the changes whose chunk is ready and has what is expected; return how many.

        Their terms are sorted, too: releases before kept them in the order of the text.
        """
        statement = (
            "UPDATE contents SET payload = ?, terms = sorted_terms(terms) WHERE payload = ? AND id ="
            " (SELECT id FROM chunks WHERE partition = ? AND chunk_id = ? AND ready)"
        )
        with self._transaction() as db:
            keys = {name: _key(db, Partition(tenant, name)) for name in {change.collection for change in changes}}
            return sum(
                db.execute(
                    statement, (change.payload, change.expected, keys[change.collection], change.chunk_id)
                ).rowcount
                for change in changes
            )

    # --- reads ----------------------------------------------------------------------------------------------------

    def dimension(self, partition: Partition) -> int | None:
        """The dimension of a partition's vectors; None when it was never written (or was dropped)."""
        with self._reading() as db:
            row = db.execute(
                "SELECT dimension FROM partitions WHERE tenant = ? AND collection = ?",
                (partition.tenant, partition.collection),
            ).fetchone()
        return int(row[0]) if row else None

    def tallies(self, partition: Partition) -> dict[int, int]:
        """How many ready chunks each reader set has."""
        with self._reading() as db:
            rows = db.execute(
                "SELECT reader_set, chunks FROM tallies WHERE partition = ? AND chunks > 0", (_key(db, partition),)
            )
            return dict(rows.fetchall())

    def rows(self, partition: Partition, ids: Sequence[str]) -> dict[str, ChunkRow]:
        """Those of ``ids`` that are ready, by id."""
        select = "SELECT chunk_id, document_id, version, reader_set FROM chunks"
        with self._reading() as db:
            return {row[0]: ChunkRow(*row[1:]) for row in _select_ids(db, select, partition, ids)}

    def fetch(self, partition: Partition, ids: Sequence[str]) -> list[FetchedChunk]:
        """The ready chunks among ``ids``, in the order asked."""
        select = (
            "SELECT chunk_id, document_id, version, ordinal, reader_set, payload FROM chunks JOIN contents USING (id)"
        )
        with self._reading() as db:
            by_id = {row[0]: FetchedChunk(*row) for row in _select_ids(db, select, partition, ids)}
        return [by_id[chunk_id] for chunk_id in ids if chunk_id in by_id]

    def payloads(self, tenant: str, after: tuple[str, str], limit: int) -> list[KeptPayload]:
        """A tenant's ready chunks by (collection, chunk id), those after ``after``."""
        select = (
            "SELECT chunk_id, document_id, version, ordinal, reader_set, payload FROM chunks JOIN contents USING (id)"
            " WHERE partition = ? AND chunk_id > ? AND ready ORDER BY chunk_id LIMIT ?"
        )
        found: list[KeptPayload] = []
        with self._reading() as db:
            names = db.execute(
                "SELECT collection, id FROM partitions WHERE tenant = ? AND collection >= ? ORDER BY collection",
                (tenant, after[0]),
            ).fetchall()
            for collection, key in names:
                last = after[1] if collection == after[0] else ""
                rows = db.execute(select, (key, last, limit - len(found))).fetchall()
                found.extend(KeptPayload(collection, FetchedChunk(*row)) for row in rows)
                if len(found) >= limit:
                    break
        return found

    def whole(
        self, partition: Partition, document_id: str | None, after: str, limit: int
    ) -> list[tuple[FetchedChunk, tuple[str, ...]]]:
        """Ready chunks with their terms by chunk id, those after ``after``."""
        with self._reading() as db:
            rows = db.execute(
                "SELECT chunk_id, document_id, version, ordinal, reader_set, payload, terms"
                " FROM chunks JOIN contents USING (id)"
                " WHERE partition = ? AND chunk_id > ? AND (? IS NULL OR document_id = ?) AND ready"
                " ORDER BY chunk_id LIMIT ?",
                (_key(db, partition), after, document_id, document_id, limit),
            ).fetchall()
        return [(FetchedChunk(*row), _terms_from_text(terms)) for *row, terms in rows]

    def ids_of_reader_sets(self, partition: Partition, reader_sets: Iterable[int]) -> list[str]:
        """The ids of all ready chunks of these reader sets."""
        with self._reading() as db:
            key = _key(db, partition)
            select = "SELECT chunk_id FROM chunks WHERE partition = ? AND reader_set = ? AND ready"
            return [row[0] for reader_set in reader_sets for row in db.execute(select, (key, reader_set))]

    def ids_of_document(self, partition: Partition, document_id: str, before_version: int | None) -> list[str]:
        """The ids of a document's chunks, reserved ones too, or only those older than ``before_version``."""
        with self._reading() as db:
            rows = db.execute(
                "SELECT chunk_id FROM chunks WHERE partition = ? AND document_id = ? AND (? IS NULL OR version < ?)",
                (_key(db, partition), document_id, before_version, before_version),
            )
            return [row[0] for row in rows]

    def unfinished(self) -> Mapping[Partition, list[str]]:
        """The ids that an interrupted write or delete has left not ready."""
        with self._reading() as db:
            rows = db.execute(
                "SELECT tenant, collection, chunk_id FROM chunks JOIN partitions ON partitions.id = partition"
                " WHERE ready = 0"
            ).fetchall()
        found: dict[Partition, list[str]] = {}
        for tenant, collection, chunk_id in rows:
            found.setdefault(Partition(tenant, collection), []).append(chunk_id)
        return found

    def close(self) -> None:
        """Close every connection; the last one folds the write-ahead log into the file."""
        with self._writing:
            while not self._idle.empty():
                self._idle.get_nowait().close()
            self._writer.close()

    # --- connections ----------------------------------------------------------------------------------------------

    def _prepare(self, vector_engine: str) -> None:
        db = self._writer
        if not db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'meta'").fetchone():
            # executescript commits what is open before it starts: the BEGIN has to stand inside the script.
            db.executescript("BEGIN IMMEDIATE;" + _SCHEMA)
            db.executemany("INSERT INTO meta VALUES (?, ?)", [("format", FORMAT), ("vectors", vector_engine)])
            db.execute("COMMIT")
        meta = dict(db.execute("SELECT key, value FROM meta").fetchall())
        if meta.get("format") != FORMAT:
            raise FailedPrecondition(
                f"the data directory has format {meta.get('format')}, this release reads format {FORMAT}; "
                "use the release that wrote it, or start with an empty directory and ingest again"
            )
        if meta.get("vectors") != vector_engine:
            raise FailedPrecondition(
                f"the data directory belongs to the vector engine {meta.get('vectors')}, not {vector_engine}; "
                "configure that engine, or start with an empty directory and ingest again"
            )

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=30.0)
        try:
            db.execute("PRAGMA journal_mode = WAL")
        except BaseException:
            db.close()
            raise
        return db

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._writing, _translated():
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with _translated():
            try:
                db = self._idle.get_nowait()
            except queue.Empty:
                db = self._connect()
                db.execute("PRAGMA query_only = ON")
            try:
                yield db
            finally:
                self._idle.put(db)

    def _for_each_id(self, partition: Partition, ids: Sequence[str], statement: str) -> None:
        with self._transaction() as db:
            key = _key(db, partition)
            db.executemany(statement, ((key, chunk_id) for chunk_id in ids))


@dataclass(frozen=True, slots=True)
class TermOrder:
    """Of ``looked_at`` chunks' terms, how many are ``in_text_order``, as releases before kept them."""

    looked_at: int
    in_text_order: int


def find_term_order(path: Path, *, limit: int = 20_000) -> TermOrder:
    """Look whether the chunk table in ``path`` tells the order of words; another process may have it open.

    All chunks are looked at, or, when there are more than ``limit``, about as many, evenly spread over the table.
    Raises DataLoss and Unavailable when the file cannot be read.
    """
    with _translated(), closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
        (total,) = db.execute("SELECT count(*) FROM chunks WHERE ready").fetchone()
        step = max(1, math.ceil(total / limit))
        # Not by row number modulo the step: a delete may have left only some remainders.
        rows = db.execute(
            "SELECT terms FROM contents JOIN"
            " (SELECT id, row_number() OVER (ORDER BY id) AS place FROM chunks WHERE ready) USING (id)"
            " WHERE place % ? = 0",
            (step,),
        )
        looked_at = in_text_order = 0
        for (text,) in rows:
            terms = json.loads(text)
            looked_at += 1
            in_text_order += terms != sorted(terms)
    return TermOrder(looked_at, in_text_order)


def _terms_to_text(terms: Sequence[str]) -> str:
    return json.dumps(sorted(terms))


def _terms_from_text(text: str) -> tuple[str, ...]:
    """The terms of a row, sorted, also where a release before kept them in the order of the text."""
    return tuple(sorted(json.loads(text)))


def _select_ids(db: sqlite3.Connection, select: str, partition: Partition, ids: Sequence[str]) -> Iterator[Any]:
    """The rows that ``select`` finds for those of ``ids`` that are ready."""
    key = _key(db, partition)
    for start in range(0, len(ids), _BATCH):
        batch = ids[start : start + _BATCH]
        marks = ",".join("?" * len(batch))
        yield from db.execute(f"{select} WHERE partition = ? AND ready AND chunk_id IN ({marks})", (key, *batch))


def _key(db: sqlite3.Connection, partition: Partition) -> int | None:
    """The partition's number; None, which equals nothing in SQL, when it does not exist."""
    row = db.execute(
        "SELECT id FROM partitions WHERE tenant = ? AND collection = ?", (partition.tenant, partition.collection)
    ).fetchone()
    return int(row[0]) if row else None


def _required_key(db: sqlite3.Connection, partition: Partition) -> int:
    key = _key(db, partition)
    if key is None:
        raise FailedPrecondition("the collection was removed while chunks were being written to it")
    return key


@contextmanager
def _translated() -> Iterator[None]:
    """Turn SQLite's errors into the domain's; programming errors pass through."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise Unavailable("the chunk table could not be read or written") from error
    except (sqlite3.ProgrammingError, sqlite3.IntegrityError):
        raise
    except sqlite3.DatabaseError as error:
        raise DataLoss("the chunk table is damaged; restore a backup or ingest again") from error
