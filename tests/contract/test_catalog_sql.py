"""What only a catalog in a database has to keep: over restarts, between processes, and sealed."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from services.catalog.details import KeptDetails
from services.catalog.sql import SqlCatalog
from services.corpus.errors import (
    DataLoss,
    FailedPrecondition,
    KeysDestroyed,
    Unavailable,
)
from services.security.key_stores import MemoryKeyStore
from services.security.keyring import Keyring
from services.security.master_keys import SecretMasterKey
from services.security.sealed import Refusal, RefusedBecause, Sealer
from tests.support.catalog_world import ALICE, TO_ALL, TO_HR, collection, document, put


async def test_everything_outlives_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "catalog.sqlite3"
    first = await SqlCatalog.open_sqlite(path)
    await first.create_collection(collection(default_access=TO_HR))
    made = await put(first, document(access=TO_HR))
    await put(first, document("gone"))
    planned = await first.plan_version("t", "c", "gone", TO_ALL)
    erasure = await first.mark_deleted("t", "c", "gone", stores=["store"])
    sets = await first.reader_sets("t", ALICE)
    await first.close()

    second = await SqlCatalog.open_sqlite(path)
    assert await second.get_collection("t", "c") == collection(default_access=TO_HR)
    assert await second.list_readable("t", "c", ALICE) == [made]
    assert await second.reader_sets("t", ALICE) == sets
    assert not await second.activate_version(document("gone", version=planned.version))
    assert (await second.plan_version("t", "c", "d", TO_ALL)).version == 2
    assert await second.unfinished_erasures() == [erasure]
    await second.close()


async def test_a_catalog_from_before_there_were_receipts_gets_a_table_for_them(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite3"
    first = await SqlCatalog.open_sqlite(path)
    made = await put(first, document())
    await first.close()
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE erasures")
    connection.close()
    second = await SqlCatalog.open_sqlite(path)
    assert await second.get_document("t", "c", "d") == made
    assert await second.mark_deleted("t", "c", "d", stores=["store"])
    await second.close()


async def test_nothing_that_tells_of_the_contents_is_left_in_the_file_of_what_was_deleted(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite3"
    catalog = await SqlCatalog.open_sqlite(path)
    words = ("Quittenmus", "hefezopf", "5ac1ed")
    for name in ("gone", "kept"):
        title, uri, digest = (f"{word}-{name}" for word in words)
        await put(catalog, document(name, title=title, uri=f"https://example.org/{uri}", content_sha256=digest))
    assert await catalog.mark_deleted("t", "c", "gone", stores=["store"])
    await catalog.close()  # folds the write-ahead log into the file
    content = path.read_bytes()
    for word in words:
        assert f"{word}-kept".encode() in content
        assert f"{word}-gone".encode() not in content


async def test_two_processes_share_a_file(tmp_path: Path) -> None:
    catalogs = [await SqlCatalog.open_sqlite(tmp_path / "catalog.sqlite3") for _ in range(3)]
    plans = await asyncio.gather(*(each.plan_version("t", "c", "d", TO_ALL) for each in catalogs for _ in range(10)))
    assert sorted(plan.version for plan in plans) == list(range(1, 31))
    made = [await put(each, document(f"d{i}")) for i, each in enumerate(catalogs)]
    for each in catalogs:
        assert await each.list_readable("t", "c", ALICE) == made
        await each.close()


async def test_a_reader_sees_the_old_version_or_the_new_one(tmp_path: Path) -> None:
    catalog = await SqlCatalog.open_sqlite(tmp_path / "catalog.sqlite3")
    await put(catalog, document(title="v1", metadata={"v": 1.0}))
    done = asyncio.Event()

    async def write() -> None:
        for i in range(2, 30):
            await put(catalog, document(title=f"v{i}", metadata={"v": float(i)}))
        done.set()

    async def read() -> None:
        while not done.is_set():
            found = (await catalog.find_readable("t", "c", ["d"], ALICE))["d"]
            assert found.title == f"v{found.version}"
            assert found.metadata == {"v": float(found.version)}

    await asyncio.gather(write(), read(), read())
    await catalog.close()


async def test_a_catalog_of_another_format_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite3"
    await (await SqlCatalog.open_sqlite(path)).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE catalog_format SET format = 999")
    connection.close()
    with pytest.raises(FailedPrecondition, match="format 999"):
        await SqlCatalog.open_sqlite(path)


async def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite3"
    path.write_bytes(b"not a database at all" * 1000)
    with pytest.raises(Unavailable) as broken:
        await SqlCatalog.open_sqlite(path)
    assert str(tmp_path) not in broken.value.message
    assert path.read_bytes() == b"not a database at all" * 1000


async def test_the_catalog_is_private(tmp_path: Path) -> None:
    path = tmp_path / "made" / "catalog.sqlite3"
    catalog = await SqlCatalog.open_sqlite(path)
    assert path.parent.stat().st_mode & 0o077 == 0
    await catalog.close()


# --- what is kept sealed ----------------------------------------------------------------------------------------------


@pytest.fixture
async def sealed(tmp_path: Path) -> AsyncIterator[tuple[SqlCatalog, Keyring, list[Refusal]]]:
    keyring = Keyring(SecretMasterKey.generate(), MemoryKeyStore(), staleness=0.0)
    refusals: list[Refusal] = []
    opened = await SqlCatalog.open_sqlite(
        tmp_path / "catalog.sqlite3", cipher=Sealer(keyring, on_refused=refusals.append)
    )
    yield opened, keyring, refusals
    await opened.close()


Sealed = tuple[SqlCatalog, Keyring, list[Refusal]]


def swap(path: Path, one: tuple[str, str], other: tuple[str, str]) -> None:
    """Let two documents (tenant, id) have each other's details."""
    connection = sqlite3.connect(path)
    where = "WHERE tenant = ? AND document_id = ?"
    (first,), (second,) = (
        connection.execute(f"SELECT details FROM documents {where}", key).fetchone() for key in (one, other)
    )
    for details, key in ((second, one), (first, other)):
        connection.execute(f"UPDATE documents SET details = ? {where}", (details, *key))
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    ("other", "because"),
    [(("t", "b"), RefusedBecause.MOVED), (("u", "a"), RefusedBecause.DAMAGED)],
    ids=["in one tenant", "across tenants"],
)
async def test_swapped_details_are_refused_and_the_others_are_found(
    sealed: Sealed, tmp_path: Path, other: tuple[str, str], because: RefusedBecause
) -> None:
    catalog, _, refusals = sealed
    for tenant in ("t", "u"):
        for name in ("a", "b", "c"):
            await put(catalog, document(name, tenant=tenant))
    swap(tmp_path / "catalog.sqlite3", ("t", "a"), other)
    left = {"a", "b", "c"} - {name for tenant, name in (("t", "a"), other) if tenant == "t"}
    assert set(await catalog.find_readable("t", "c", ["a", "b", "c"], ALICE)) == left
    assert {found.document_id for found in await catalog.list_readable("t", "c", ALICE)} == left
    with pytest.raises(DataLoss):
        await catalog.get_document("t", "c", "a")
    assert {refusal.because for refusal in refusals} == {because}
    assert {(refusal.tenant, refusal.place.document_id) for refusal in refusals} >= {("t", "a")}
    # Taking it in again is the remedy.
    await put(catalog, document("a"))
    assert "a" in await catalog.find_readable("t", "c", ["a"], ALICE)


