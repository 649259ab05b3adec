"""The library: documents and collections as one caller may see and change them."""

from __future__ import annotations

import asyncio

import pytest

from services.corpus.errors import AlreadyExists, NotFound, PermissionDenied, Unavailable
from services.corpus.filter import Equals
from services.corpus.principal import Access, Caller
from services.ingestion.batch import Draft
from services.ingestion.library import CollectionChanges
from tests.support.ingestion import ADMIN, ALICE, BOB, TENANT, World

HR = Access(frozenset({"group:hr"}))
OWN = Access(frozenset({"user:alice"}))
BOTH = Access(frozenset({"user:alice", "user:bob"}))
STRANGER = Caller("initech", "alice", permissions=frozenset({"admin:*"}))


@pytest.fixture
async def world() -> World:
    world = World()
    await world.ingest(
        Draft(b"For Alice.", document_id="own", metadata={"lang": "en"}),
        Draft(b"For HR.", document_id="hr", access=HR, metadata={"lang": "en"}),
        Draft(b"For both.", document_id="shared", access=BOTH, metadata={"lang": "de"}),
    )
    return world


async def listed(world: World, caller: Caller, **options: object) -> list[str]:
    arguments = {"filter_": None, "after": "", "limit": 50, **options}
    found = await world.library.list_documents(caller, "default", **arguments)  # type: ignore[arg-type] # as given
    return [document.document_id for document in found]


async def test_everybody_sees_what_they_may_read(world: World) -> None:
    assert await listed(world, ALICE) == ["own", "shared"]
    assert await listed(world, BOB) == ["hr", "shared"]
    assert await listed(world, STRANGER) == []
    assert (await world.library.collection(ALICE, "default")).document_count == 2


async def test_listing_pages_and_filters(world: World) -> None:
    assert await listed(world, ALICE, limit=1) == ["own"]
    assert await listed(world, ALICE, limit=1, after="own") == ["shared"]
    assert await listed(world, ALICE, after="shared") == []
    assert await listed(world, ALICE, filter_=Equals("lang", "en")) == ["own"]
    # A filter never widens what may be read.
    assert await listed(world, BOB, filter_=Equals("lang", "en")) == ["hr"]


async def test_what_may_not_be_read_looks_like_what_does_not_exist(world: World) -> None:
    await world.ingest(Draft(b"Gone.", document_id="gone"))
    await world.catalog.mark_deleted(TENANT, "default", "gone")
    seen = set()
    for caller, collection, document_id in (
        (ALICE, "default", "hr"),
        (ALICE, "default", "gone"),
        (ALICE, "default", "nowhere"),
        (ALICE, "nowhere", "own"),
        (STRANGER, "default", "own"),
    ):
        for call in (
            world.library.document(caller, collection, document_id),
            world.library.update_access(caller, collection, document_id, BOTH),
        ):
            with pytest.raises(NotFound) as caught:
                await call
            seen.add((caught.value.message, caught.value.reason))
            assert caught.value.metadata == {"document_id": document_id}
    assert seen == {("no such document", "NOT_FOUND")}
    hr = await world.document("hr")
    assert hr is not None
    assert hr.access == HR


async def test_access_changes_take_effect_in_the_catalog_and_in_the_store(world: World) -> None:
    changed = await world.library.update_access(ALICE, "default", "own", HR)
    assert changed.owner == "user:alice"
    assert changed.access == HR
    assert await listed(world, BOB) == ["hr", "own", "shared"]
    assert await listed(world, ALICE) == ["shared"]
    document = await world.document("own")
    assert document is not None
    numbers = {chunk.reader_set for chunk in await world.chunks(document)}
    assert numbers <= await world.catalog.reader_sets(TENANT, BOB.principals)


async def test_readers_are_changed_by_the_owner_and_administrators_who_can_read_the_document(world: World) -> None:
    with pytest.raises(PermissionDenied) as caught:
        await world.library.update_access(BOB, "default", "shared", OWN)
    assert caught.value.metadata == {}
    # Not even an administrator, nor the owner, gives what they have not got.
    for caller in (ADMIN, ALICE):
        with pytest.raises(NotFound):
            await world.library.update_access(caller, "default", "hr", BOTH)
    hr_admin = Caller(TENANT, "carol", groups=frozenset({"hr"}), permissions=frozenset({"admin:*"}))
    assert (await world.library.update_access(hr_admin, "default", "hr", BOTH)).access == BOTH
    assert await listed(world, ALICE) == ["hr", "own", "shared"]


