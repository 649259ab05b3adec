"""What a service's calls leave in the audit log, and what happens when it cannot be written."""

from __future__ import annotations

import asyncio
import hmac
import inspect
from collections.abc import Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc
import pytest

from groundwire.audit.v1 import audit_service_pb2 as pb
from groundwire.policy.v1 import policy_pb2
from interceptors import current
from interceptors._shapes import Call
from services.audit import convert
from services.catalog.memory import MemoryCatalog
from services.catalog.ports import Catalog
from services.catalog.recorded import UNRECORDED, RecordedCatalog, recorded
from services.corpus.document import Collection
from services.corpus.errors import AlreadyExists, GroundwireError, NotFound, PermissionDenied, Unavailable
from services.corpus.principal import Caller
from services.journal.spool import Kind
from services.runtime.auditing import recorder as recorder_module
from services.runtime.auditing.effects import Effects
from services.runtime.auditing.record import CallRecord, Policy, current_record
from services.runtime.auditing.recorder import Recorder
from services.runtime.auditing.security_events import SecurityEvents
from services.runtime.options import EncryptionOptions
from services.runtime.process import Process
from services.runtime.settings import Settings
from services.security.keyed_terms import salted_hmac
from services.security.sealed import Place, Refusal, RefusedBecause
from tests.support.recording import MemoryKeeper, memory_recorder
from tests.support.serving import until

ALWAYS = Policy(policy_pb2.AUDIT_ALWAYS, "documents:share", "sha256:0123")
DENIALS = Policy(policy_pb2.AUDIT_DENIALS, "documents:read", "sha256:0123")
ALICE = Caller("acme", "alice", acting_service="query")
OK = grpc.StatusCode.OK


class FakeContext:
    def __init__(self, peer: str = "ipv6:%5B::1%5D:5000") -> None:
        self._peer = peer

    def peer(self) -> str:
        return self._peer


def a_call(*, known: bool = True) -> Call:
    context: Any = FakeContext()
    return Call("/groundwire.test.v1.Echo/Share", known, context, "request-1")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "_RECOVERY_INTERVAL", 0.001)


async def as_a_call(recorder: Recorder, work: Any, *, policy: Policy = ALWAYS, call: Call | None = None) -> Any:
    """Run ``work`` as a handler: in a task of its own, with a caller and a record, which is returned."""

    async def run() -> CallRecord:
        record = recorder.open(call or a_call(), policy)
        current.caller.set(ALICE)
        current.record.set(record)
        await work()
        return record

    return await asyncio.create_task(run())


async def nothing() -> None:
    """Nothing happens."""


async def test_an_event_says_who_did_what(caplog: Any) -> None:
    recorder, keeper = memory_recorder()
    call = a_call()
    call.trace_id = int("ab" * 16, 16)

    async def work() -> None:
        record = current_record()
        record.resource = "collections/default"
        record.query_hmac = bytes(32)
        record.answer_sha256 = sha256(b"answer").digest()
        record.model_endpoint = "extractive"
        record.document_ids = ["a", "b", "a"]
        record.chunk_ids = ["a#1", "b#2"]
        record.withheld = ["secret"]
        ended = record.end(OK) if isinstance(record, CallRecord) else None
        assert ended is not None
        await ended

    await as_a_call(recorder, work, call=call)
    (event,) = keeper.events
    assert (event.tenant, event.principal, event.acting_service) == ("acme", "user:alice", "query")
    assert (event.request_id, event.trace_id, event.client_address) == ("request-1", "ab" * 16, "[::1]:5000")
    assert (event.method, event.resource) == ("/groundwire.test.v1.Echo/Share", "collections/default")
    assert (event.decision, event.reason, event.policy_version) == (
        pb.DECISION_ALLOWED,
        "documents:share",
        "sha256:0123",
    )
    assert (event.query_hmac, event.answer_sha256) == (bytes(32), sha256(b"answer").digest())
    assert (list(event.document_ids), list(event.chunk_ids)) == (["a", "b"], ["a#1", "b#2"])
    assert (list(event.denied_document_ids), event.model_endpoint) == (["secret"], "extractive")
    assert (event.stage, event.code, event.time.seconds > 1_700_000_000) == (pb.STAGE_ENDED, 0, True)
    # Whatever is put into an event, the log takes it.
    assert convert.read_event(event).principal == "user:alice"


