"""The log: durable before it is acknowledged, repeatable, covered by checkpoints, and refused when it is damaged."""

from __future__ import annotations

import asyncio
import errno
import random
from collections.abc import Callable, Sequence

import pytest

from services.audit import search
from services.audit.adapters.memory import LocalWitness
from services.audit.checkpointing import Checkpointing, WitnessKey
from services.audit.event import Decision, Stage, encode
from services.audit.log import AuditLog, LoggedEvent
from services.audit.merkle import hash_leaf, verify_consistency, verify_inclusion
from services.audit.note import Algorithm, Note, Signer
from services.audit.ports import CheckpointRefused
from services.audit.search import EventFilter
from services.corpus.errors import DataLoss, InvalidRequest, NotFound, Unavailable
from services.journal.frames import HEADER_SIZE
from services.journal.memory import MemoryFiles
from services.journal.segments import name_of
from tests.support.audit_world import LOG, WITNESS, World, cosign, event
from tests.support.faulty_files import FaultyFiles


def signed_by_witness(log: AuditLog) -> bool:
    return log.last is not None and log.last.note.signed_by(WITNESS.verifier) is not None


async def filled(world: World, count: int = 20) -> AuditLog:
    log = await world.open()
    await log.append([event(n) for n in range(count)])
    return log


async def test_events_get_their_places_and_come_back() -> None:
    world = World()
    log = await filled(world)
    assert await log.append([event(20), event(21)]) == [20, 21]
    assert [logged.event for logged in await log.read(range(22))] == [event(n) for n in range(22)]
    assert [logged.index for logged in await log.read([3, 4, 19])] == [3, 4, 19]
    assert (await log.read([7]))[0].leaf_hash == hash_leaf(encode(event(7)))
    await log.close()
    again = await world.open()
    assert again.size == again.covered == 22
    assert await again.append([event(22)]) == [22]
    await again.close()
    assert world.verify().intact


async def test_repeating_an_event_changes_nothing() -> None:
    world = World()
    log = await filled(world, 5)
    assert await log.append([event(3), event(5), event(5), event(0)]) == [3, 5, 5, 0]
    assert log.size == 6
    together = await asyncio.gather(*(log.append([event(7), event(8)]) for _ in range(20)))
    assert together == [[6, 7]] * 20
    await log.close()
    again = await world.open()
    assert await again.append([event(7)]) == [6], "known again after a restart"
    await again.close()
    few = await world.open(remembered=2)
    assert await few.append([event(8), event(0)]) == [7, 8], "the last two are remembered, the first was not"
    await few.close()


async def test_an_id_that_was_written_ahead_takes_no_event_out_of_the_log() -> None:
    """The real event is on record under an id of its own, whenever it comes and however often (B3)."""
    world = World()
    log = await world.open()
    ahead = [event(n, principal="user:mallory") for n in range(6)]
    await log.append(ahead[:4])
    together = asyncio.gather(log.append(ahead[4:]), log.append([event(4)]))  # while the first is on its way
    await together
    places = await log.append([event(n) for n in range(6)])
    assert len(set(places)) == 6
    assert await log.append([event(n) for n in range(6)]) == places
    assert await log.append(ahead) == list(range(6))
    size = log.size
    await log.close()
    log = await world.open()
    assert await log.append([event(n) for n in range(6)]) == places
    assert log.size == size == 12
    for logged, meant in zip(await log.read(sorted(places)), sorted(range(6), key=places.__getitem__), strict=True):
        assert logged.event.event_id.startswith(f"event-{meant}.other-")
        assert logged.event.reason == "EVENT_ID_REPEATED"
        assert logged.event.document_ids == event(meant).document_ids
    await log.close()


async def test_an_end_that_is_known_is_not_called_interrupted() -> None:
    log = await (world := World()).open()
    await log.append([event(0)])
    assert await log.append([event(0, stage=Stage.INTERRUPTED, reason="SERVICE_ENDED")]) == [0]
    assert log.size == 1
    await log.close()
    assert world.verify().intact