async def test_whether_a_document_exists_is_decided_by_one_query(world: World) -> None:
    """An answer that took a second step for documents of others would tell by its time that they are there."""
    world.faults.log.clear()
    for document_id in ("hr", "nowhere"):
        with pytest.raises(NotFound):
            await world.library.document(ALICE, "default", document_id)
    assert "get_document" not in world.faults.log


async def test_access_is_withdrawn_even_while_the_store_is_away(world: World) -> None:
    world.faults.fail("assign_readers", Unavailable("away"))
    with pytest.raises(Unavailable):
        await world.library.update_access(ALICE, "default", "shared", OWN)
    assert await listed(world, BOB) == ["hr"]
    # Repeating the call completes it.
    assert (await world.library.update_access(ALICE, "default", "shared", OWN)).access == OWN
    assert world.faults.log.count("assign_readers") == 2


# --- collections -----------------------------------------------------------------------------------------------------


async def test_the_default_collection_always_exists_and_others_do_not() -> None:
    world = World()
    assert [c.name for c in await world.library.list_collections(ALICE, after="", limit=10)] == ["default"]
    found = await world.library.collection(STRANGER, "default")
    assert (found.tenant, found.embedding_model, found.dimension) == ("initech", "hashing-16", 16)
    with pytest.raises(NotFound) as caught:
        await world.library.collection(ALICE, "legal")
    assert (caught.value.reason, caught.value.metadata) == ("COLLECTION_NOT_FOUND", {"collection": "legal"})
    with pytest.raises(NotFound):
        await world.library.list_documents(ALICE, "legal", filter_=None, after="", limit=1)


async def test_many_first_callers_make_one_default_collection() -> None:
    world = World()
    found = await asyncio.gather(*(world.library.collection(ALICE, "default") for _ in range(10)))
    assert len({id(collection.create_time) for collection in found}) == 1
    assert len(await world.catalog.list_collections(TENANT)) == 1


async def test_a_lost_race_for_the_default_collection_is_no_error() -> None:
    class Faster(World):
        """The collection appears between the look and the making of it."""

        def __post_init__(self) -> None:
            super().__post_init__()
            real = self.catalog.create_collection

            async def create(collection: object) -> object:
                await real(collection)  # type: ignore[arg-type] # passed on
                return await real(collection)  # type: ignore[arg-type] # the second one loses

            self.catalog.create_collection = create  # type: ignore[method-assign,assignment] # replaced for the test

    assert (await Faster().library.collection(ALICE, "default")).name == "default"


async def test_collections_are_made_changed_and_listed() -> None:
    world = World()
    made = await world.library.create_collection(ALICE, "legal", HR, 30)
    assert (made.name, made.default_access, made.retention_days) == ("legal", HR, 30)
    with pytest.raises(AlreadyExists):
        await world.library.create_collection(BOB, "legal", None, None)
    assert (await world.library.create_collection(ALICE, "brief", None, 0)).retention_days is None

    kept = await world.library.update_collection(ALICE, "legal", CollectionChanges())
    assert (kept.default_access, kept.retention_days) == (HR, 30)
    await world.library.update_collection(ALICE, "legal", CollectionChanges(default_access=BOTH))
    await world.library.update_collection(ALICE, "legal", CollectionChanges(retention_days=0))
    legal = await world.library.collection(ALICE, "legal")
    assert (legal.default_access, legal.retention_days) == (BOTH, None)
    with pytest.raises(NotFound):
        await world.library.update_collection(ALICE, "nowhere", CollectionChanges())

    names = [c.name for c in await world.library.list_collections(ALICE, after="", limit=2)]
    assert names == ["brief", "default"]
    assert [c.name for c in await world.library.list_collections(ALICE, after="default", limit=2)] == ["legal"]


async def test_counts_are_those_of_the_caller() -> None:
    world = World()
    await world.library.create_collection(ALICE, "legal", HR, None)
    await world.ingest(Draft(b"For HR.", document_id="hr"), collection="legal")
    counts = {c.name: c.document_count for c in await world.library.list_collections(ALICE, after="", limit=9)}
    assert counts == {"default": 0, "legal": 0}
    counts = {c.name: c.document_count for c in await world.library.list_collections(BOB, after="", limit=9)}
    assert counts == {"default": 0, "legal": 1}