async def test_broken_details_do_not_end_a_listing(sealed: Sealed, tmp_path: Path) -> None:
    catalog, _, _ = sealed
    for i in range(210):
        await put(catalog, document(f"d{i:03}"))
    connection = sqlite3.connect(tmp_path / "catalog.sqlite3")
    connection.execute("UPDATE documents SET details = x'00' WHERE document_id < 'd205'")
    connection.commit()
    connection.close()
    listed = await catalog.list_readable("t", "c", ALICE, limit=3)
    assert [found.document_id for found in listed] == ["d205", "d206", "d207"]


async def test_nothing_is_found_of_a_tenant_whose_keys_were_destroyed(sealed: Sealed) -> None:
    catalog, keyring, refusals = sealed
    for tenant in ("t", "u"):
        await put(catalog, document("a", tenant=tenant))
    keyring.shred("t")
    assert await catalog.find_readable("t", "c", ["a"], ALICE) == {}
    assert await catalog.list_readable("t", "c", ALICE) == []
    with pytest.raises(KeysDestroyed) as destroyed:
        await catalog.get_document("t", "c", "a")
    assert destroyed.value.reason == "KEYS_DESTROYED"
    plan = await catalog.plan_version("t", "c", "a", TO_ALL)
    with pytest.raises(KeysDestroyed):
        await catalog.activate_version(document("a", plan.version))
    assert await catalog.find_readable("u", "c", ["a"], ALICE)
    assert refusals == []


async def test_details_are_walked_over_and_replaced_where_they_did_not_change(sealed: Sealed) -> None:
    catalog, _, _ = sealed
    for name in ("b", "a", "c", "é", "d"):
        await put(catalog, document(name))
        await put(catalog, replace(document(name), collection="other"))
    await put(catalog, document("x", tenant="u"))
    await put(catalog, document("gone"))
    await catalog.mark_deleted("t", "c", "gone")
    walked: list[KeptDetails] = []
    after = ("", "")
    while page := await catalog.list_details("t", after=after, limit=3):
        walked.extend(page)
        after = (page[-1].collection, page[-1].document_id)
    names = ["a", "b", "c", "d", "é"]
    assert [(kept.collection, kept.document_id) for kept in walked] == [(c, n) for c in ("c", "other") for n in names]
    await put(catalog, document("a"))
    assert await catalog.replace_details("t", [(kept, b"new") for kept in walked[:2]]) == 1
    kept = {found.document_id: found for found in await catalog.list_details("t", limit=5)}
    assert kept["b"].details == b"new"
    assert kept["a"].version == 2
    assert await catalog.tenant_size("t") == (10, 30)