async def test_proofs_are_those_of_the_checkpoint() -> None:
    world = World()
    log = await filled(world)
    first = await log.sign()
    await log.append([event(n) for n in range(20, 33)])
    second = await log.sign()
    assert first
    assert second
    assert (first.checkpoint.size, second.checkpoint.size) == (20, 33)
    assert await log.sign() is second, "nothing new"
    leaf_hash, proof, size = log.inclusion_proof(4, None)
    assert verify_inclusion(leaf_hash, 4, size, proof, second.checkpoint.root)
    proof, size = log.consistency_proof(20, None)
    assert verify_consistency(20, size, proof, first.checkpoint.root, second.checkpoint.root)
    for index, of in ((33, None), (20, 20), (0, 34), (-1, None)):
        with pytest.raises(NotFound):
            log.inclusion_proof(index, of)
    for one, two in ((34, None), (5, 4), (1, 34)):
        with pytest.raises(NotFound):
            log.consistency_proof(one, two)
    await log.close()


async def test_a_torn_tail_behind_the_checkpoint_is_cut_and_nothing_below_it() -> None:
    world = World()
    log = await filled(world)
    await log.sign()
    await log.append([event(20)])
    # A power failure: the last frame was acknowledged and is there; what follows was not.
    log._journal._thread.shutdown()
    handle = world.events.append_to(name_of(0))
    world.events.write(handle, b"\xa9GWF torn")
    size = world.events.size(name_of(0))
    again = await world.open()
    assert (again.size, [cut.size for cut in again.trimmed]) == (21, [9])
    await again.close()
    world.events.truncate(name_of(0), size - 60)
    with pytest.raises(DataLoss, match="damaged"):
        await world.open()


async def test_damage_refuses_the_start_and_says_where() -> None:
    world = World()
    await (await filled(world)).close()
    world.events.flip(name_of(0), HEADER_SIZE + 100)
    with pytest.raises(DataLoss, match=r"byte 20: frame 0 is damaged"):
        await world.open()
    world.events.flip(name_of(0), HEADER_SIZE + 100)
    log = await world.open()
    await log.append([event(20)])
    await log.close()
    world.checkpoints.flip(name_of(0), HEADER_SIZE + 100)
    with pytest.raises(DataLoss, match="later ones are whole"):
        await world.open()
    world.checkpoints.flip(name_of(0), HEADER_SIZE + 100)
    with pytest.raises(DataLoss, match="checkpoint 0 is damaged"):
        await world.open(Signer("groundwire.test/audit", Algorithm.ED25519, bytes(32)))


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
async def test_a_fault_at_every_operation_of_the_log_loses_nothing(code: int) -> None:
    chance = random.Random(3)
    at = 0
    while True:
        world = World()
        events, checkpoints = FaultyFiles(world.events, code=code), FaultyFiles(world.checkpoints, code=code)
        faulty = (events, checkpoints)[at % 2]
        faulty._fail_at, faulty._times = at // 2, 1 + at % 3
        acknowledged: dict[str, int] = {}
        for life in range(2):
            try:
                log = await AuditLog.open(events, checkpoints, LOG)
            except Unavailable:
                continue
            for step in range(4):
                batch = [event(100 * life + 10 * step + n) for n in range(1 + step % 3)]
                try:
                    indexes = await log.append(batch)
                    acknowledged |= {one.event_id: index for one, index in zip(batch, indexes, strict=True)}
                    await log.sign()
                except Unavailable:
                    try:
                        await log.repair()
                    except Unavailable:
                        continue
            log._journal._thread.shutdown()
            log._checkpoints._thread.shutdown()
            world.events.crash(chance)
            world.checkpoints.crash(chance)
        log = await world.open()
        found = {logged.event.event_id: logged.index for logged in await log.read(range(log.size))}
        await log.close()
        assert acknowledged.items() <= found.items(), at
        report = world.verify()
        assert report.intact, (at, report.problems)
        if not events.failed and not checkpoints.failed and at > 20:
            break
        at += 1
    assert at > 30


