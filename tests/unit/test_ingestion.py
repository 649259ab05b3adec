"""Taking documents in: every document has a fate of its own, and a version is visible whole or not at all."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import replace

import pytest

from services.corpus.document import MediaType
from services.corpus.errors import (
    DataLoss,
    DeadlineExceeded,
    DiskFull,
    FailedPrecondition,
    FieldViolation,
    GroundwireError,
    ResourceExhausted,
    Unavailable,
)
from services.corpus.principal import Access, Caller
from services.ingestion.adapters.parsing.in_process import InProcessParser
from services.ingestion.batch import Draft, Failure, Outcome
from services.ingestion.ingestion import IngestionLimits, Ingestor
from services.ingestion.library import CollectionChanges
from services.ingestion.parsed import ChunkLimits, FailureReason, ParseFailure, SplitDocument
from services.vectorstores.ports import Partition
from tests.support.ingestion import ADMIN, ALICE, BOB, SMALL, TENANT, FailingParser, World
from tests.support.serving import until

EVERYBODY = Access(frozenset({"tenant:*"}))
GOOD = Draft(b"Good news for all.", document_id="good")
LONG = b"The first paragraph stands here.\n\nThe second one stands below.\n\nAnd a third one."


def fates(outcomes: list[Outcome]) -> list[str | None]:
    return [outcome.reason for outcome in outcomes]


async def test_a_document_is_taken_in_whole() -> None:
    world = World()
    (outcome,) = await world.ingest(Draft(LONG, document_id="a", title="News", uri="a.txt", metadata={"lang": "en"}))
    assert (outcome.index, outcome.document_id, outcome.version, outcome.reason) == (0, "a", 1, None)
    assert outcome.chunks == 3
    document = await world.document("a")
    assert document is not None
    assert (document.title, document.uri, document.metadata) == ("News", "a.txt", {"lang": "en"})
    assert (document.media_type, document.owner) == (MediaType.TEXT, "user:alice")
    assert document.content_sha256 == hashlib.sha256(LONG).hexdigest()
    for passage in await world.passages("a"):
        assert LONG.decode()[passage.start : passage.end] == passage.text


async def test_without_an_id_the_same_contents_of_one_person_are_the_same_document() -> None:
    world = World()
    (first,) = await world.ingest(Draft(LONG))
    (second,) = await world.ingest(Draft(LONG))
    assert first.document_id == second.document_id
    assert (first.unchanged, second.unchanged, second.version) == (False, True, 1)
    (third,) = await world.ingest(Draft(LONG + b"."))
    assert third.document_id != first.document_id
    assert await world.ingest() == []


async def test_without_an_id_nobody_learns_who_else_has_the_same_file() -> None:
    world = World()
    ids = set()
    # The last two differ only in where the tenant ends and the subject begins.
    for caller in (ALICE, BOB, Caller("initech", "alice"), Caller("a", "b\0c"), Caller("a\0b", "c")):
        (outcome,) = await world.ingest(Draft(LONG), caller=caller)
        assert (outcome.reason, outcome.unchanged, outcome.version) == (None, False, 1)
        ids.add(outcome.document_id)
    assert len(ids) == 5


@pytest.mark.parametrize(
    ("change", "unchanged"),
    [
        (Draft(LONG), True),
        (Draft(LONG, title="News"), True),
        (Draft(LONG + b" More."), False),
        (Draft(LONG, title="Olds"), False),
        (Draft(LONG, uri="elsewhere"), False),
        (Draft(LONG, metadata={"lang": "de"}), False),
        (Draft(LONG, access=EVERYBODY), False),
    ],
)
async def test_only_a_difference_makes_a_new_version(change: Draft, unchanged: bool) -> None:
    world = World()
    await world.ingest(Draft(LONG, document_id="a", title="News"))
    world.faults.log.clear()
    (outcome,) = await world.ingest(replace(change, document_id="a"))
    assert (outcome.unchanged, outcome.version) == (unchanged, 1 if unchanged else 2)
    assert ("upsert_chunks" in world.faults.log) is not unchanged
    assert outcome.chunks > 0


async def test_a_new_version_replaces_the_old_one_and_its_chunks_go() -> None:
    world = World()
    await world.ingest(Draft(LONG, document_id="a"))
    (outcome,) = await world.ingest(Draft(b"Short.", document_id="a"))
    assert (outcome.version, outcome.chunks) == (2, 1)
    assert await world.text("a") == "Short."
    assert await world.store.count_chunks(Partition(TENANT, "default")) == 1


async def test_old_chunks_that_cannot_be_removed_do_no_harm() -> None:
    world = World()
    await world.ingest(Draft(LONG, document_id="a"))
    world.faults.fail("delete_chunks", Unavailable("away"))
    (outcome,) = await world.ingest(Draft(b"Second.", document_id="a"))
    assert (outcome.version, outcome.reason) == (2, None)
    assert await world.store.count_chunks(Partition(TENANT, "default")) == 4
    await world.ingest(Draft(b"Third.", document_id="a"))
    assert await world.store.count_chunks(Partition(TENANT, "default")) == 1


# --- isolation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", FailureReason)
async def test_a_document_that_cannot_be_parsed_fails_alone(reason: FailureReason) -> None:
    world = World(parser=FailingParser(ParseFailure(reason, "Why and what to do.", detail="secret")))
    outcomes = await world.ingest(Draft(b"bad", document_id="bad"), GOOD, Draft(b"bad too", document_id="worse"))
    assert fates(outcomes) == [reason.value, None, reason.value]
    assert outcomes[0].message == "Why and what to do."
    assert outcomes[0].retryable == reason.transient
    assert [outcome.index for outcome in outcomes] == [0, 1, 2]
    assert await world.document("bad") is None
    assert await world.text("good") == "Good news for all."


async def test_real_contents_fail_for_real_reasons() -> None:
    world = World(limits=IngestionLimits(max_document_bytes=1024 * 1024, chunks=SMALL))
    outcomes = await world.ingest(
        Draft(b""),
        Draft(b"%PDF-1.4 broken"),
        Draft(b"\x89PNG\r\n"),
        Draft(b"x" * (1024 * 1024 + 1)),
        GOOD,
        Draft(b"fine", violations=(FieldViolation("documents[5].title", "too long"),)),
    )
    assert fates(outcomes) == ["empty", "malformed", "unsupported_media_type", "too_large", None, "invalid_field"]
    assert "1 MiB" in outcomes[3].message
    assert outcomes[0].document_id == ""
    assert outcomes[5].violations == (FieldViolation("documents[5].title", "too long"),)


@pytest.mark.parametrize(
    ("operation", "reason"),
    [
        ("find_owner", Failure.STORE_UNAVAILABLE),
        ("get_document", Failure.STORE_UNAVAILABLE),
        ("plan_version", Failure.STORE_UNAVAILABLE),
        ("embed_passages", Failure.EMBEDDER_UNAVAILABLE),
        ("upsert_chunks", Failure.STORE_UNAVAILABLE),
        ("upsert_chunks done", Failure.STORE_UNAVAILABLE),
        ("activate_version", Failure.STORE_UNAVAILABLE),
        ("activate_version done", Failure.STORE_UNAVAILABLE),
    ],
)
@pytest.mark.parametrize("error", [Unavailable("a"), DeadlineExceeded("b"), ResourceExhausted("c"), DiskFull("d")])
async def test_what_does_not_answer_is_worth_another_try(
    operation: str, reason: Failure, error: GroundwireError
) -> None:
    world = World()
    await world.ingest(Draft(LONG, document_id="a"))
    world.faults.fail(operation, error)
    (outcome,) = await world.ingest(Draft(b"Second.", document_id="a"))
    assert (outcome.reason, outcome.retryable, outcome.version) == (reason.value, True, 0)
    assert "try again" in outcome.message
    await world.assert_consistent()
    # Only a catalog that acted and did not say so can have made the new version visible.
    expected = "Second." if operation == "activate_version done" else LONG.decode().replace("\n\n", " ")
    assert await world.text("a") == expected
    (again,) = await world.ingest(Draft(b"Second.", document_id="a"))
    assert again.reason is None
    assert await world.text("a") == "Second."


@pytest.mark.parametrize("operation", ["find_owner", "plan_version", "embed_passages", "upsert_chunks"])
@pytest.mark.parametrize("error", [FailedPrecondition("Run the remedy."), DataLoss("Restore it.")])
async def test_what_refuses_is_not_worth_another_try_and_names_the_remedy(
    operation: str, error: GroundwireError
) -> None:
    world = World()
    world.faults.fail(operation, error)
    (outcome,) = await world.ingest(GOOD)
    assert (outcome.retryable, outcome.version) == (False, 0)
    assert outcome.message.endswith(error.message)


async def test_a_defect_is_one_documents_and_says_nothing_of_itself() -> None:
    world = World(parser=FailingParser(RuntimeError("/etc/passwd")))
    outcomes = await world.ingest(Draft(b"bad"), GOOD)
    assert fates(outcomes) == ["internal", None]
    assert "/etc" not in outcomes[0].message


# --- time, cancellation ----------------------------------------------------------------------------------------------


async def test_documents_that_are_late_are_given_up_and_the_others_are_told() -> None:
    world = World()
    event = world.faults.hold("activate_version")
    outcomes = await world.ingest(Draft(b"", document_id="empty"), GOOD, patience=0.2)
    assert fates(outcomes) == ["empty", "not_reached"]
    assert (outcomes[1].document_id, outcomes[1].retryable, outcomes[1].version) == ("good", True, 0)
    assert await world.document("good") is None
    event.set()
    assert fates(await world.ingest(GOOD, patience=60)) == [None]


@pytest.mark.parametrize(
    "operation",
    [
        "find_owner",
        "get_document",
        "plan_version",
        "embed_passages",
        "upsert_chunks",
        "upsert_chunks done",
        "activate_version",
        "delete_chunks",
    ],
)
async def test_a_cancelled_call_leaves_one_version_or_the_other(operation: str) -> None:
    world = World()
    await world.ingest(Draft(LONG, document_id="a"))
    event = world.faults.hold(operation)
    task = asyncio.create_task(world.ingest(Draft(b"Second.", document_id="a"), Draft(b"Another.", document_id="b")))
    await until(lambda: operation in world.faults.held)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await world.assert_consistent()
    assert await world.text("a") in ("Second.", LONG.decode().replace("\n\n", " "))
    event.set()
    assert (
        fates(await world.ingest(Draft(b"Second.", document_id="a"), Draft(b"Another.", document_id="b"))) == [None] * 2
    )
    assert (await world.text("a"), await world.text("b")) == ("Second.", "Another.")
    await world.ingestor.close()


# --- versions that overtake each other -------------------------------------------------------------------------------


async def test_the_last_of_one_batch_is_current() -> None:
    world = World()
    drafts = [Draft(f"Number {i}.".encode(), document_id="a") for i in range(8)]
    outcomes = await world.ingest(*drafts)
    assert [outcome.version for outcome in outcomes] == list(range(1, 9))
    assert await world.text("a") == "Number 7."
    assert await world.store.count_chunks(Partition(TENANT, "default")) == 1


async def test_a_slow_document_is_not_overtaken_by_the_next_one_of_its_id() -> None:
    class SlowParser(InProcessParser):
        """Reads documents that begin with ``slow`` only when it is told to."""

        def __init__(self) -> None:
            self.go_on = asyncio.Event()

        async def split(self, content: bytes, media_type: MediaType, limits: ChunkLimits) -> SplitDocument:
            if content.startswith(b"slow"):
                await self.go_on.wait()
            return await super().split(content, media_type, limits)

    parser = SlowParser()
    world = World(parser=parser)
    world.ingestor._writer._most_wait = 0.01  # the other one need not wait for the slow one
    first = asyncio.create_task(world.ingest(Draft(b"slow text.", document_id="a")))
    second = asyncio.create_task(world.ingest(Draft(b"The newest.", document_id="a")))
    other = asyncio.create_task(world.ingest(Draft(b"Another one.", document_id="b")))
    await other
    assert not second.done()
    parser.go_on.set()
    versions = [(await task)[0].version for task in (first, second)]
    assert versions == [1, 2]
    assert await world.text("a") == "The newest."


async def test_concurrent_batches_never_lose_the_newest_version() -> None:
    world = World()
    batches = [[Draft(f"Text {batch} of {name}.".encode(), document_id=name) for name in "abc"] for batch in range(6)]
    results = await asyncio.gather(*(world.ingest(*batch) for batch in batches))
    for place, name in enumerate("abc"):
        versions = {result[place].version: number for number, result in enumerate(results)}
        assert sorted(versions) == [1, 2, 3, 4, 5, 6]
        assert await world.text(name) == f"Text {versions[6]} of {name}."
    assert await world.store.count_chunks(Partition(TENANT, "default")) == 3


async def test_a_version_of_another_process_that_was_faster_stays() -> None:
    world = World()
    event = world.faults.hold("activate_version")
    task = asyncio.create_task(world.ingest(Draft(LONG, document_id="a")))
    await until(lambda: "activate_version" in world.faults.held)
    world.faults.let_pass("activate_version")
    other = Ingestor(catalog=world.catalog, parser=world.parser, embedder=world.embedder, store=world.store)
    (fast,) = await other.ingest(ALICE, await world.collection(), [Draft(b"Fast.", document_id="a")])
    event.set()
    (slow,) = await task
    # Both are told what is now current.
    assert (fast.version, fast.chunks) == (slow.version, slow.chunks) == (2, 1)
    assert await world.text("a") == "Fast."
    assert await world.store.count_chunks(Partition(TENANT, "default")) == 1


async def test_a_version_of_a_document_that_was_deleted_meanwhile_leaves_nothing_behind() -> None:
    world = World()
    await world.ingest(Draft(b"First.", document_id="a"))
    event = world.faults.hold("upsert_chunks")
    task = asyncio.create_task(world.ingest(Draft(LONG, document_id="a")))
    await until(lambda: "upsert_chunks" in world.faults.held)
    assert await world.catalog.mark_deleted(TENANT, "default", "a")
    event.set()
    (outcome,) = await task
    assert (outcome.reason, outcome.version) == (None, 2)
    assert await world.store.count_chunks(Partition(TENANT, "default")) == 0


# --- access ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("access", [None, EVERYBODY])
async def test_somebody_elses_document_cannot_be_replaced(access: Access | None) -> None:
    world = World()
    await world.ingest(Draft(LONG, document_id="a", access=access))
    opened = world.faults.log.count("get_document")
    outcomes = await world.ingest(Draft(b"Mine now.", document_id="a"), Draft(b"My own.", document_id="b"), caller=BOB)
    assert fates(outcomes) == ["permission_denied", None]
    assert opened == world.faults.log.count("get_document"), "nothing of the other's document was opened"
    assert (outcomes[0].retryable, outcomes[0].version) == (False, 0)
    assert "alice" not in outcomes[0].message
    document = await world.document("a")
    assert document is not None
    assert (document.owner, document.version) == ("user:alice", 1)


@pytest.mark.parametrize("guess", [LONG, b"Something else."], ids=["the same contents", "others"])
@pytest.mark.parametrize("caller", [ADMIN, BOB], ids=["an administrator", "a stranger"])
async def test_replacing_what_one_cannot_read_tells_that_the_id_is_in_use_and_no_more(
    caller: Caller, guess: bytes
) -> None:
    """An administrator's guess of contents, readers and metadata gets the answer that a stranger's wrong one gets (A5)."""
    access = Access(frozenset({"group:board"}))
    secret = Draft(LONG, document_id="a", access=access, metadata={"lang": "en"})
    world = World()
    await world.ingest(secret)
    before = await world.document("a")
    (refused,) = await world.ingest(replace(secret, content=guess), caller=caller)
    expected = Outcome(
        0,
        "a",
        reason="permission_denied",
        message="This document id belongs to somebody else; choose another one.",
    )
    assert (refused, await world.document("a")) == (expected, before)
    assert world.faults.log.count("plan_version") == 1, "not even a version number was taken"


async def test_whoever_takes_in_for_others_may_replace_what_they_took_in() -> None:
    """An owner who is not among the readers wrote what is there, and learns nothing from replacing it (A5)."""
    world, access = World(), Access(frozenset({"group:hr"}))
    draft = Draft(LONG, document_id="a", access=access)
    await world.ingest(draft)
    (again,) = await world.ingest(draft)
    assert (again.unchanged, again.version) == (True, 1)
    (changed,) = await world.ingest(replace(draft, content=b"Newer."))
    assert (changed.reason, changed.version) == (None, 2)


@pytest.mark.parametrize("readable", [True, False])
async def test_of_a_version_that_came_first_only_those_learn_who_may_replace_it(readable: bool) -> None:
    """Overtaken by somebody else's document: its version and chunks are nobody else's to know (A5)."""
    world = World()
    access = EVERYBODY if readable else Access(frozenset({"group:board"}))
    owned = world.faults.hold("activate_version")
    mine = asyncio.create_task(world.ingest(Draft(b"Mine.", document_id="a"), caller=ADMIN))
    await until(lambda: "activate_version" in world.faults.held)
    world.faults.let_pass("activate_version")
    other = Ingestor(catalog=world.catalog, parser=world.parser, embedder=world.embedder, store=world.store)
    (theirs,) = await other.ingest(ALICE, await world.collection(), [Draft(LONG, document_id="a", access=access)])
    owned.set()
    (outcome,) = await mine
    if readable:
        assert (outcome.reason, outcome.version, outcome.chunks) == (None, theirs.version, theirs.chunks)
    else:
        assert (outcome.reason, outcome.version, outcome.chunks) == ("permission_denied", 0, 0)


async def test_an_administrator_who_can_read_it_may_replace_and_a_deleted_id_is_free() -> None:
    world = World()
    await world.ingest(Draft(LONG, document_id="a", access=Access(frozenset({"user:alice", "user:root"}))))
    assert fates(await world.ingest(Draft(b"By root.", document_id="a"), caller=ADMIN)) == [None]
    await world.catalog.mark_deleted(TENANT, "default", "a")
    (outcome,) = await world.ingest(Draft(b"By Bob.", document_id="a"), caller=BOB)
    assert (outcome.reason, outcome.version) == (None, 3)
    document = await world.document("a")
    assert document is not None
    assert document.owner == "user:bob"


async def test_readers_are_the_documents_then_the_collections_then_the_owner() -> None:
    world = World()
    own, shared = Access(frozenset({"user:carol"})), Access(frozenset({"group:hr"}))

    async def readers(document_id: str, access: Access | None) -> frozenset[str]:
        await world.ingest(Draft(document_id.encode(), document_id=document_id, access=access))
        document = await world.document(document_id)
        assert document is not None
        return document.access.readers

    assert await readers("a", None) == {"user:alice"}
    assert await readers("b", own) == own.readers
    assert await readers("nobody", Access(frozenset())) == frozenset()
    await world.library.update_collection(ALICE, "default", CollectionChanges(default_access=shared))
    assert await readers("c", None) == shared.readers
    assert await readers("d", own) == own.readers
    # An empty set of default readers is a decision too: nobody, not the owner.
    await world.library.update_collection(ALICE, "default", CollectionChanges(default_access=Access(frozenset())))
    assert await readers("e", None) == frozenset()


async def test_chunks_carry_the_number_of_their_readers() -> None:
    world = World()
    await world.ingest(Draft(LONG, document_id="a", access=Access(frozenset({"group:hr"}))))
    document = await world.document("a")
    assert document is not None
    numbers = {chunk.reader_set for chunk in await world.chunks(document)}
    assert numbers == await world.catalog.reader_sets(TENANT, BOB.principals)
    assert not numbers & await world.catalog.reader_sets(TENANT, ALICE.principals)


@pytest.mark.parametrize("other", [{"embedding_model": "older"}, {"dimension": 3}])
async def test_another_embedding_model_is_refused_with_the_remedy(other: dict[str, object]) -> None:
    world = World()
    change: Callable[..., object] = replace
    collection = change(await world.collection(), **other)
    with pytest.raises(FailedPrecondition, match="groundwire reindex default") as caught:
        await world.ingestor.ingest(ALICE, collection, [GOOD])  # type: ignore[arg-type] # a stand-in
    assert caught.value.reason == "EMBEDDING_MISMATCH"
    assert caught.value.metadata["service_model"] == "hashing-16"
    assert "upsert_chunks" not in world.faults.log


async def test_documents_in_flight_are_bounded() -> None:
    world = World(limits=IngestionLimits(in_flight=2, chunks=SMALL))
    event = world.faults.hold("embed_passages")
    task = asyncio.create_task(world.ingest(*(Draft(f"Text {i}.".encode()) for i in range(9))))
    await until(lambda: world.faults.log.count("embed_passages") == 2)
    # All others have been looked up and wait for a slot.
    await until(lambda: world.faults.log.count("find_owner") == 9)
    assert world.faults.log.count("plan_version") == 2
    event.set()
    assert fates(await task) == [None] * 9