async def test_ids_are_cut_to_what_the_log_takes() -> None:
    recorder, keeper = memory_recorder()

    async def work() -> None:
        current_record().document_ids = [f"document-{n}" for n in range(1500)]

    record = await as_a_call(recorder, work)
    await record.end(OK)
    assert len(keeper.events[0].document_ids) == 1000
    convert.read_event(keeper.events[0])


@pytest.mark.parametrize(
    ("policy", "code", "known", "recorded_as"),
    [
        (ALWAYS, grpc.StatusCode.OK, True, pb.DECISION_ALLOWED),
        (ALWAYS, grpc.StatusCode.CANCELLED, True, pb.DECISION_ALLOWED),
        (ALWAYS, grpc.StatusCode.INVALID_ARGUMENT, True, pb.DECISION_ALLOWED),
        (ALWAYS, grpc.StatusCode.PERMISSION_DENIED, True, pb.DECISION_DENIED),
        (DENIALS, grpc.StatusCode.OK, True, None),
        (DENIALS, grpc.StatusCode.NOT_FOUND, True, None),
        (DENIALS, grpc.StatusCode.UNAUTHENTICATED, True, pb.DECISION_DENIED),
        (DENIALS, grpc.StatusCode.NOT_FOUND, False, pb.DECISION_DENIED),
    ],
)
async def test_the_level_says_what_is_recorded(
    policy: Policy, code: grpc.StatusCode, known: bool, recorded_as: int | None
) -> None:
    recorder, keeper = memory_recorder()
    ended = recorder.open(a_call(known=known), policy).end(code)
    if ended is not None:
        await ended
    assert [event.decision for event in keeper.events] == ([] if recorded_as is None else [recorded_as])


async def test_a_refusal_says_why() -> None:
    recorder, keeper = memory_recorder()
    needs = PermissionDenied("no", metadata={"permission": "documents:delete"})
    for error in (PermissionDenied("no"), needs, ZeroDivisionError()):
        call = a_call()
        call.error = error
        ended = recorder.open(call, ALWAYS).end(grpc.StatusCode.PERMISSION_DENIED)
        assert ended is not None
        await ended
    assert [event.reason for event in keeper.events] == [
        "PERMISSION_DENIED",
        "PERMISSION_DENIED: documents:delete",
        "INTERNAL",
    ]


# --- changes ---


async def test_a_change_is_announced_done_and_confirmed() -> None:
    recorder, keeper = memory_recorder()
    seen: list[list[int]] = []

    async def change() -> str:
        seen.append([event.stage for event in keeper.events])
        return "done"

    async def work() -> None:
        assert await Effects(recorder).perform("acme", "collections/x", change, document_ids=["d"]) == "done"

    record = await as_a_call(recorder, work)
    await record.end(OK)
    assert seen == [[pb.STAGE_BEGUN]]
    begun, ended = keeper.events
    assert keeper.kinds == [Kind.OPENS, Kind.CLOSES]
    assert (begun.resource, list(begun.document_ids), list(begun.changes)) == ("collections/x", ["d"], [])
    assert (ended.stage, list(ended.document_ids), list(ended.changes)) == (pb.STAGE_ENDED, ["d"], ["collections/x"])
    assert begun.event_id == f"{ended.event_id}.1"


async def test_what_did_not_happen_is_not_claimed() -> None:
    recorder, keeper = memory_recorder()
    effects = Effects(recorder)

    async def fail() -> bool:
        raise NotFound("no such document")

    async def nothing_changed() -> bool:
        return False

    async def work() -> None:
        with pytest.raises(NotFound):
            await effects.perform("acme", "collections/x", fail)
        assert not await effects.perform("acme", "collections/y", nothing_changed, happened=bool)

    record = await as_a_call(recorder, work, policy=DENIALS)
    await record.end(grpc.StatusCode.NOT_FOUND)
    assert [list(event.changes) for event in keeper.events] == [[], [], []]
    assert keeper.events[-1].code == grpc.StatusCode.NOT_FOUND.value[0]


