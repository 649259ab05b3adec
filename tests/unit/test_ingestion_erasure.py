"""Deleting: out of reach at once for everybody, then gone from the stores, whatever fails in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from services.corpus.document import Document
from services.corpus.erasure import Erasure
from services.corpus.errors import DataLoss, NotFound, PermissionDenied, Unavailable
from services.corpus.principal import Access, Caller
from services.ingestion.batch import Draft
from services.ingestion.eraser import Eraser
from services.vectorstores.ports import Partition
from tests.support.ingestion import ADMIN, ALICE, BOB, IMPATIENT, TENANT, World
from tests.support.serving import until

LONG = b"The first paragraph stands here.\n\nThe second one stands below.\n\nAnd a third one."
BOTH = Access(frozenset({"user:alice", "user:bob"}))
READING_ADMIN = Caller(TENANT, "bob", permissions=frozenset({"admin:*"}))
STRANGER = Caller("initech", "alice", permissions=frozenset({"admin:*"}))
HERE = Partition(TENANT, "default")


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """Alice's document, which Bob may read, and her other one, which he may not."""
    world = World()
    await world.ingest(
        Draft(LONG, document_id="shared", access=BOTH), Draft(b"For Alice alone.", document_id="own", title="Own")
    )
    world.faults.log.clear()
    yield world
    await world.eraser.close()


def counts(erasure: Erasure) -> list[tuple[str, int, int, bool]]:
    """The steps: place, removed, remaining, done."""
    return [(step.place, step.removed, step.remaining, step.complete_time is not None) for step in erasure.steps]


async def chunks(world: World, document_id: str) -> int:
    """How many are in the store, whatever is to fail."""
    return len([kept for kept in await world.store.list_payloads(TENANT) if kept.chunk.document_id == document_id])


async def receipt(world: World, erasure: Erasure) -> Erasure:
    found = await world.catalog.find_erasure(erasure.tenant, erasure.receipt_id)
    assert found is not None
    return found


async def finished(world: World, erasure: Erasure) -> Erasure:
    """The erasure once the background has finished it."""
    while (found := await receipt(world, erasure)).complete_time is None:
        await asyncio.sleep(0.002)
    return found


# --- who may ----------------------------------------------------------------------------------------------------------


async def test_an_owner_deletes_and_nothing_is_left(world: World) -> None:
    erasure = await world.erasures.delete(ALICE, "default", "shared")
    assert counts(erasure) == [("catalog", 1, 0, True), ("store", 3, 0, True)]
    assert erasure.complete_time is not None
    assert (erasure.owner, erasure.collection, erasure.document_id) == ("user:alice", "default", "shared")
    for caller in (ALICE, BOB, READING_ADMIN):
        with pytest.raises(NotFound):
            await world.library.document(caller, "default", "shared")
    assert await world.document("shared") is None
    assert await chunks(world, "shared") == 0
    assert await chunks(world, "own") == 1


async def test_an_administrator_who_can_read_it_may_delete(world: World) -> None:
    erasure = await world.erasures.delete(READING_ADMIN, "default", "shared")
    assert erasure.complete_time is not None
    assert erasure.owner == "user:alice"


async def test_a_reader_is_refused_and_nobody_else_learns_that_it_exists(world: World) -> None:
    with pytest.raises(PermissionDenied) as denied:
        await world.erasures.delete(BOB, "default", "shared")
    assert denied.value.metadata == {}
    seen = set()
    for caller, collection, document_id in (
        (BOB, "default", "own"),
        (ADMIN, "default", "own"),  # not even an administrator, who cannot read it
        (STRANGER, "default", "own"),
        (ALICE, "nowhere", "own"),
        (ALICE, "default", "nowhere"),
    ):
        with pytest.raises(NotFound) as missing:
            await world.erasures.delete(caller, collection, document_id)
        seen.add((missing.value.message, missing.value.reason))
        assert missing.value.metadata == {"document_id": document_id}
    assert seen == {("no such document", "NOT_FOUND")}
    assert await world.document("own")
    assert await world.document("shared")
    assert "mark_deleted" not in world.faults.log


