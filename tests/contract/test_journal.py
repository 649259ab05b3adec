"""The journal over every disk that there is: what was acknowledged is there, in order, and damage has a place."""

from __future__ import annotations

import asyncio
import errno
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from services.corpus.errors import FailedPrecondition, ResourceExhausted, Unavailable
from services.journal import journal as journal_module
from services.journal.files import DirectoryFiles
from services.journal.frames import FRAME_OVERHEAD, HEADER_SIZE, MAX_PAYLOAD, write_frames, write_header
from services.journal.journal import Journal
from services.journal.memory import MemoryFiles
from services.journal.ports import Files, replace
from services.journal.segments import CUT, DamagedJournalError, Trimmed, name_of, scan, segment_names
from tests.support.faulty_files import FaultyFiles

Disk = Callable[[], Files]


@pytest.fixture(params=["memory", "directory", "counting"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    """Opens one and the same disk, again and again."""
    memory = MemoryFiles()
    if request.param == "memory":
        return lambda: memory
    if request.param == "counting":
        return lambda: FaultyFiles(memory)
    return lambda: DirectoryFiles.open(tmp_path / "journal")


def numbered(first: int, count: int) -> list[bytes]:
    return [f"payload {n}".encode() * (1 + n % 3) for n in range(first, first + count)]


async def contents(journal: Journal, start: int = 0) -> list[tuple[int, bytes]]:
    return [pair async for pair in journal.read(start)]


async def reopened(disk: Disk, **options: int) -> tuple[Journal, list[tuple[int, bytes]]]:
    replayed: list[tuple[int, bytes]] = []
    journal = await Journal.open(disk(), replay=lambda n, payload: replayed.append((n, payload)), **options)
    return journal, replayed


def change(files: Files, name: str, content: bytes) -> None:
    handle = files.create(name)
    files.write(handle, content)
    files.datasync(handle)
    files.close(handle)


def whole(files: Files, name: str) -> bytes:
    return files.read(name, 0, files.size(name))


async def filled(disk: Disk, count: int = 10, *, segment_bytes: int = 1 << 20, each: int = 1) -> None:
    """A closed journal; ``each`` payloads in a write."""
    journal = await Journal.open(disk(), segment_bytes=segment_bytes)
    for first in range(0, count, each):
        await journal.append(numbered(first, each))
    await journal.close()


async def test_what_was_appended_is_there(disk: Disk) -> None:
    journal = await Journal.open(disk())
    assert (journal.first_sequence, journal.next_sequence, journal.trimmed) == (0, 0, None)
    assert await journal.append(numbered(0, 3)) == 0
    assert await journal.append(numbered(3, 1)) == 3
    assert await journal.append([]) == 4
    expected = list(enumerate(numbered(0, 4)))
    assert await contents(journal) == expected
    assert await contents(journal, 2) == expected[2:]
    assert await contents(journal, 4) == await contents(journal, 99) == []
    await journal.close()
    again, replayed = await reopened(disk)
    assert replayed == expected
    assert await again.append(numbered(4, 1)) == 4
    assert await contents(again) == list(enumerate(numbered(0, 5)))
    await again.close()


async def test_concurrent_appends_share_a_commit(disk: Disk) -> None:
    files = FaultyFiles(disk())
    journal = await Journal.open(files)
    await journal.append(numbered(0, 1))
    before = files.operations.count("datasync")
    firsts = await asyncio.gather(*(journal.append(numbered(2 * n + 1, 2)) for n in range(100)))
    assert firsts == [2 * n + 1 for n in range(100)], "in the order of the calls"
    assert files.operations.count("datasync") - before < 20
    assert await contents(journal) == list(enumerate(numbered(0, 201)))
    await journal.close()


async def test_segments_rotate_and_are_read_across(disk: Disk) -> None:
    await filled(disk, 300, segment_bytes=600)
    files = disk()
    assert len(segment_names(files)) > 10
    files.release()
    journal, replayed = await reopened(disk, segment_bytes=600)
    assert replayed == list(enumerate(numbered(0, 300)))
    for start in (0, 1, 63, 64, 65, 150, 299):
        assert await contents(journal, start) == replayed[start:]
    assert [n async for n, _ in journal.read(10, 20)] == list(range(10, 20))
    assert len(await journal.read_batch(5, 3)) == 3
    await journal.close()


async def test_large_payloads_are_read(disk: Disk) -> None:
    journal = await Journal.open(disk())
    payloads = [bytes([n]) * (300_000 + n) for n in range(4)]
    await journal.append(payloads)
    assert await contents(journal, 1) == list(enumerate(payloads))[1:]
    with pytest.raises(ValueError, match="at most"):
        await journal.append([bytes(MAX_PAYLOAD + 1)])
    assert await journal.append([b""]) == 4
    assert await contents(journal, 4) == [(4, b"")]
    await journal.close()


async def test_consumed_segments_are_removed(disk: Disk) -> None:
    journal = await Journal.open(disk(), segment_bytes=600)
    for n in range(100):
        await journal.append(numbered(n, 1))
    size = journal.size
    await journal.remove_before(50)
    assert 0 < journal.first_sequence <= 50
    assert journal.size < size
    first = journal.first_sequence
    assert await contents(journal) == list(enumerate(numbered(0, 100)))[first:]
    await journal.remove_before(100)
    assert (journal.first_sequence, journal.next_sequence) == (100, 100)
    assert await contents(journal) == []
    await journal.remove_before(100)
    await journal.close()
    again, replayed = await reopened(disk)
    assert (replayed, again.first_sequence, again.next_sequence) == ([], 100, 100)
    assert await again.append([b"on"]) == 100
    assert await contents(again) == [(100, b"on")]
    await again.close()


@pytest.mark.parametrize("cut", [1, 10, FRAME_OVERHEAD, FRAME_OVERHEAD + 5])
async def test_a_torn_tail_is_cut_off_and_reported(disk: Disk, cut: int) -> None:
    await filled(disk)
    files = disk()
    (name,) = segment_names(files)
    data = whole(files, name)
    change(files, name, data[:-cut])
    files.release()
    journal, replayed = await reopened(disk)
    assert replayed == list(enumerate(numbered(0, 9)))
    last = FRAME_OVERHEAD + len(numbered(9, 1)[0])
    expected = None if cut == last else Trimmed(name, len(data) - last, last - cut)
    assert journal.trimmed == expected
    assert await journal.append(numbered(9, 1)) == 9
    await journal.close()
    again, replayed = await reopened(disk)
    assert replayed == list(enumerate(numbered(0, 10)))
    assert again.trimmed is None
    await again.close()


@pytest.mark.parametrize("size", [0, 7, HEADER_SIZE - 1])
async def test_a_segment_that_was_never_begun_is_removed(disk: Disk, size: int) -> None:
    await filled(disk)
    files = disk()
    change(files, name_of(10), write_header(10)[:size])
    files.release()
    journal, replayed = await reopened(disk)
    assert journal.trimmed == Trimmed(name_of(10), 0, size)
    assert (len(replayed), await journal.append([b"x"])) == (10, 10)
    await journal.close()


async def test_a_first_segment_that_was_never_begun_is_removed(disk: Disk) -> None:
    files = disk()
    change(files, name_of(0), b"GW")
    files.release()
    journal = await Journal.open(disk())
    assert journal.trimmed == Trimmed(name_of(0), 0, 2)
    assert await journal.append([b"x"]) == 0
    await journal.close()


async def test_damage_is_refused_with_its_place(disk: Disk) -> None:
    await filled(disk, 10)
    files = disk()
    (name,) = segment_names(files)
    data = whole(files, name)
    third = data.index(b"payload 3") - FRAME_OVERHEAD
    for offset in (third, third + 5, third + 12, third + 22, third + FRAME_OVERHEAD + 2):
        change(files, name, data[:offset] + bytes([data[offset] ^ 1]) + data[offset + 1 :])
        with pytest.raises(DamagedJournalError) as caught:
            await Journal.open(files)
        assert (caught.value.file, caught.value.offset) == (name, third)
        files = disk()
    change(files, name, data[:3] + b"?" + data[4:])
    with pytest.raises(DamagedJournalError, match="header"):
        await Journal.open(files)


async def test_what_a_crash_cannot_explain_is_refused(disk: Disk) -> None:
    await filled(disk, 100, segment_bytes=600)
    files = disk()
    names = segment_names(files)
    kept = {name: whole(files, name) for name in names}

    async def refused(match: str) -> None:
        with pytest.raises(DamagedJournalError, match=match):
            await Journal.open(disk())
        for name, data in kept.items():
            change(files, name, data)

    files.release()
    files.remove(names[3])
    await refused("are missing")
    change(files, names[2], kept[names[2]][:-1])
    await refused("damaged")
    change(files, names[2], kept[names[3]])
    await refused("header")
    frame = kept[names[-1]][HEADER_SIZE:]
    change(files, names[-1], kept[names[-1]] + frame)
    await refused("damaged")
    change(files, "x.segment", kept[names[0]])
    with pytest.raises(DamagedJournalError):
        await Journal.open(disk())
    files.remove("x.segment")
    journal, replayed = await reopened(disk)
    assert replayed == list(enumerate(numbered(0, 100)))
    await journal.close()


async def test_the_last_write_of_several_frames_may_be_torn_in_the_middle(disk: Disk) -> None:
    await filled(disk, 9, each=3)
    files = disk()
    (name,) = segment_names(files)
    data = whole(files, name)
    seventh = data.index(b"payload 7")
    change(files, name, data[:seventh] + bytes(4) + data[seventh + 4 :])
    files.release()
    journal, replayed = await reopened(disk)
    assert len(replayed) == 7, "frame 8 is whole, but was on its way with 7"
    assert journal.trimmed is not None
    await journal.close()


async def test_what_is_covered_must_be_there(disk: Disk) -> None:
    await filled(disk)
    journal, _ = await reopened(disk, covered=10)
    await journal.close()
    with pytest.raises(DamagedJournalError, match="frames 10 to 10 are missing"):
        await Journal.open(disk(), covered=11)
    files = disk()
    (name,) = segment_names(files)
    change(files, name, whole(files, name)[:-1])
    files.release()
    with pytest.raises(DamagedJournalError, match="frame 9 is damaged"):
        await Journal.open(disk(), covered=10)
    files = disk()
    files.remove(name)
    files.release()
    with pytest.raises(DamagedJournalError, match="missing"):
        await Journal.open(disk(), covered=10)


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("operation", ["write", "datasync"])
async def test_a_failure_closes_it_for_everybody_until_it_is_reopened(disk: Disk, code: int, operation: str) -> None:
    files = FaultyFiles(disk())
    journal = await Journal.open(files)
    await journal.append(numbered(0, 2))
    at = len(files.operations) + (0 if operation == "write" else 1)
    files._fail_at, files._code = at, code
    outcomes = await asyncio.gather(*(journal.append([b"lost"]) for _ in range(50)), return_exceptions=True)
    assert all(isinstance(outcome, Unavailable) for outcome in outcomes)
    assert files.operations[at:] == [operation], "nothing was tried again"
    assert "journal cannot be written" in str(journal.failure)
    with pytest.raises(Unavailable):
        await journal.append([b"refused"])
    with pytest.raises(Unavailable):
        await journal.remove_before(1)
    assert await contents(journal) == list(enumerate(numbered(0, 2))), "what is durable stays readable"
    await journal.reopen()
    assert not journal.failure
    assert await journal.append(numbered(2, 1)) == 2
    await journal.close()
    again, replayed = await reopened(disk)
    assert replayed == list(enumerate(numbered(0, 3)))
    await again.close()


async def test_reopening_fails_until_the_disk_is_well(disk: Disk) -> None:
    files = FaultyFiles(disk(), times=0)
    journal = await Journal.open(files)
    files._fail_at, files._times = len(files.operations), 1000
    with pytest.raises(Unavailable):
        await journal.append([b"lost"])
    for _ in range(3):
        with pytest.raises(Unavailable):
            await journal.reopen()
    files._times = 0
    await journal.reopen()
    await journal.reopen()
    assert await journal.append([b"kept"]) == 0
    assert await contents(journal) == [(0, b"kept")]
    await journal.close()


async def test_reopening_reads_back_what_was_durable(tmp_path: Path) -> None:
    disk = MemoryFiles()
    files = FaultyFiles(disk)
    journal = await Journal.open(files)
    await journal.append(numbered(0, 3))
    files._fail_at = len(files.operations)
    with pytest.raises(Unavailable):
        await journal.append([b"lost"])
    disk.flip(name_of(0), HEADER_SIZE + FRAME_OVERHEAD + 2)
    with pytest.raises(DamagedJournalError):
        await journal.reopen()
    with pytest.raises(Unavailable):
        await journal.append([b"refused"])
    await journal.close()


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
async def test_a_fault_at_every_operation_loses_nothing_acknowledged(code: int) -> None:
    chance = random.Random(7)
    at = 0
    while True:
        disk = MemoryFiles()
        files = FaultyFiles(disk, fail_at=at, code=code, times=1 + at % 3)
        acknowledged: dict[int, bytes] = {}
        for life in range(3):
            try:
                journal = await Journal.open(files, segment_bytes=300)
            except Unavailable:
                disk.crash(chance)
                continue
            for step in range(8):
                payloads = [f"{life} {step} {n}".encode() for n in range(1 + step % 3)]
                try:
                    first = await journal.append(payloads)
                except Unavailable:
                    try:
                        await journal.reopen()
                    except Unavailable:
                        continue
                else:
                    acknowledged.update(enumerate(payloads, start=first))
            if life % 2:
                await journal.close()
            else:
                journal._thread.shutdown()
            disk.crash(chance)
        journal = await Journal.open(disk)
        found = dict(await contents(journal))
        await journal.close()
        assert acknowledged.items() <= found.items(), (at, files.operations[at : at + 3])
        if not files.failed:
            break
        at += 1
    assert at > 60, "the sweep went over every operation of three lives"


async def test_crashes_lose_nothing_acknowledged() -> None:
    for seed in range(100):
        chance = random.Random(seed)
        disk = MemoryFiles()
        acknowledged: dict[int, bytes] = {}
        for life in range(4):
            journal = await Journal.open(disk, segment_bytes=400)
            assert acknowledged.items() <= dict(await contents(journal)).items()
            for step in range(chance.randint(0, 6)):
                payload = b"%d %d" % (life, step)
                acknowledged[await journal.append([payload])] = payload
            journal._thread.shutdown()
            # What was written and not synced when the power went.
            if journal._segments._handle is not None:
                torn, _ = write_frames(journal.next_sequence, [b"never", b"acknowledged"])
                disk.write(journal._segments._handle, torn[: chance.randint(0, len(torn))])
            disk.crash(chance)


async def test_a_caller_who_leaves_harms_nobody(disk: Disk) -> None:
    journal = await Journal.open(disk())
    tasks = [asyncio.create_task(journal.append([b"%d" % n])) for n in range(10)]
    await asyncio.sleep(0)
    tasks[3].cancel()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(done[3], asyncio.CancelledError)
    assert [n for n, payload in await contents(journal) if payload != b"%d" % n] == []
    assert journal.next_sequence == 10
    await journal.close()


async def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "_PENDING_BYTES", 100)
    journal = await Journal.open(MemoryFiles())
    pending = [journal.submit([bytes(90)])]
    with pytest.raises(ResourceExhausted):
        journal.submit([bytes(90)])
    await asyncio.gather(*pending)
    assert await journal.append([bytes(500)]) == 1, "alone, any payload fits"
    await journal.close()


async def test_closing_finishes_what_waits(disk: Disk) -> None:
    journal = await Journal.open(disk())
    pending = [journal.submit([b"%d" % n]) for n in range(20)]
    await journal.close()
    await journal.close()
    assert await asyncio.gather(*pending) == list(range(20))
    with pytest.raises(Unavailable):
        await journal.append([b"late"])
    with pytest.raises(Unavailable):
        await journal.reopen()
    again, replayed = await reopened(disk)
    assert len(replayed) == 20
    await again.close()


async def test_one_process_at_a_time(tmp_path: Path) -> None:
    first = DirectoryFiles.open(tmp_path / "journal")
    with pytest.raises(FailedPrecondition):
        DirectoryFiles.open(tmp_path / "journal")
    first.release()
    first.release()
    DirectoryFiles.open(tmp_path / "journal").release()
    assert (tmp_path / "journal").stat().st_mode & 0o777 == 0o700


async def test_files_are_their_owners_alone(tmp_path: Path) -> None:
    await filled(lambda: DirectoryFiles.open(tmp_path / "journal"))
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "journal").iterdir()} == {0o600}