async def test_after_a_failure_events_can_be_repeated() -> None:
    world = World()
    events = FaultyFiles(world.events)
    log = await AuditLog.open(events, world.checkpoints, LOG)
    await log.append([event(0)])
    events._fail_at = len(events.operations) + 1
    outcomes = await asyncio.gather(*(log.append([event(n)]) for n in (1, 2, 1)), return_exceptions=True)
    assert all(isinstance(outcome, Unavailable) for outcome in outcomes)
    with pytest.raises(Unavailable):
        await log.append([event(3)])
    assert log.failure is not None
    await log.repair()
    assert await log.append([event(2), event(1), event(3)]) == [1, 2, 3]
    await log.close()
    assert world.verify().intact


async def test_each_tenant_finds_its_own() -> None:
    world = World()
    log = await world.open()
    await log.append(
        [
            event(
                n,
                tenant="ab"[n % 2],
                principal=f"user:{n % 3}",
                decision=Decision.DENIED if n % 5 == 0 else Decision.ALLOWED,
            )
            for n in range(60)
        ]
    )

    async def found(tenant: str, **wanted: object) -> list[int]:
        indexes: list[int] = []
        start: int | None = 0
        while start is not None:
            page = await search.find(log, tenant, EventFilter(**wanted), start=start, limit=7)  # type: ignore[arg-type] # as given
            indexes += [logged.index for logged in page.events]
            start = page.next_index
        return indexes

    assert await found("a") == list(range(0, 60, 2))
    assert await found("b") == list(range(1, 60, 2))
    assert await found("c") == []
    assert await found("a", principal="user:0") == list(range(0, 60, 6))
    assert await found("a", decision=Decision.DENIED) == list(range(0, 60, 10))
    assert await found("b", document_id="doc-7") == [7]
    assert await found("a", document_id="doc-7") == []
    assert await found("b", request_id="request-9") == [9]
    assert await found("a", start_time=event(10).time, end_time=event(20).time) == [10, 12, 14, 16, 18]
    assert await found("a", method="/other") == []
    await log.close()


async def test_the_newest_come_first_where_that_is_asked_for() -> None:
    log = await World().open()
    await log.append([event(n, tenant="ab"[n % 2], principal=f"user:{n % 3}") for n in range(60)])

    async def found(limit: int, **wanted: object) -> list[int]:
        indexes: list[int] = []
        start: int | None = None
        while True:
            page = await search.find(log, "a", EventFilter(**wanted), start=start, limit=limit, newest_first=True)  # type: ignore[arg-type] # as given
            indexes += [logged.index for logged in page.events]
            if page.next_index is None:
                return indexes
            start = page.next_index
            # What is written meanwhile is newer than what is still to come.
            await log.append([event(1000 + len(indexes), tenant="a", principal="user:0")])

    assert await found(100) == list(range(58, -1, -2))
    assert await found(7, end_time=event(60).time) == list(range(58, -1, -2))
    assert await found(3, principal="user:0", end_time=event(60).time) == list(range(54, -1, -6))
    assert await found(4, start_time=event(10).time, end_time=event(20).time) == [18, 16, 14, 12, 10]
    assert await found(5, request_id="request-7") == []
    await log.close()