async def test_without_an_announcement_nothing_is_changed() -> None:
    recorder, keeper = memory_recorder()
    keeper.failure = Unavailable("the disk is full")
    changed = False

    async def change() -> None:
        nonlocal changed
        changed = True

    async def work() -> None:
        with pytest.raises(Unavailable) as caught:
            await Effects(recorder).perform("acme", "collections/x", change)
        assert (caught.value.reason, caught.value.retry_after) == ("AUDIT_UNAVAILABLE", 1.0)

    await as_a_call(recorder, work)
    assert not changed


async def changing(recorder: Recorder, change: Any) -> None:
    """A call that changes something, and leaves its record when it is given up."""
    record = recorder.open(a_call(), ALWAYS)
    current.record.set(record)
    try:
        await Effects(recorder).perform("acme", "collections/x", change)
    except asyncio.CancelledError:
        record.end(grpc.StatusCode.CANCELLED)
        raise


async def test_a_change_that_was_begun_is_carried_through_and_noted_when_its_caller_leaves() -> None:
    recorder, keeper = memory_recorder()
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def change() -> None:
        begun.set()
        await go_on.wait()

    running = asyncio.create_task(changing(recorder, change))
    await begun.wait()
    running.cancel()
    await asyncio.wait([running])
    assert [event.stage for event in keeper.events] == [pb.STAGE_BEGUN]
    go_on.set()
    await recorder.settled()
    ended = keeper.events[1]
    assert (ended.code, list(ended.changes)) == (grpc.StatusCode.CANCELLED.value[0], ["collections/x"])


async def test_a_change_is_not_begun_for_a_caller_who_left_while_it_was_announced() -> None:
    recorder, keeper = memory_recorder()
    keeper.hold = True
    changed = False

    async def change() -> None:
        nonlocal changed
        changed = True

    running = asyncio.create_task(changing(recorder, change))
    await until(lambda: keeper.held == 1)
    running.cancel()
    await asyncio.wait([running])
    keeper.release()
    await recorder.settled()
    assert not changed
    assert [list(event.changes) for event in keeper.events] == [[], []]


async def test_of_two_changes_of_a_call_one_may_be_given_up() -> None:
    recorder, keeper = memory_recorder()
    effects = Effects(recorder)
    done: list[str] = []

    async def change(name: str) -> None:
        done.append(name)

    async def work() -> None:
        keeper.hold = True
        one, two = (
            asyncio.ensure_future(effects.perform("acme", f"collections/{name}", partial(change, name)))
            for name in ("one", "two")
        )
        await until(lambda: keeper.held == 2)
        one.cancel()
        await asyncio.wait([one])
        keeper.release()
        await two

    record = await as_a_call(recorder, work)
    await record.end(OK)
    await recorder.settled()
    assert done == ["two"]
    assert [list(event.changes) for event in keeper.events] == [[], [], ["collections/two"]]


async def test_what_no_call_asked_for_has_events_of_its_own() -> None:
    recorder, keeper = memory_recorder("ingestion")

    async def change() -> None:
        """Something happens."""

    await Effects(recorder).perform("acme", "collections/x", change)
    begun, ended = keeper.events
    assert (begun.principal, begun.tenant) == ("service:ingestion", "acme")
    assert list(ended.changes) == ["collections/x"]


async def test_every_change_of_a_catalog_is_recorded() -> None:
    methods = {name for name, _ in inspect.getmembers(Catalog, inspect.isfunction) if not name.startswith("_")}
    recorded_ones = {name for name in vars(RecordedCatalog) if not name.startswith("_")}
    assert methods == UNRECORDED | recorded_ones
    for name in recorded_ones:
        assert inspect.signature(getattr(RecordedCatalog, name)) == inspect.signature(getattr(Catalog, name))
    recorder, keeper = memory_recorder()
    catalog = recorded(MemoryCatalog(), Effects(recorder))
    collection = Collection("acme", "legal", "model", 3, None, None, _now())
    await catalog.create_collection(collection)
    with pytest.raises(AlreadyExists):
        await catalog.create_collection(collection)
    await catalog.update_collection(collection)
    assert not await catalog.mark_deleted("acme", "legal", "absent")
    await catalog.delete_collection("acme", "legal")
    assert await catalog.list_collections("acme") == []
    assert [list(event.changes) for event in keeper.events if event.stage == pb.STAGE_ENDED] == [
        ["collections/legal"],
        [],
        ["collections/legal"],
        [],
        ["collections/legal"],
    ]


