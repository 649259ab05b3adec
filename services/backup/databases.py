"""Copies of SQLite files that others have open. Blocking."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from services.corpus.errors import DataLoss, Unavailable


def copy_database(source: Path, target: Path) -> None:
    """Copy a database as of one moment, into one file without a journal; Unavailable, DataLoss.

    SQLite's online backup, all pages in one step: writers of the source wait no longer than that takes.
    """
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        with closing(sqlite3.connect(source, timeout=10)) as origin, closing(sqlite3.connect(target)) as copy:
            origin.backup(copy)
            # The header says how the source keeps its journal; a file that stands alone has none.
            copy.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.OperationalError as error:
        raise Unavailable(f"{source.name} cannot be copied: {error}") from error
    except sqlite3.DatabaseError as error:
        raise DataLoss(f"{source.name} is damaged: {error}") from error