@pytest.mark.parametrize("newest_first", [False, True])
async def test_the_newest_are_found_without_reading_the_rest(
    monkeypatch: pytest.MonkeyPatch, newest_first: bool
) -> None:
    log = await World().open()
    # Written in about the order of their times: one that waited in a spool is written last.
    late = event(300, time=event(5).time)
    await log.append([*(event(n) for n in range(300)), late])
    read: list[int] = []
    reading = log.read

    async def noted(indexes: Sequence[int]) -> list[LoggedEvent]:
        read.extend(indexes)
        return await reading(indexes)

    monkeypatch.setattr(log, "read", noted)
    page = await search.find(log, "default", EventFilter(), start=None, limit=3, newest_first=newest_first)
    assert [logged.index for logged in page.events] == ([300, 299, 298] if newest_first else [0, 1, 2])
    assert sorted(read) == sorted(logged.index for logged in page.events)
    read.clear()
    since = EventFilter(start_time=event(290).time)
    page = await search.find(log, "default", since, start=None, limit=100, newest_first=newest_first)
    assert sorted(logged.index for logged in page.events) == list(range(290, 300))
    assert sorted(read) == list(range(290, 301)), "nothing before the time is read, and the late one is no exception"
    early = EventFilter(start_time=event(5).time, request_id="request-300")
    page = await search.find(log, "default", early, start=None, limit=100, newest_first=newest_first)
    assert [logged.index for logged in page.events] == [300]
    for beyond in (event(301).time, 2**70):
        page = await search.find(log, "default", EventFilter(start_time=beyond), start=None, limit=9)
        assert (page.events, page.next_index) == ((), None)
    await log.close()


async def test_a_page_reads_a_bounded_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "MAX_SCANNED", 10)
    log = await filled(World(), 40)
    page = await search.find(log, "default", EventFilter(request_id="request-35"), start=0, limit=5)
    assert (page.events, page.next_index) == ((), 10)
    wanted = EventFilter(request_id="request-5")
    page = await search.find(log, "default", wanted, start=None, limit=5, newest_first=True)
    assert (page.events, page.next_index) == ((), 29)
    page = await search.find(log, "default", wanted, start=9, limit=5, newest_first=True)
    assert ([logged.index for logged in page.events], page.next_index) == ([5], None)
    page = await search.find(log, "default", EventFilter(request_id="request-35"), start=30, limit=5)
    assert ([logged.index for logged in page.events], page.next_index) == ([35], None)
    await log.close()


async def test_a_watch_sees_what_is_written() -> None:
    log = await filled(World(), 3)
    watching = search.watch(log, "default", EventFilter(), start=1)
    assert [(await anext(watching)).index for _ in range(2)] == [1, 2]
    waiting = asyncio.ensure_future(anext(watching))
    await asyncio.sleep(0)
    await log.append([event(3, tenant="other"), event(4)])
    assert (await waiting).index == 4
    await log.close()


# --- the witness ----------------------------------------------------------------------------------------------------


async def test_the_witness_signs_what_continues_what_it_saw() -> None:
    world = World()
    log = await filled(world)
    witness = world.witness()
    for size in (20, 25, 25, 31):
        await log.append([event(n) for n in range(20, size)])
        await log.sign()
        await cosign(log, witness)
        assert log.last
        assert log.last.note.signed_by(WITNESS.verifier)
        witness = world.witness()  # it remembers
        assert witness.last
        assert witness.last[1].size == size
    await log.close()
    report = world.verify(str(witness.last[0] if witness.last else ""))
    assert (report.intact, report.cosigned, report.notes) == (True, 3, [])


async def test_the_witness_refuses_forks_and_rollbacks_even_with_the_logs_key() -> None:
    world, fork = World(), World()
    log = await filled(world)
    await log.sign()
    witness = world.witness()
    await cosign(log, witness)
    before = witness.last
    other = await fork.open()
    await other.append([event(n, principal="user:mallory" if n == 7 else "user:alice") for n in range(25)])
    forked = await other.sign()
    assert forked
    assert log.last
    proof = other.consistency_proof(20, 25)[0]
    for old_size, hashes, note, match in (
        (20, proof, str(forked.note), "does not continue"),
        (20, [], str(forked.note), "does not continue"),
        (0, [], str(forked.note), "seen last has 20"),
        (19, [], str(log.last.note), "seen last has 20"),
    ):
        with pytest.raises(CheckpointRefused, match=match) as caught:
            witness.cosign(old_size, hashes, note)
        assert caught.value.witnessed_size == 20
    short = await filled(World(), 12)
    rolled_back = await short.sign()
    assert rolled_back
    with pytest.raises(CheckpointRefused, match="rolled back"):
        witness.cosign(20, [], str(rolled_back.note))
    stranger = Signer("groundwire.test/audit", Algorithm.ED25519, bytes(32))
    body = log.last.note.body
    with pytest.raises(InvalidRequest):
        witness.cosign(20, [], str(Note(body, ()).with_line(stranger.sign(body))))
    with pytest.raises(InvalidRequest):
        witness.cosign(20, [], "rubbish")
    assert witness.last == before
    again = world.witness().last
    assert again
    assert before
    assert str(again[0]) == str(before[0])


