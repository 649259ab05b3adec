"""A full disk is called one: by the catalog, the key store and the record of a command, and the service that takes documents in."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from cli import main as cli_main
from cli.errors import ExitCode
from services.catalog.sql import SqlCatalog
from services.corpus.errors import DiskFull
from services.journal.files import DirectoryFiles
from services.runtime.status import code_of
from services.security.key_stores import SqliteKeyStore
from tests.support.catalog_world import collection, put
from tests.support.catalog_world import document as made


async def test_a_catalog_without_space_says_so(tmp_path: Path) -> None:
    catalog = await SqlCatalog.open_sqlite(tmp_path / "catalog.sqlite3")
    try:
        await catalog.create_collection(collection())
        # SQLite's own limit is the same error as a disk without space.
        _no_more_pages(catalog)
        with pytest.raises(DiskFull) as refused:
            await put(catalog, made(title="long" * 100_000))
    finally:
        await catalog.close()
    assert refused.value.message == "the disk of the catalog is full: free some space there"
    assert code_of(refused.value).name == "UNAVAILABLE"


def test_a_key_store_without_space_says_so(tmp_path: Path) -> None:
    store = SqliteKeyStore.open(tmp_path / "keys" / "keys.sqlite3")
    try:
        store._connection.execute("PRAGMA max_page_count = 1")
        with pytest.raises(DiskFull, match="the disk of the key store is full"):
            store.save_checkpoint("acme", "rotation", "x" * 1_000_000)
        assert store.load_checkpoint("acme", "rotation") is None
    finally:
        store.close()


@pytest.mark.parametrize("call", ["create", "write"])
def test_a_command_that_cannot_be_put_on_record_says_why(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setenv("GROUNDWIRE_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(DirectoryFiles, call, refuse)
    assert cli_main.main(["revoke", "--subject", "alice"]) == ExitCode.FAILED
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == (
        "error: nothing was changed: it cannot be put on record: the disk is full; "
        "free some space, and run the command again\n"
    )


def _no_more_pages(catalog: SqlCatalog) -> None:
    def limit(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA max_page_count = 1")

    event.listen(catalog._engine, "checkout", lambda connection, record, _proxy: limit(connection, record))