async def test_what_is_absent_and_what_is_somebody_elses_take_the_same_steps(world: World) -> None:
    asked: list[list[str]] = []
    for document_id in ("own", "nowhere"):
        world.faults.log.clear()
        with pytest.raises(NotFound):
            await world.erasures.delete(BOB, "default", document_id)
        asked.append(list(world.faults.log))
    assert asked[0] == asked[1]


async def test_what_changed_hands_meanwhile_is_not_deleted(world: World) -> None:
    event = world.faults.hold("mark_deleted")
    deleting = asyncio.create_task(world.erasures.delete(ALICE, "default", "shared"))
    await until(lambda: "mark_deleted" in world.faults.held)
    world.faults.let_pass("mark_deleted")
    await world.erasures.delete(READING_ADMIN, "default", "shared")
    await world.ingest(Draft(b"By Bob now.", document_id="shared", access=BOTH), caller=BOB)
    event.set()
    # What Alice gets is the receipt of what was hers.
    assert (await deleting).owner == "user:alice"
    document = await world.document("shared")
    assert document is not None
    assert document.owner == "user:bob"


async def test_a_catalog_that_does_not_answer_fails_the_call_and_changes_nothing(world: World) -> None:
    world.faults.fail("mark_deleted", Unavailable("away"))
    with pytest.raises(Unavailable):
        await world.erasures.delete(ALICE, "default", "shared")
    assert await world.document("shared")
    assert await chunks(world, "shared") == 3


# --- when the store is away -------------------------------------------------------------------------------------------


async def test_reads_are_blocked_before_the_store_is_asked(world: World) -> None:
    event = world.faults.hold("count_chunks")
    deleting = asyncio.create_task(world.erasures.delete(ALICE, "default", "shared"))
    await until(lambda: "count_chunks" in world.faults.held)
    with pytest.raises(NotFound):
        await world.library.document(ALICE, "default", "shared")
    assert await world.catalog.count_readable(TENANT, "default", BOB.principals) == 0
    event.set()
    assert (await deleting).complete_time is not None


@pytest.mark.parametrize("operation", ["count_chunks", "delete_chunks", "record_erasure"])
@pytest.mark.parametrize("error", [Unavailable("away"), DataLoss("damaged"), RuntimeError("a defect")], ids=repr)
async def test_a_failure_undoes_no_deletion_and_the_background_finishes_it(
    world: World, operation: str, error: Exception
) -> None:
    world.faults.hook = lambda struck: error if struck == operation else None
    with capture_logs() as logs:
        erasure = await world.erasures.delete(ALICE, "default", "shared")
        assert erasure.complete_time is None
        assert counts(erasure) == [("catalog", 1, 0, True), ("store", 0, 3, False)]
        assert erasure == await receipt(world, erasure)
        with pytest.raises(NotFound):
            await world.library.document(ALICE, "default", "shared")
        world.eraser.start()
        before = world.faults.log.count(operation)
        await until(lambda: world.faults.log.count(operation) > before + 2)
        assert (await receipt(world, erasure)).complete_time is None
        world.faults.hook = None
        done = await finished(world, erasure)
    assert counts(done) == [("catalog", 1, 0, True), ("store", 3, 0, True)]
    assert (done.receipt_id, done.block_time) == (erasure.receipt_id, erasure.block_time)
    assert await chunks(world, "shared") == 0
    assert "shared" not in repr([{**log, "exc_info": None} for log in logs])


async def test_a_store_that_hangs_holds_up_no_call_and_erasing_goes_on(world: World) -> None:
    event = world.faults.hold("delete_chunks")
    erasure = await world.erasures.delete(ALICE, "default", "shared", patience=0.0)
    assert erasure.complete_time is None
    await until(lambda: "delete_chunks" in world.faults.held)
    # Asking again waits for the same attempt instead of making another one.
    again = asyncio.create_task(world.erasures.delete(ALICE, "default", "shared"))
    event.set()
    assert (await again).complete_time is not None
    assert world.faults.log.count("delete_chunks") == 1