async def test_what_the_witness_cannot_remember_it_does_not_sign() -> None:
    world = World()
    log = await filled(world)
    await log.sign()
    count = 0
    while True:
        files = FaultyFiles(MemoryFiles(), fail_at=count)
        from services.audit.witness.witness import CheckpointWitness

        witness = CheckpointWitness(files, WITNESS, lambda: LOG.verifier)
        try:
            await cosign(log, witness)
        except Unavailable:
            assert witness.last is None
        else:
            break
        count += 1
    assert count == 5, "create, write, sync, rename, sync of the directory"
    await log.close()


async def test_a_witness_whose_memory_was_changed_does_not_start() -> None:
    world = World()
    log = await filled(world)
    await log.sign()
    await cosign(log, world.witness())
    world.remembered.flip("last-checkpoint", 30)
    with pytest.raises(DataLoss):
        world.witness()
    await log.close()


async def test_the_log_goes_on_without_its_witness_and_catches_up() -> None:
    world = World()
    log = await filled(world)
    witness = LocalWitness(world.witness())
    witness.away = True
    checkpointing = Checkpointing(log, witness, WitnessKey(WITNESS.verifier), interval=0.01, witness_interval=0.01)
    checkpointing.start()

    async def until(condition: Callable[[], bool]) -> None:
        while not condition():
            await asyncio.sleep(0.005)

    await until(lambda: log.covered == 20)
    assert log.last
    assert log.last.note.signed_by(WITNESS.verifier) is None
    assert checkpointing.refused is None
    await log.append([event(20)])
    witness.away = False
    await until(lambda: log.covered == 21 and signed_by_witness(log))
    await log.append([event(21)])
    # The witness has this long for the last one, which on a busy machine would be too short.
    checkpointing._interval = 60.0
    await checkpointing.close()
    assert log.covered == 22
    assert log.last.note.signed_by(WITNESS.verifier)
    await log.close()


async def test_a_log_that_was_rolled_back_learns_it_from_the_witness() -> None:
    world, past = World(), World()
    log = await filled(world)
    await log.sign()
    witness = world.witness()
    await cosign(log, witness)
    rolled_back = await filled(past, 12)
    checkpointing = Checkpointing(
        rolled_back, LocalWitness(witness), WitnessKey(WITNESS.verifier), interval=0.01, witness_interval=0.01
    )
    checkpointing.start()
    while checkpointing.refused is None:
        await asyncio.sleep(0.005)
    await rolled_back.append([event(n + 500) for n in range(30)])
    while rolled_back.covered < 42:
        await asyncio.sleep(0.005)
    await checkpointing.close()
    assert checkpointing.refused is not None, "a longer log does not hide it"
    assert rolled_back.last
    assert rolled_back.last.note.signed_by(WITNESS.verifier) is None
    await rolled_back.close()
    await log.close()


async def test_a_full_disk_is_survived_without_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.audit.checkpointing._REPAIR_INTERVAL", 0.01)
    world = World()
    events = FaultyFiles(world.events, code=errno.ENOSPC)
    log = await AuditLog.open(events, world.checkpoints, LOG)
    checkpointing = Checkpointing(log, None, WitnessKey(), interval=0.01)
    checkpointing.start()
    await log.append([event(0)])
    events._fail_at, events._times = len(events.operations), 4
    with pytest.raises(Unavailable):
        await log.append([event(1)])
    while log.failure is not None:
        await asyncio.sleep(0.005)
    assert await log.append([event(1)]) == [1]
    await checkpointing.close()
    await log.close()
    assert world.verify().intact