def _now() -> Any:
    from datetime import UTC, datetime

    return datetime.now(UTC)


# --- failures ---


class Audit:
    """The way around the spool."""

    def __init__(self) -> None:
        self.received: list[pb.AuditEvent] = []
        self.hanging = False

    async def __call__(self, events: Sequence[bytes]) -> None:
        if self.hanging:
            await asyncio.Event().wait()
        self.received += [pb.AuditEvent.FromString(event) for event in events]


async def test_what_the_spool_cannot_keep_goes_to_the_audit_service() -> None:
    keeper, audit = MemoryKeeper(), Audit()
    recorder = Recorder("echo", keeper, audit)
    keeper.failure = Unavailable("the disk is full")
    record = await as_a_call(recorder, nothing)
    await record.end(OK)
    assert [event.code for event in audit.received] == [0]
    # Nothing is lost, and yet all is not well.
    assert recorder.failure is not None
    keeper.failure = None
    assert recorder.failure is None


async def test_a_change_that_the_audit_service_confirmed_is_closed_in_the_spool_too() -> None:
    keeper, audit = MemoryKeeper(), Audit()
    recorder = Recorder("echo", keeper, audit)

    async def change() -> None:
        keeper.failure = Unavailable("the disk is full")

    async def work() -> None:
        await Effects(recorder).perform("acme", "collections/x", change)

    record = await as_a_call(recorder, work)
    await record.end(OK)
    assert [list(event.changes) for event in audit.received] == [["collections/x"]]
    assert keeper.kinds == [Kind.OPENS]
    keeper.failure = None
    await until(lambda: recorder.failure is None)
    assert keeper.kinds == [Kind.OPENS, Kind.CLOSES]
    assert keeper.events[1] == audit.received[0]


async def test_a_caller_is_told_within_a_second_when_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "_DETOUR_PATIENCE", 0.01)
    keeper, audit = MemoryKeeper(), Audit()
    audit.hanging = True
    recorder = Recorder("echo", keeper, audit)
    keeper.failure = Unavailable("the disk is full")
    record = await as_a_call(recorder, nothing)
    with pytest.raises(Unavailable) as caught:
        await record.end(OK)
    assert (caught.value.reason, caught.value.retry_after) == ("AUDIT_UNAVAILABLE", 1.0)
    keeper.failure = None
    await until(lambda: recorder.failure is None)
    (event,) = keeper.events
    assert (event.code, event.reason) == (grpc.StatusCode.UNAVAILABLE.value[0], "AUDIT_UNAVAILABLE")


async def test_what_was_left_open_is_closed_as_interrupted() -> None:
    recorder, keeper = memory_recorder()

    async def never() -> None:
        """It would not be known whether this was done."""

    async def work() -> None:
        await Effects(recorder).perform("acme", "collections/x", never, document_ids=["d"])

    await as_a_call(recorder, work)
    begun = keeper.events[0]
    after = MemoryKeeper()
    after.left_open = {b"key": (begun.SerializeToString(),)}
    Recorder("echo", after).start()
    (event,) = after.events
    assert (event.event_id, event.stage, after.kinds) == ("key", pb.STAGE_INTERRUPTED, [Kind.CLOSES])
    assert (event.principal, event.resource) == ("user:alice", "collections/x")
    assert (list(event.changes), list(event.document_ids)) == ([], [])
    convert.read_event(event)


async def test_refusals_of_unknown_callers_leave_room_for_the_others() -> None:
    recorder, keeper = memory_recorder()
    keeper.fill = 0.6
    unknown = recorder.open(a_call(), ALWAYS).end(grpc.StatusCode.UNAUTHENTICATED)
    assert unknown is not None
    await unknown
    assert keeper.events == []
    record = await as_a_call(recorder, nothing)

    async def end() -> None:
        current.caller.set(ALICE)
        await record.end(OK)

    await asyncio.create_task(end())
    assert [event.principal for event in keeper.events] == ["user:alice"]