async def test_a_caller_who_leaves_does_not_stop_the_erasing(world: World) -> None:
    event = world.faults.hold("delete_chunks")
    deleting = asyncio.create_task(world.erasures.delete(ALICE, "default", "shared"))
    await until(lambda: "delete_chunks" in world.faults.held)
    deleting.cancel()
    await asyncio.wait([deleting])
    event.set()
    (erasure,) = await world.catalog.unfinished_erasures()
    assert (await finished(world, erasure)).complete_time is not None


async def test_an_attempt_that_nobody_answers_ends_and_is_made_again(world: World) -> None:
    policy = type(IMPATIENT)(most_attempt=0.01, first_wait=0.001, most_wait=0.01)
    eraser = Eraser(world.catalog, {"store": world.store}, policy)
    event = world.faults.hold("count_chunks")
    erasure = await world.catalog.mark_deleted(TENANT, "default", "shared", stores=["store"])
    assert erasure is not None
    eraser.start()
    await until(lambda: world.faults.log.count("count_chunks") > 2)
    world.faults.let_pass("count_chunks")
    event.set()
    await finished(world, erasure)
    await eraser.close()


async def test_one_erasure_that_fails_holds_up_no_other(world: World) -> None:
    broken = await world.catalog.mark_deleted(TENANT, "default", "shared", stores=["gone"])
    assert broken is not None
    made = []
    for number in range(5):
        await world.ingest(Draft(LONG, document_id=f"d{number}"))
        made.append(await world.catalog.mark_deleted(TENANT, "default", f"d{number}", stores=["store"]))
    world.eraser.start()
    for erasure in made:
        assert erasure is not None
        await finished(world, erasure)
    assert (await receipt(world, broken)).complete_time is None


async def test_while_nobody_answers_others_are_not_tried(world: World) -> None:
    for number in range(5):
        await world.ingest(Draft(LONG, document_id=f"d{number}"))
        await world.catalog.mark_deleted(TENANT, "default", f"d{number}", stores=["store"])
    world.faults.log.clear()
    world.faults.hook = lambda struck: Unavailable("away") if struck == "count_chunks" else None
    world.eraser.start()
    await until(lambda: world.faults.log.count("unfinished_erasures") > 3)
    rounds = world.faults.log.count("unfinished_erasures")
    assert world.faults.log.count("count_chunks") <= rounds
    world.faults.hook = None
    while await world.catalog.unfinished_erasures():
        await asyncio.sleep(0.002)


async def test_the_background_outlives_a_catalog_that_fails(world: World) -> None:
    for error in (Unavailable("away"), RuntimeError("a defect")):
        world.faults.fail("unfinished_erasures", error)
    erasure = await world.catalog.mark_deleted(TENANT, "default", "shared", stores=["store"])
    assert erasure is not None
    world.eraser.start()
    await finished(world, erasure)
    # Long after everything was done, another process leaves something behind.
    await until(lambda: world.faults.log.count("unfinished_erasures") > 6)
    left = await world.catalog.mark_deleted(TENANT, "default", "own", stores=["store"])
    assert left is not None
    await finished(world, left)


async def test_closing_ends_what_hangs(world: World) -> None:
    world.faults.hold("count_chunks")
    erasure = await world.erasures.delete(ALICE, "default", "shared", patience=0.0)
    world.eraser.start()
    await until(lambda: "count_chunks" in world.faults.held)
    await world.eraser.close(patience=0.0)
    assert await receipt(world, erasure) == erasure
    assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


