"""The contract of the Catalog port, which every adapter keeps."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.catalog.memory import MemoryCatalog
from services.catalog.ports import Catalog
from services.catalog.sql import SqlCatalog
from services.corpus.document import MediaType
from services.corpus.erasure import Erasure, ErasureStep
from services.corpus.errors import (
    AlreadyExists,
    GroundwireError,
    NotFound,
)
from services.corpus.filter import Equals, In, Not, Range
from services.corpus.principal import Access
from services.security.key_stores import MemoryKeyStore
from services.security.keyring import Keyring
from services.security.master_keys import SecretMasterKey
from services.security.sealed import Sealer
from tests.support.catalog_world import ALICE, BOB, NOW, TO_ALICE, TO_ALL, TO_HR, TO_NOBODY, collection, document, put


@pytest.fixture(params=["memory", "sqlite", "sqlite-sealed"])
async def catalog(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Catalog]:
    path = tmp_path / "catalog.sqlite3"
    opened: Catalog
    match request.param:
        case "sqlite":
            opened = await SqlCatalog.open_sqlite(path)
        case "sqlite-sealed":
            keyring = Keyring(SecretMasterKey.generate(), MemoryKeyStore())
            opened = await SqlCatalog.open_sqlite(path, cipher=Sealer(keyring))
        case _:
            opened = MemoryCatalog()
    yield opened
    await opened.close()


# --- collections ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("access", [None, TO_NOBODY, TO_HR])
@pytest.mark.parametrize("retention", [None, 30])
async def test_a_collection_is_kept_as_it_was_made(
    catalog: Catalog, access: Access | None, retention: int | None
) -> None:
    made = collection(default_access=access, retention_days=retention)
    assert await catalog.create_collection(made) == made
    assert await catalog.get_collection("t", "c") == made


async def test_a_name_is_taken_within_its_tenant(catalog: Catalog) -> None:
    await catalog.create_collection(collection())
    with pytest.raises(AlreadyExists) as taken:
        await catalog.create_collection(collection(embedding_model="another"))
    assert taken.value.metadata == {"collection": "c"}
    kept = await catalog.get_collection("t", "c")
    assert kept is not None
    assert kept.embedding_model == "model-a"
    await catalog.create_collection(collection(tenant="other"))
    await catalog.create_collection(collection("C"))


async def test_an_unknown_collection_is_none(catalog: Catalog) -> None:
    await catalog.create_collection(collection())
    assert await catalog.get_collection("t", "x") is None
    assert await catalog.get_collection("other", "c") is None
    assert await catalog.get_collection("t", "C") is None


async def test_collections_are_listed_by_name_in_pages(catalog: Catalog) -> None:
    for name in ("b", "a", "c", "B", "a.1", "10", "9"):
        await catalog.create_collection(collection(name))
    await catalog.create_collection(collection("foreign", tenant="other"))
    names = sorted(["b", "a", "c", "B", "a.1", "10", "9"])
    assert [found.name for found in await catalog.list_collections("t")] == names
    paged: list[str] = []
    while page := await catalog.list_collections("t", after=paged[-1] if paged else "", limit=3):
        assert len(page) <= 3
        paged += [found.name for found in page]
    assert paged == names


async def test_an_update_changes_what_may_change(catalog: Catalog) -> None:
    await catalog.create_collection(collection())
    await catalog.update_collection(
        collection(embedding_model="another", dimension=7, default_access=TO_HR, retention_days=5)
    )
    assert await catalog.get_collection("t", "c") == collection(default_access=TO_HR, retention_days=5)
    await catalog.update_collection(collection())
    assert await catalog.get_collection("t", "c") == collection()


async def test_what_is_not_there_is_neither_updated_nor_deleted(catalog: Catalog) -> None:
    await catalog.create_collection(collection(tenant="other"))
    for attempt in (catalog.update_collection(collection()), catalog.delete_collection("t", "c")):
        with pytest.raises(NotFound) as missing:
            await attempt
        assert (missing.value.reason, missing.value.metadata) == ("COLLECTION_NOT_FOUND", {"collection": "c"})
    assert await catalog.get_collection("other", "c") is not None


async def test_deleting_a_collection_counts_its_active_documents_and_forgets_them(catalog: Catalog) -> None:
    await catalog.create_collection(collection())
    for name in ("a", "b", "gone"):
        await put(catalog, document(name))
    await catalog.mark_deleted("t", "c", "gone")
    await put(catalog, document("foreign", tenant="other"))
    assert await catalog.delete_collection("t", "c") == 2
    assert await catalog.get_collection("t", "c") is None
    assert await catalog.get_document("t", "c", "a") is None
    assert await catalog.get_document("t", "c", "gone") is None
    assert await catalog.list_readable("t", "c", ALICE) == []
    assert await catalog.get_document("other", "c", "foreign") is not None
    await catalog.create_collection(collection())
    assert await catalog.count_readable("t", "c", ALICE) == 0


# --- versions -------------------------------------------------------------------------------------------------------


async def test_a_document_is_kept_as_it_was_given(catalog: Catalog) -> None:
    made = document(
        title="Größe \U0001f600 'quoted\" %_",
        metadata={"text": "x", "number": -1.5, "zero": 0.0, "yes": True, "no": False, "list": ("a", "b"), "none": ()},
        access=TO_HR,
        media_type=MediaType.PDF,
        update_time=NOW + timedelta(microseconds=1),
    )
    kept = await put(catalog, made)
    found = await catalog.get_document("t", "c", "d")
    assert found == kept
    assert found is not None
    assert {key: type(value) for key, value in found.metadata.items()} == {
        key: type(value) for key, value in made.metadata.items()
    }


async def test_versions_count_up_and_no_number_is_given_twice(catalog: Catalog) -> None:
    plans = [await catalog.plan_version("t", "c", "d", TO_ALL) for _ in range(3)]
    assert [plan.version for plan in plans] == [1, 2, 3]
    assert len({plan.reader_set for plan in plans}) == 1
    for place in (("t", "c", "other"), ("t", "other", "d"), ("other", "c", "d")):
        assert (await catalog.plan_version(*place, TO_ALL)).version == 1


async def test_no_number_is_given_twice_under_contention(catalog: Catalog) -> None:
    plans = await asyncio.gather(*(catalog.plan_version("t", "c", "d", TO_ALL) for _ in range(50)))
    assert sorted(plan.version for plan in plans) == list(range(1, 51))
    assert len({plan.reader_set for plan in plans}) == 1


async def test_a_planned_version_is_invisible(catalog: Catalog) -> None:
    await catalog.plan_version("t", "c", "d", TO_ALL)
    assert await catalog.get_document("t", "c", "d") is None
    assert await catalog.list_readable("t", "c", ALICE) == []
    first = await put(catalog, document())
    await catalog.plan_version("t", "c", "d", TO_NOBODY)
    assert await catalog.get_document("t", "c", "d") == first


async def test_a_new_version_replaces_the_old_one_but_not_its_birthday(catalog: Catalog) -> None:
    await put(catalog, document(access=TO_ALICE))
    later = NOW + timedelta(days=1)
    second = await put(
        catalog, document(access=TO_HR, title="new", metadata={}, create_time=later, update_time=later, chunk_count=9)
    )
    assert await catalog.get_document("t", "c", "d") == replace(second, create_time=NOW)
    assert await catalog.find_readable("t", "c", ["d"], frozenset({"user:alice"})) == {}


async def test_an_older_plan_never_replaces_a_newer_version(catalog: Catalog) -> None:
    older, newer = [(await catalog.plan_version("t", "c", "d", TO_ALL)).version for _ in range(2)]
    assert await catalog.activate_version(document(version=newer, access=TO_ALICE))
    assert not await catalog.activate_version(document(version=older))
    assert not await catalog.activate_version(document(version=newer, title="again"))
    assert await catalog.get_document("t", "c", "d") == document(version=newer, access=TO_ALICE)


async def test_a_plan_from_before_a_deletion_does_not_bring_a_document_back(catalog: Catalog) -> None:
    await put(catalog, document())
    planned = await catalog.plan_version("t", "c", "d", TO_ALL)
    assert await catalog.mark_deleted("t", "c", "d")
    assert not await catalog.activate_version(document(version=planned.version))
    assert await catalog.list_readable("t", "c", ALICE) == []
    after = await put(catalog, document())
    assert after.version > planned.version
    assert await catalog.list_readable("t", "c", ALICE) == [after]


async def test_a_plan_from_before_its_collection_was_deleted_is_void(catalog: Catalog) -> None:
    await catalog.create_collection(collection())
    await put(catalog, document())
    first = await catalog.plan_version("t", "c", "d", TO_ALL)
    never = await catalog.plan_version("t", "c", "never", TO_ALL)
    await catalog.delete_collection("t", "c")
    await catalog.create_collection(collection())
    assert not await catalog.activate_version(document(version=first.version))
    assert not await catalog.activate_version(document("never", version=never.version))
    assert await catalog.list_readable("t", "c", ALICE) == []
    assert (await put(catalog, document())).version == first.version + 1


# --- reading --------------------------------------------------------------------------------------------------------


async def test_only_what_principals_may_read_is_found(catalog: Catalog) -> None:
    for name, access in {"all": TO_ALL, "alice": TO_ALICE, "hr": TO_HR, "nobody": TO_NOBODY}.items():
        await put(catalog, document(name, access=access))
    names = ["all", "alice", "hr", "nobody", "unknown"]
    for principals, readable in [
        (ALICE, {"all", "alice", "hr"}),
        (BOB, {"all"}),
        (frozenset({"user:carol"}), {"hr"}),
        (frozenset(), set()),
    ]:
        found = await catalog.find_readable("t", "c", names, principals)
        assert set(found) == readable
        assert all(found[name].document_id == name for name in found)
        assert [made.document_id for made in await catalog.list_readable("t", "c", principals)] == sorted(readable)
        assert await catalog.count_readable("t", "c", principals) == len(readable)
    # Whoever asks for the entry itself checks access with it.
    entry = await catalog.get_document("t", "c", "nobody")
    assert entry is not None
    assert not entry.access.admits(ALICE)


async def test_what_resembles_a_principal_is_not_that_principal(catalog: Catalog) -> None:
    await put(catalog, document(access=TO_ALICE))
    for principal in ("user:Alice", "user:alic", "user:alice2", "group:alice", "user:%", "user:al_ce", "%"):
        assert await catalog.find_readable("t", "c", ["d"], frozenset({principal})) == {}


async def test_asking_for_nothing_finds_nothing(catalog: Catalog) -> None:
    await put(catalog, document())
    assert await catalog.find_readable("t", "c", [], ALICE) == {}
    assert await catalog.find_readable("t", "c", ["x", ""], ALICE) == {}


async def test_nothing_crosses_tenants_or_collections(catalog: Catalog) -> None:
    await put(catalog, document())
    await put(catalog, document(tenant="other", title="theirs"))
    for tenant, where in (("x", "c"), ("t", "x"), ("T", "c"), ("", "")):
        assert await catalog.find_readable(tenant, where, ["d"], ALICE) == {}
        assert await catalog.list_readable(tenant, where, ALICE) == []
        assert await catalog.count_readable(tenant, where, ALICE) == 0
        assert await catalog.get_document(tenant, where, "d") is None
        assert not await catalog.mark_deleted(tenant, where, "d")
        with pytest.raises(NotFound):
            await catalog.set_access(tenant, where, "d", TO_ALL)
    assert [made.title for made in await catalog.list_readable("other", "c", ALICE)] == ["theirs"]
    assert await catalog.mark_deleted("other", "c", "d")
    assert await catalog.count_readable("t", "c", ALICE) == 1


async def test_many_ids_at_once(catalog: Catalog) -> None:
    for i in range(20):
        await put(catalog, document(f"d{i:04}"))
    found = await catalog.find_readable("t", "c", [f"d{i:04}" for i in range(3000)], ALICE)
    assert sorted(found) == [f"d{i:04}" for i in range(20)]


async def test_pages_by_id_with_a_filter(catalog: Catalog) -> None:
    for i in range(230):
        await put(catalog, document(f"d{i:03}", metadata={"even": i % 2 == 0, "n": float(i)}, access=TO_ALL))
    await put(catalog, document("d000-hidden", metadata={"even": True}, access=TO_NOBODY))
    paged: list[str] = []
    while page := await catalog.list_readable(
        "t", "c", ALICE, filter_=Equals("even", value=True), after=paged[-1] if paged else "", limit=40
    ):
        assert len(page) <= 40
        paged += [made.document_id for made in page]
    assert paged == [f"d{i:03}" for i in range(0, 230, 2)]
    # A filter that little satisfies is searched to the end.
    last = await catalog.list_readable("t", "c", ALICE, filter_=Range("n", 229.0, None), limit=1)
    assert [made.document_id for made in last] == ["d229"]
    none = await catalog.list_readable("t", "c", ALICE, filter_=Not(In("even", (True, False))), limit=10)
    assert none == []


# --- reader sets ----------------------------------------------------------------------------------------------------


async def test_reader_sets_are_the_same_for_the_same_readers(catalog: Catalog) -> None:
    async def number(access: Access, tenant: str = "t") -> int:
        return (await catalog.plan_version(tenant, "c", "d", access)).reader_set

    hr = await number(TO_HR)
    assert hr == await number(Access(frozenset({"user:carol", "group:hr"})))
    numbers = [hr, await number(TO_ALICE), await number(TO_ALL), await number(TO_NOBODY)]
    assert len(set(numbers)) == 4
    assert all(0 <= n < 2**63 for n in numbers)
    assert await catalog.reader_sets("t", ALICE) == {numbers[0], numbers[1], numbers[2]}
    assert await catalog.reader_sets("t", BOB) == {numbers[2]}
    assert await catalog.reader_sets("t", frozenset()) == frozenset()
    assert await catalog.reader_sets("other", ALICE) == frozenset()


async def test_access_can_be_changed(catalog: Catalog) -> None:
    made = await put(catalog, document(access=TO_ALL))
    number = await catalog.set_access("t", "c", "d", TO_ALICE)
    assert number in await catalog.reader_sets("t", ALICE)
    assert number not in await catalog.reader_sets("t", BOB)
    assert (await catalog.plan_version("t", "c", "other", TO_ALICE)).reader_set == number
    assert await catalog.find_readable("t", "c", ["d"], BOB) == {}
    changed = (await catalog.find_readable("t", "c", ["d"], ALICE))["d"]
    assert replace(changed, update_time=NOW) == replace(made, access=TO_ALICE)


async def test_access_of_what_is_not_there_cannot_be_changed(catalog: Catalog) -> None:
    await put(catalog, document())
    await catalog.mark_deleted("t", "c", "d")
    for name in ("d", "unknown"):
        with pytest.raises(NotFound) as missing:
            await catalog.set_access("t", "c", name, TO_ALL)
        assert missing.value.metadata == {"document_id": name}


async def test_access_is_changed_for_its_owner_alone_where_one_is_named(catalog: Catalog) -> None:
    made = await put(catalog, document(access=TO_ALL))
    with pytest.raises(NotFound):
        await catalog.set_access("t", "c", "d", TO_ALICE, owner="user:mallory")
    assert await catalog.find_readable("t", "c", ["d"], BOB)
    await catalog.set_access("t", "c", "d", TO_ALICE, owner=made.owner)
    assert await catalog.find_readable("t", "c", ["d"], BOB) == {}


async def test_the_owner_of_an_active_document_is_told_alone(catalog: Catalog) -> None:
    made = await put(catalog, document(access=TO_ALICE))
    assert await catalog.find_owner("t", "c", "d") == made.owner
    for place in (("t", "c", "unknown"), ("other", "c", "d"), ("t", "other", "d")):
        assert await catalog.find_owner(*place) is None
    await catalog.mark_deleted("t", "c", "d")
    assert await catalog.find_owner("t", "c", "d") is None


# --- deleting -------------------------------------------------------------------------------------------------------


async def test_a_deleted_document_is_blocked_at_once(catalog: Catalog) -> None:
    await put(catalog, document())
    assert await catalog.mark_deleted("t", "c", "d")
    assert await catalog.find_readable("t", "c", ["d"], ALICE) == {}
    assert await catalog.list_readable("t", "c", ALICE) == []
    assert await catalog.count_readable("t", "c", ALICE) == 0
    assert await catalog.get_document("t", "c", "d") is None
    assert await catalog.mark_deleted("t", "c", "d") is None
    assert await catalog.mark_deleted("t", "c", "unknown") is None


async def test_a_document_is_deleted_for_its_owner_alone_where_one_is_named(catalog: Catalog) -> None:
    made = await put(catalog, document())
    assert await catalog.mark_deleted("t", "c", "d", owner="user:mallory", stores=["store"]) is None
    assert await catalog.find_readable("t", "c", ["d"], BOB)
    assert await catalog.unfinished_erasures() == []
    assert await catalog.mark_deleted("t", "c", "d", owner=made.owner, stores=["store"])
    assert await catalog.find_readable("t", "c", ["d"], BOB) == {}


async def test_a_deletion_begins_an_erasure(catalog: Catalog) -> None:
    made = await put(catalog, document(chunk_count=7))
    erasure = await catalog.mark_deleted("t", "c", "d", stores=["store", "archive"])
    assert erasure is not None
    assert re.fullmatch("[0-9a-f]{32}", erasure.receipt_id)
    now = erasure.block_time
    assert datetime.now(UTC) - timedelta(minutes=5) < now <= datetime.now(UTC)
    assert erasure == Erasure(
        receipt_id=erasure.receipt_id,
        tenant="t",
        collection="c",
        document_id="d",
        owner=made.owner,
        before_version=made.version + 1,
        unsettled=False,
        block_time=now,
        steps=(
            ErasureStep("catalog", 1, 0, now),
            ErasureStep("store", 0, 7),
            ErasureStep("archive", 0, 7),
        ),
    )
    assert await catalog.find_erasure("t", erasure.receipt_id) == erasure
    assert await catalog.unfinished_erasures() == [erasure]


async def test_without_a_store_there_is_nothing_left_to_erase(catalog: Catalog) -> None:
    await put(catalog, document())
    erasure = await catalog.mark_deleted("t", "c", "d")
    assert erasure is not None
    assert erasure.complete_time == erasure.block_time
    assert await catalog.find_erasure("t", erasure.receipt_id) == erasure
    assert await catalog.unfinished_erasures() == []


async def test_an_erasure_covers_every_version_that_was_planned_before_it(catalog: Catalog) -> None:
    await put(catalog, document())
    planned = await catalog.plan_version("t", "c", "d", TO_ALL)
    first = await catalog.mark_deleted("t", "c", "d", stores=["store"])
    assert first is not None
    assert (first.before_version, first.unsettled) == (planned.version + 1, True)
    again = await put(catalog, document(create_time=NOW + timedelta(days=1)))
    assert again.version == first.before_version
    # It is another document, with a birthday of its own.
    assert await catalog.get_document("t", "c", "d") == again
    second = await catalog.mark_deleted("t", "c", "d", stores=["store"])
    assert second is not None
    assert (second.before_version, second.unsettled) == (again.version + 1, False)
    assert second.receipt_id != first.receipt_id


async def test_the_last_erasure_of_a_name_is_found_by_whose_it_was(catalog: Catalog) -> None:
    made = []
    for owner in ("user:alice", "user:bob", "user:alice", "user:carol"):
        await put(catalog, document(owner=owner))
        made.append(await catalog.mark_deleted("t", "c", "d", stores=["store"]))
    assert await catalog.last_erasure("t", "c", "d") == made[3]
    assert await catalog.last_erasure("t", "c", "d", owner="user:alice") == made[2]
    assert await catalog.last_erasure("t", "c", "d", owner="user:bob") == made[1]
    assert await catalog.last_erasure("t", "c", "d", owner="user:mallory") is None
    for place in (("t", "c", "e"), ("t", "other", "d"), ("other", "c", "d")):
        assert await catalog.last_erasure(*place) is None


async def test_a_receipt_is_found_by_its_id_and_within_its_tenant_alone(catalog: Catalog) -> None:
    await put(catalog, document())
    erasure = await catalog.mark_deleted("t", "c", "d", stores=["store"])
    assert erasure is not None
    assert await catalog.find_erasure("t", erasure.receipt_id) == erasure
    assert await catalog.find_erasure("other", erasure.receipt_id) is None
    assert await catalog.find_erasure("t", "0" * 32) is None


async def test_an_erasure_is_recorded_as_it_goes_on_and_only_over_what_it_was(catalog: Catalog) -> None:
    await put(catalog, document(chunk_count=2))
    begun = await catalog.mark_deleted("t", "c", "d", stores=["store"])
    assert begun is not None
    found = begun.counted("store", 5, NOW)
    assert await catalog.record_erasure(begun, found)
    assert await catalog.find_erasure("t", begun.receipt_id) == found
    done = found.counted("store", 0, NOW)
    assert not await catalog.record_erasure(begun, done)
    assert await catalog.find_erasure("t", begun.receipt_id) == found
    assert await catalog.unfinished_erasures() == [found]
    assert await catalog.record_erasure(found, done)
    assert await catalog.last_erasure("t", "c", "d") == done
    assert done.steps[1] == ErasureStep("store", 5, 0, NOW)
    assert done.complete_time == NOW
    assert await catalog.unfinished_erasures() == []


async def test_unfinished_erasures_of_all_tenants_come_in_pages(catalog: Catalog) -> None:
    made = []
    for i in range(7):
        await put(catalog, document(f"d{i}", tenant=f"t{i % 2}"))
        begun = await catalog.mark_deleted(f"t{i % 2}", "c", f"d{i}", stores=["store"])
        assert begun is not None
        made.append(begun)
    assert await catalog.record_erasure(made[3], made[3].counted("store", 0, NOW))
    del made[3]
    paged: list[Erasure] = []
    while page := await catalog.unfinished_erasures(after=paged[-1].receipt_id if paged else "", limit=4):
        assert len(page) <= 4
        paged += page
    assert paged == sorted(made, key=lambda erasure: erasure.receipt_id)


async def test_receipts_outlive_their_collection(catalog: Catalog) -> None:
    await catalog.create_collection(collection())
    await put(catalog, document())
    erasure = await catalog.mark_deleted("t", "c", "d", stores=["store"])
    assert erasure is not None
    await catalog.delete_collection("t", "c")
    assert await catalog.find_erasure("t", erasure.receipt_id) == erasure
    assert await catalog.unfinished_erasures() == [erasure]


async def test_the_catalog_can_be_checked(catalog: Catalog) -> None:
    await catalog.check()


# --- two adapters, one behaviour ------------------------------------------------------------------------------------

_names = st.sampled_from(["a", "b"])
_access = st.sampled_from([TO_ALL, TO_ALICE, TO_HR, TO_NOBODY])
_steps = st.lists(
    st.one_of(
        st.tuples(st.just("create"), _names),
        st.tuples(st.just("drop"), _names),
        st.tuples(st.just("plan"), _names, _names, _access),
        st.tuples(st.just("activate"), _names, _names, _access, st.integers(1, 4)),
        st.tuples(st.just("access"), _names, _names, _access),
        st.tuples(st.just("delete"), _names, _names, st.sampled_from([None, "user:alice", "user:bob"])),
        st.tuples(st.just("erase"), st.integers(0, 3)),
    ),
    max_size=25,
)


async def _do(catalog: Catalog, step: tuple[Any, ...]) -> Any:
    """One step's result, with reader sets by what they admit: their numbers are each adapter's own."""
    match step:
        case ("create", name):
            return await catalog.create_collection(collection(name))
        case ("drop", name):
            return await catalog.delete_collection("t", name)
        case ("plan", where, name, access):
            return (await catalog.plan_version("t", where, name, access)).version
        case ("activate", where, name, access, version):
            # Versions come from plans: one that was never planned is not activated.
            planned = (await catalog.plan_version("t", where, name, access)).version
            made = document(name, min(version, planned), access=access, collection=where)
            return await catalog.activate_version(made)
        case ("access", where, name, access):
            return await catalog.set_access("t", where, name, access) in await catalog.reader_sets("t", ALICE)
        case ("erase", count):
            begun = await catalog.last_erasure("t", "a", "a")
            return begun and await catalog.record_erasure(begun, begun.counted("store", count, NOW))
        case _:
            begun = await catalog.mark_deleted("t", *step[1:3], owner=step[3], stores=["store"])
            return begun and _told(begun)


def _told(erasure: Erasure | None) -> Erasure | None:
    """Without what is each adapter's own: its id and its times."""
    if erasure is None:
        return None
    steps = tuple(replace(step, complete_time=step.complete_time and NOW) for step in erasure.steps)
    return replace(erasure, receipt_id="", block_time=NOW, steps=steps)