# --- what happens in worker threads ---


async def test_new_keys_are_announced_and_confirmed() -> None:
    recorder, keeper = memory_recorder()
    events = SecurityEvents()
    events.recorder = recorder
    stages: list[list[int]] = []

    def make() -> None:
        finish = events.announce_keys("acme")
        stages.append([event.stage for event in keeper.events])
        finish(True)

    async def work() -> None:
        await asyncio.to_thread(make)

    record = await as_a_call(recorder, work)
    await record.end(OK)
    await recorder.settled()
    assert stages == [[pb.STAGE_BEGUN]]
    assert [list(event.changes) for event in keeper.events] == [[], ["tenants/acme/keys"]]
    # Nobody asked for these.
    await asyncio.to_thread(make)
    await until(lambda: len(keeper.events) == 4)
    assert keeper.events[3].principal == "service:echo"
    assert list(keeper.events[3].changes) == ["tenants/acme/keys"]


async def test_no_keys_for_a_call_that_has_ended() -> None:
    recorder, keeper = memory_recorder()
    events = SecurityEvents()
    events.recorder = recorder

    async def work() -> None:
        record = current.record.get()
        await record.end(OK)
        with pytest.raises(GroundwireError):
            await asyncio.to_thread(events.announce_keys, "acme")

    await as_a_call(recorder, work)
    assert [event.stage for event in keeper.events] == [pb.STAGE_ENDED]


async def test_no_keys_without_a_record() -> None:
    recorder, keeper = memory_recorder()
    keeper.failure = Unavailable("the disk is full")
    events = SecurityEvents()
    events.recorder = recorder
    with pytest.raises(GroundwireError):
        await asyncio.to_thread(events.announce_keys, "acme")


async def test_a_refused_value_is_on_record() -> None:
    recorder, keeper = memory_recorder()
    events = SecurityEvents()
    events.refused(Refusal("acme", Place("d", 1, "text"), RefusedBecause.MOVED))  # nobody listens yet
    events.recorder = recorder

    async def work() -> None:
        refusal = Refusal("acme", Place("d", 1, "text"), RefusedBecause.MOVED)
        await asyncio.to_thread(events.refused, refusal)

    await as_a_call(recorder, work)
    await until(lambda: keeper.events)
    (event,) = keeper.events
    assert (event.tenant, event.principal, event.decision) == ("acme", "user:alice", pb.DECISION_DENIED)
    assert (event.reason, list(event.denied_document_ids)) == ("SEALED_VALUE_REFUSED: moved", ["d"])
    convert.read_event(event)


# --- what is kept of a query --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encrypted", [True, False])
async def test_nobody_compares_a_guess_with_what_the_log_keeps_of_a_query(tmp_path: Path, encrypted: bool) -> None:
    """Somebody who reads the log and may ask lets the mesh hash their guess, and the same query looks different (A6)."""
    process = Process()
    digest = await process.query_digest(Settings(data_dir=tmp_path, encryption=EncryptionOptions(enabled=encrypted)))
    kept = [await digest("acme", "salaries of 2026") for _ in range(50)]
    assert {len(one) for one in kept} == {32}
    # Neither half tells: the salts differ, and what is under them.
    assert len({one[:16] for one in kept}) == len({one[16:] for one in kept}) == 50
    await process.close()


def test_who_has_the_key_can_tell_whether_a_query_was_asked() -> None:
    """The salt stands in front, so that the hash can be made again (A6)."""
    kept = salted_hmac(b"key", b"a query", b"s" * 16)
    assert salted_hmac(b"key", b"a query", kept[:16]) == kept
    assert salted_hmac(b"key", b"another", kept[:16]) != kept
    assert salted_hmac(b"other", b"a query", kept[:16]) != kept
    assert kept[16:] == hmac.digest(b"key", b"s" * 16 + b"a query", "sha256")[:16]