# --- after a restart --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("killed_at", ["count_chunks", "delete_chunks", "record_erasure"])
@pytest.mark.parametrize("nth", [1, 2])
async def test_a_process_that_was_killed_goes_on_at_its_next_start(world: World, killed_at: str, nth: int) -> None:
    """Older chunks have stayed behind, so that the catalog knows of fewer than there are."""
    world.faults.fail("delete_chunks", Unavailable("away"))
    await world.ingest(Draft(b"Only one passage now.", document_id="shared", access=BOTH))
    seen = 0

    def kill(operation: str) -> Exception | None:
        nonlocal seen
        seen += operation == killed_at
        return asyncio.CancelledError() if operation == killed_at and seen == nth else None  # type: ignore[return-value] # no Exception

    world.faults.hook = kill
    erasure = await world.erasures.delete(ALICE, "default", "shared")
    world.faults.hook = None
    killed = seen >= nth
    assert (erasure.complete_time is None) == killed
    restarted = world.make_eraser()
    restarted.start()
    done = await finished(world, erasure)
    assert counts(done) == [("catalog", 1, 0, True), ("store", 4, 0, True)]
    assert await chunks(world, "shared") == 0
    await restarted.close()


async def test_two_processes_at_the_same_erasure_count_nothing_twice(world: World) -> None:
    erasure = await world.catalog.mark_deleted(TENANT, "default", "shared", stores=["store"])
    assert erasure is not None
    slow, fast = world.make_eraser(), world.make_eraser()
    event = world.faults.hold("delete_chunks")
    waiting = asyncio.create_task(slow.erase(erasure, 60))
    await until(lambda: "delete_chunks" in world.faults.held)
    world.faults.let_pass("delete_chunks")
    done = await fast.erase(erasure, 60)
    assert counts(done) == [("catalog", 1, 0, True), ("store", 3, 0, True)]
    event.set()
    # Whoever comes second is told what the first one did.
    assert await waiting == done == await receipt(world, erasure)


# --- again, and anew --------------------------------------------------------------------------------------------------


async def test_deleting_again_gives_the_same_receipt_to_whoever_was_allowed_to(world: World) -> None:
    first = await world.erasures.delete(ALICE, "default", "shared")
    for caller in (ALICE, READING_ADMIN, ADMIN):
        assert await world.erasures.delete(caller, "default", "shared") == first
    for caller in (BOB, STRANGER):
        with pytest.raises(NotFound, match="no such document"):
            await world.erasures.delete(caller, "default", "shared")
    assert world.faults.log.count("mark_deleted") == 1


async def test_deleting_again_goes_on_where_the_first_time_ended(world: World) -> None:
    world.faults.fail("count_chunks", Unavailable("away"))
    first = await world.erasures.delete(ALICE, "default", "shared")
    assert first.complete_time is None
    again = await world.erasures.delete(ALICE, "default", "shared")
    assert again.receipt_id == first.receipt_id
    assert again.complete_time is not None
    assert await chunks(world, "shared") == 0


async def test_two_who_delete_at_the_same_time_get_one_receipt(world: World) -> None:
    made = await asyncio.gather(
        *(world.erasures.delete(caller, "default", "shared") for caller in (ALICE, READING_ADMIN) * 5)
    )
    assert len({erasure.receipt_id for erasure in made}) == 1
    assert {erasure.complete_time is not None for erasure in made} == {True}


async def test_the_eraser_leaves_a_document_of_the_same_id_alone_that_came_later(world: World) -> None:
    world.faults.hook = lambda struck: Unavailable("away") if struck in {"count_chunks", "delete_chunks"} else None
    first = await world.erasures.delete(ALICE, "default", "shared")
    await world.ingest(Draft(LONG + b"\n\nAnd a fourth one.", document_id="shared", access=BOTH))
    new = await world.document("shared")
    assert new is not None
    assert new.version == first.before_version
    assert await chunks(world, "shared") == 3 + 4
    world.faults.hook = None
    world.eraser.start()
    done = await finished(world, first)
    assert counts(done)[1] == ("store", 3, 0, True)
    await intact(world, new, 4)
    second = await world.erasures.delete(ALICE, "default", "shared")
    assert second.receipt_id != first.receipt_id
    assert counts(second)[1] == ("store", 4, 0, True)
    assert await world.erasures.receipt(ALICE, first.receipt_id) == done
    assert await world.erasures.delete(ALICE, "default", "shared") == second


