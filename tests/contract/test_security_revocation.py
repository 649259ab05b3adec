"""What every store of revocations must do."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from services.corpus.errors import Unavailable
from services.security.revocation import MemoryRevocationStore, RevocationStore, SubjectRevoked, TokenRevoked
from services.security.revocation_sqlite import SqliteRevocationStore
from tests.support.token_forge import HS, NOW

ONE = TokenRevoked.at(NOW, HS, "one")
TWO = SubjectRevoked.at(NOW, "acme", "alice")
THREE = TokenRevoked.at(NOW, HS, "\u0442\u0440\u0438 'three'")


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RevocationStore]:
    make: dict[str, Callable[[], RevocationStore]] = {
        "memory": MemoryRevocationStore,
        "sqlite": lambda: SqliteRevocationStore(tmp_path / "revocations.sqlite3"),
    }
    store = make[request.param]()
    yield store
    await store.close()


async def test_an_empty_store_has_nothing(store: RevocationStore) -> None:
    batch = await store.read(None)
    assert list(batch.revocations) == []
    assert list((await store.read(batch.cursor)).revocations) == []


async def test_what_is_added_is_read_once_by_each_reader(store: RevocationStore) -> None:
    await store.add(ONE, NOW)
    await store.add(TWO, NOW)
    first = await store.read(None)
    assert list(first.revocations) == [ONE, TWO]
    nothing = await store.read(first.cursor)
    assert list(nothing.revocations) == []
    await store.add(THREE, NOW)
    assert list((await store.read(nothing.cursor)).revocations) == [THREE]
    assert list((await store.read(None)).revocations) == [ONE, TWO, THREE]


async def test_many_at_once(store: RevocationStore) -> None:
    added = [TokenRevoked.at(NOW, HS, f"token-{n}") for n in range(20)]
    await asyncio.gather(*(store.add(revocation, NOW) for revocation in added))
    assert {*(await store.read(None)).revocations} == {*added}


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    return tmp_path / "private" / "revocations.sqlite3"


async def test_the_file_is_for_its_owner_and_shared_by_all_who_open_it(path: Path) -> None:
    writer, reader = SqliteRevocationStore(path), SqliteRevocationStore(path)
    seen = await reader.read(None)
    await writer.add(ONE, NOW)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list((await reader.read(seen.cursor)).revocations) == [ONE]
    await reader.close()
    # Closing is not for ever.
    assert list((await reader.read(None)).revocations) == [ONE]
    await reader.close()


async def test_what_is_over_is_dropped_when_something_is_added(path: Path) -> None:
    store = SqliteRevocationStore(path)
    await store.add(ONE, NOW)
    await store.add(TWO, ONE.until + 1)
    assert list((await store.read(None)).revocations) == [TWO]
    await store.close()


async def test_a_restored_file_is_read_from_its_beginning(path: Path) -> None:
    store = SqliteRevocationStore(path)
    await store.add(ONE, NOW)
    backup = path.with_name("backup")
    shutil.copy(path, backup)
    await store.add(TWO, NOW)
    seen = await store.read(None)
    backup.replace(path)
    other = SqliteRevocationStore(path)
    await other.add(THREE, NOW)  # gets the number that TWO had
    assert THREE in (await store.read(seen.cursor)).revocations
    await store.close()


async def test_a_file_that_vanished_is_not_made_again_by_reading(path: Path) -> None:
    store = SqliteRevocationStore(path)
    await store.add(ONE, NOW)
    seen = await store.read(None)
    path.unlink()
    for _ in range(2):
        with pytest.raises(Unavailable) as caught:
            await store.read(seen.cursor)
        assert str(path) not in str(caught.value)
    assert not path.exists()
    await store.close()


async def test_a_damaged_file_is_reported_and_read_again_once_it_is_whole(path: Path) -> None:
    store = SqliteRevocationStore(path)
    await store.add(ONE, NOW)
    await store.close()
    whole = path.read_bytes()
    path.write_bytes(b"not a database, and long enough to be looked at as one" * 100)
    with pytest.raises(Unavailable):
        await store.read(None)
    with pytest.raises(Unavailable):
        await store.add(TWO, NOW)
    path.write_bytes(whole)
    assert list((await store.read(None)).revocations) == [ONE]
    await store.close()


async def test_a_file_that_somebody_locks_for_long_is_unavailable(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.security.revocation_sqlite._BUSY", 0.01)
    store = SqliteRevocationStore(path)
    await store.add(ONE, NOW)
    locker = sqlite3.connect(path, isolation_level=None)
    locker.execute("BEGIN EXCLUSIVE")
    with pytest.raises(Unavailable):
        await store.read(None)
    with pytest.raises(Unavailable):
        await store.add(TWO, NOW)
    locker.execute("ROLLBACK")
    locker.close()
    assert list((await store.read(None)).revocations) == [ONE]
    await store.close()


async def test_a_directory_in_the_files_place_is_unavailable(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(Unavailable):
        await SqliteRevocationStore(path).read(None)
