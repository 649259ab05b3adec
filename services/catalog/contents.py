"""What a catalog's file holds, in the clear part of it: for backups. Blocking.

Whoever reads a catalog that is in use, or copies it, holds its WriteLock: nothing is committed meanwhile.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from services.catalog.schema import FORMAT
from services.corpus.document import DocumentState
from services.corpus.errors import DataLoss, FailedPrecondition, Unavailable


@dataclass(frozen=True, slots=True)
class KeptCollection:
    """A collection's row."""

    tenant: str
    name: str
    embedding_model: str
    dimension: int


@dataclass(frozen=True, slots=True)
class KeptDocument:
    """An active document: its current version, the reader set of that, and how many chunks it has."""

    tenant: str
    collection: str
    document_id: str
    version: int
    reader_set: int
    chunks: int


@dataclass(frozen=True, slots=True)
class Contents:
    """Everything that a catalog lets be read."""

    collections: tuple[KeptCollection, ...]
    documents: tuple[KeptDocument, ...]


def read_contents(path: Path) -> Contents:
    """Read the catalog in ``path``; FailedPrecondition for another format, DataLoss, Unavailable."""
    with _translated(), closing(sqlite3.connect(path, timeout=10)) as database:
        (stated,) = database.execute("SELECT format FROM catalog_format").fetchone() or (None,)
        if stated != FORMAT:
            raise FailedPrecondition(f"the catalog has format {stated}, this release reads format {FORMAT}")
        database.execute("BEGIN")
        collections = database.execute(
            "SELECT tenant, name, embedding_model, dimension FROM collections ORDER BY tenant, name"
        ).fetchall()
        documents = database.execute(
            "SELECT tenant, collection, document_id, version, reader_set, chunk_count FROM documents WHERE state = ?",
            (DocumentState.ACTIVE.value,),
        ).fetchall()
    return Contents(tuple(KeptCollection(*row) for row in collections), tuple(KeptDocument(*row) for row in documents))


def check_integrity(path: Path) -> None:
    """DataLoss unless SQLite finds the file whole."""
    with _translated(), closing(sqlite3.connect(path)) as database:
        found = database.execute("PRAGMA quick_check(1)").fetchone()
    if found != ("ok",):
        raise DataLoss(f"{path.name} is damaged: {found[0]}")


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise Unavailable(f"the catalog cannot be read: {error}") from error
    except sqlite3.DatabaseError as error:
        raise DataLoss(f"the catalog is damaged: {error}") from error