async def intact(world: World, document: Document, count: int) -> None:
    assert await world.document(document.document_id) == document
    assert len(await world.chunks(document)) == count == await chunks(world, document.document_id)


async def test_whether_somebody_took_a_deleted_id_in_again_cannot_be_told(world: World) -> None:
    mine = await world.erasures.delete(ALICE, "default", "shared")
    await world.ingest(Draft(b"Bob's.", document_id="shared"), caller=BOB)
    assert await world.erasures.delete(ALICE, "default", "shared") == mine
    document = await world.document("shared")
    assert document is not None
    await world.erasures.delete(BOB, "default", "shared")
    assert await world.erasures.delete(ALICE, "default", "shared") == mine
    # Who may read the new one knows of it, and is no less a mere reader.
    await world.ingest(Draft(b"Bob's.", document_id="shared", access=BOTH), caller=BOB)
    with pytest.raises(PermissionDenied):
        await world.erasures.delete(ALICE, "default", "shared")


# --- versions on their way --------------------------------------------------------------------------------------------


async def test_what_a_version_on_its_way_still_writes_is_erased_too(world: World) -> None:
    """The process that wrote it is killed before it can notice that the document was deleted."""
    event = world.faults.hold("upsert_chunks")
    ingesting = asyncio.create_task(world.ingest(Draft(LONG + b"\n\nA fourth.", document_id="shared")))
    await until(lambda: "upsert_chunks" in world.faults.held)
    erasure = await world.erasures.delete(ALICE, "default", "shared")
    assert counts(erasure) == [("catalog", 1, 0, True), ("store", 3, 0, False)]
    assert erasure.complete_time is None
    world.faults.fail("activate_version", RuntimeError("as good as killed"))
    event.set()
    await ingesting
    assert await chunks(world, "shared") == 4
    world.eraser.start()
    while counts(await receipt(world, erasure))[1] != ("store", 7, 0, False):
        await asyncio.sleep(0.002)
    assert await chunks(world, "shared") == 0
    # Only when nothing can come any more is it done.
    world.moved = IMPATIENT.latest_write + timedelta(seconds=1)
    assert counts(await finished(world, erasure))[1] == ("store", 7, 0, True)


async def test_a_version_that_notices_the_deletion_cleans_up_itself(world: World) -> None:
    event = world.faults.hold("upsert_chunks")
    ingesting = asyncio.create_task(world.ingest(Draft(LONG + b"\n\nA fourth.", document_id="shared")))
    await until(lambda: "upsert_chunks" in world.faults.held)
    erasure = await world.erasures.delete(ALICE, "default", "shared")
    event.set()
    await ingesting
    assert await world.document("shared") is None
    assert await chunks(world, "shared") == 0
    world.moved = IMPATIENT.latest_write + timedelta(seconds=1)
    assert (await world.erasures.delete(ALICE, "default", "shared")).complete_time is not None
    assert (await receipt(world, erasure)).complete_time is not None


# --- receipts ---------------------------------------------------------------------------------------------------------


async def test_a_receipt_is_for_the_owner_and_the_tenants_administrators(world: World) -> None:
    erasure = await world.erasures.delete(ALICE, "default", "shared")
    for caller in (ALICE, READING_ADMIN, ADMIN):
        assert await world.erasures.receipt(caller, erasure.receipt_id) == erasure
    seen = set()
    for caller, receipt_id in ((BOB, erasure.receipt_id), (STRANGER, erasure.receipt_id), (ALICE, "0" * 32)):
        with pytest.raises(NotFound) as missing:
            await world.erasures.receipt(caller, receipt_id)
        assert missing.value.metadata == {"receipt_id": receipt_id}
        seen.add((missing.value.message, missing.value.reason))
    assert seen == {("no such receipt", "NOT_FOUND")}


async def test_a_receipt_holds_nothing_of_the_contents(world: World) -> None:
    document = await world.document("own")
    assert document is not None
    erasure = await world.erasures.delete(ALICE, "default", "own")
    for told in (document.title, document.content_sha256, "For Alice alone"):
        assert told not in repr(erasure)