def test_a_file_is_replaced_in_one_step(disk: Disk) -> None:
    files = disk()
    replace(files, "state", b"one")
    replace(files, "state", b"two")
    assert whole(files, "state") == b"two"
    assert list(files.names()) == ["state"]
    files.release()


async def test_a_segment_is_scanned_for_verification(disk: Disk) -> None:
    await filled(disk)
    files = disk()
    (name,) = segment_names(files)
    data = whole(files, name)
    assert [(n, payload) for _, n, payload in scan(files, name)] == list(enumerate(numbered(0, 10)))
    change(files, name, data[:-1])
    with pytest.raises(DamagedJournalError) as caught:
        list(scan(files, name))
    assert caught.value.what == CUT
    for content, what in (
        (data + data[HEADER_SIZE:], "stands where"),
        (data + b"rubbish, and enough of it for a frame", "damaged"),
        (b"?" + data[1:], "header"),
    ):
        change(files, name, content)
        with pytest.raises(DamagedJournalError, match=what):
            list(scan(files, name))
    files.release()


async def test_what_a_killed_process_left_is_durable_once_it_was_read() -> None:
    disk = MemoryFiles()
    handle = disk.create(name_of(0))
    disk.write(handle, write_header(0) + write_frames(0, [b"left"])[0])
    (await Journal.open(disk))._thread.shutdown()
    disk.crash()
    assert await contents(await Journal.open(disk)) == [(0, b"left")]