async def _result(catalog: Catalog, step: tuple[Any, ...]) -> Any:
    try:
        return await _do(catalog, step)
    except GroundwireError as error:
        return type(error), error.reason, error.metadata


async def _view(catalog: Catalog) -> Any:
    view: list[Any] = [await catalog.list_collections("t")]
    for where in ("a", "b"):
        for principals in (ALICE, BOB):
            readable = await catalog.list_readable("t", where, principals)
            view.append([replace(made, update_time=NOW) for made in readable])
            view.append(await catalog.count_readable("t", where, principals))
        for name in ("a", "b"):
            entry = await catalog.get_document("t", where, name)
            view.append(entry and replace(entry, update_time=NOW))
            view.append(_told(await catalog.last_erasure("t", where, name)))
    view.append(len(await catalog.unfinished_erasures()))
    return view


@settings(deadline=None, max_examples=25)
@given(_steps)
def test_adapters_agree_whatever_happens(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[Any, ...]]
) -> None:
    async def compare() -> None:
        memory = MemoryCatalog()
        sql = await SqlCatalog.open_sqlite(tmp_path_factory.mktemp("catalog") / "catalog.sqlite3")
        try:
            for step in steps:
                assert await _result(sql, step) == await _result(memory, step), step
            assert await _view(sql) == await _view(memory)
        finally:
            await sql.close()

    asyncio.run(compare())
