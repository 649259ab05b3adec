"""Several processes of one service: each has a spool of its own, and whoever lives takes up what others left."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from services.corpus.errors import DataLoss, FailedPrecondition, Unavailable
from services.journal import leftovers as leftovers_module
from services.journal.files import DirectoryFiles
from services.journal.leftovers import Leftovers
from services.journal.slots import claim, slots
from tests.support.processes import ROOT
from tests.support.serving import until
from tests.support.spools import leave

NAME = "retrieval"


class Receiver:
    """Remembers every payload each time that it comes; away when it is told to be."""

    def __init__(self) -> None:
        self.away = False
        self.received: list[bytes] = []

    async def __call__(self, payloads: Sequence[bytes]) -> None:
        if self.away:
            raise Unavailable("away")
        await asyncio.sleep(0)
        self.received += payloads


def closing(key: bytes, opened: Sequence[bytes]) -> bytes:
    return b"interrupted %b after %d" % (key, len(opened))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause that a test would wait for."""
    monkeypatch.setattr(leftovers_module, "_PAUSE", 0.001)


@asynccontextmanager
async def looking(directory: Path, receiver: Receiver) -> AsyncIterator[Leftovers]:
    found = Leftovers(partial(slots, directory, NAME), receiver, closing, interval=0.001)
    found.start()
    try:
        yield found
    finally:
        await found.close()


async def left(directory: Path, *payloads: bytes, still_open: Sequence[bytes] = (), slot: str = NAME) -> None:
    await leave(directory / slot, *payloads, still_open=still_open)


def numbered(count: int, who: str = "") -> list[bytes]:
    return [f"{who}{n}".encode() for n in range(count)]


# --- slots ----------------------------------------------------------------------------------------------------------


def test_each_process_has_the_lowest_slot_that_nobody_has(tmp_path: Path) -> None:
    first, second, third = (claim(tmp_path, NAME) for _ in range(3))
    assert [files.directory.name for files in (first, second, third)] == [NAME, f"{NAME}.2", f"{NAME}.3"]
    second.release()
    again = claim(tmp_path, NAME)
    assert again.directory.name == f"{NAME}.2"
    for files in (first, third, again):
        files.release()


def test_slots_are_those_of_one_service(tmp_path: Path) -> None:
    for name in ("retrieval.2", "retrieval", "retrieval.10", "retrieval.x", "generation.2", "retrieval-2", "command-1"):
        (tmp_path / name).mkdir()
    (tmp_path / "retrieval.3").write_text("no directory")
    assert {path.name for path in slots(tmp_path, NAME)} == {"retrieval", "retrieval.2", "retrieval.10"}
    assert slots(tmp_path / "missing", NAME) == []


def test_a_file_system_that_cannot_lock_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_file: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr("services.journal.files.fcntl.flock", refuse)
    monkeypatch.setattr("services.journal.slots._MOST", 5)
    with pytest.raises(FailedPrecondition, match="can be locked"):
        claim(tmp_path, NAME)


def test_the_end_of_a_process_gives_its_slot_back(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from services.journal.slots import claim\n"
        f"files = claim(Path(sys.argv[1]), {NAME!r}); print(files.directory.name, flush=True); sys.stdin.read()"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path)],
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'generated'}"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    try:
        names = [process.stdout.readline().strip() for process in processes if process.stdout]
        assert sorted(names) == [NAME, f"{NAME}.2", f"{NAME}.3"]
        place = names.index(f"{NAME}.2")
        processes[place].kill()
        processes[place].wait()
        files = claim(tmp_path, NAME)
        assert files.directory.name == f"{NAME}.2"
        files.release()
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_a_directory_that_is_removed_while_it_is_taken_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = DirectoryFiles.open(tmp_path / NAME)
    opened = os.open

    def slowly(path: Path, *arguments: int) -> int:
        descriptor = opened(path, *arguments)
        if Path(path).name == "lock":
            monkeypatch.undo()
            first.discard()  # whoever had it removes it, and the lock that was just opened with it
        return descriptor

    monkeypatch.setattr(os, "open", slowly)
    second = DirectoryFiles.open(tmp_path / NAME)
    with pytest.raises(FailedPrecondition, match="in use"):
        DirectoryFiles.open(tmp_path / NAME)
    second.release()


def test_a_directory_that_is_made_is_its_makers_from_its_first_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Path.mkdir

    def seen_at_once(path: Path, *arguments: object, **options: object) -> None:
        made(path, *arguments, **options)  # type: ignore[arg-type]
        taken.extend(DirectoryFiles.open_left(found) for found in tmp_path.glob(f"{NAME}*"))

    taken: list[DirectoryFiles] = []
    monkeypatch.setattr(Path, "mkdir", seen_at_once)
    DirectoryFiles.open(tmp_path / NAME).release()
    assert (taken, [path.name for path in tmp_path.iterdir()]) == ([], [NAME])


def test_a_directory_that_two_processes_make_is_the_firsts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Path.mkdir
    first: list[DirectoryFiles] = []

    def overtaken(path: Path, *arguments: object, **options: object) -> None:
        made(path, *arguments, **options)  # type: ignore[arg-type]
        if path.parent == tmp_path:
            monkeypatch.undo()
            first.append(DirectoryFiles.open(tmp_path / NAME))

    monkeypatch.setattr(Path, "mkdir", overtaken)
    with pytest.raises(FailedPrecondition, match="in use"):
        DirectoryFiles.open(tmp_path / NAME)
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    first[0].release()


# --- what others left -----------------------------------------------------------------------------------------------


async def test_what_an_ended_process_left_is_handed_on_in_order_and_removed(tmp_path: Path) -> None:
    await left(tmp_path, *numbered(3000), still_open=[b"a", b"b"], slot=f"{NAME}.2")
    receiver = Receiver()
    mine = claim(tmp_path, NAME)
    async with looking(tmp_path, receiver):
        await until(lambda: not (tmp_path / f"{NAME}.2").exists())
    assert receiver.received == [b"open a", b"open b", *numbered(3000), *(closing(key, [b""]) for key in (b"a", b"b"))]
    assert (tmp_path / NAME).exists()
    mine.release()


async def test_a_slot_that_somebody_has_is_left_alone(tmp_path: Path) -> None:
    await left(tmp_path, b"mine", slot=f"{NAME}.2")
    theirs = DirectoryFiles.open(tmp_path / f"{NAME}.2")
    receiver = Receiver()
    async with looking(tmp_path, receiver):
        await left(tmp_path, b"left", slot=f"{NAME}.3")
        await until(lambda: not (tmp_path / f"{NAME}.3").exists())
        assert receiver.received == [b"left"]
        theirs.release()  # and now its process is gone, too
        await until(lambda: not (tmp_path / f"{NAME}.2").exists())
    assert receiver.received == [b"left", b"mine"]


async def test_many_who_look_deliver_everything_once(tmp_path: Path) -> None:
    for number in range(2, 12):
        await left(tmp_path, *numbered(50, f"{number}-"), still_open=[b"%d" % number], slot=f"{NAME}.{number}")
    receiver = Receiver()
    async with looking(tmp_path, receiver), looking(tmp_path, receiver), looking(tmp_path, receiver):
        await until(lambda: not slots(tmp_path, NAME))
    assert len(receiver.received) == len(set(receiver.received)) == 10 * 52
    for number in range(2, 12):
        theirs = [payload for payload in receiver.received if payload.startswith(b"%d-" % number)]
        assert theirs == numbered(50, f"{number}-")


async def test_a_receiver_that_is_away_gets_it_when_it_is_back(tmp_path: Path) -> None:
    await left(tmp_path, *numbered(10), still_open=[b"a"], slot=f"{NAME}.2")
    receiver = Receiver()
    receiver.away = True
    async with looking(tmp_path, receiver):
        await left(tmp_path, b"more", slot=f"{NAME}.3")
        receiver.away = False
        await until(lambda: not slots(tmp_path, NAME))
    assert set(receiver.received) == {b"open a", *numbered(10), closing(b"a", [b""]), b"more"}
    assert len(receiver.received) == 13


async def test_what_could_not_be_handed_on_stays_for_the_next(tmp_path: Path) -> None:
    await left(tmp_path, *numbered(10), still_open=[b"a"], slot=f"{NAME}.2")
    receiver = Receiver()
    receiver.away = True
    tried = asyncio.Event()

    async def deliver(_: Sequence[bytes]) -> None:
        tried.set()
        await asyncio.Event().wait()  # one that never answers must not hold up a stop

    stuck = Leftovers(partial(slots, tmp_path, NAME), deliver, closing, interval=0.001)
    stuck.start()
    await tried.wait()
    await stuck.close()
    receiver.away = False
    async with looking(tmp_path, receiver):
        await until(lambda: not slots(tmp_path, NAME))
    assert receiver.received == [b"open a", *numbered(10), closing(b"a", [b""])]


async def test_a_damaged_one_does_not_hold_up_the_others(tmp_path: Path) -> None:
    await left(tmp_path, *numbered(10), slot=f"{NAME}.2")
    await left(tmp_path, b"whole", slot=f"{NAME}.3")
    segment = next((tmp_path / f"{NAME}.2").glob("*.segment"))
    content = bytearray(segment.read_bytes())
    content[30] ^= 0x55
    segment.write_bytes(content)
    receiver = Receiver()
    async with looking(tmp_path, receiver):
        await until(lambda: not (tmp_path / f"{NAME}.3").exists())
    assert receiver.received == [b"whole"]
    assert segment.exists()


async def test_what_a_removal_that_was_killed_left_is_removed(tmp_path: Path) -> None:
    await left(tmp_path, b"payload", slot=f"{NAME}.2")
    (tmp_path / f"{NAME}.2" / "lock").unlink()
    (tmp_path / f"{NAME}.3").mkdir()
    receiver = Receiver()
    async with looking(tmp_path, receiver):
        await until(lambda: not slots(tmp_path, NAME))
    assert receiver.received == [b"payload"]


async def live(directory: Path, patience: int, seen: dict[bytes, None]) -> None:
    """Take up what is there until ``patience`` payloads have come; then nothing answers any more, as after a kill."""

    async def deliver(payloads: Sequence[bytes]) -> None:
        nonlocal patience
        for payload in payloads:
            if patience == 0:
                raise DataLoss("killed")
            patience -= 1
            seen.setdefault(payload)

    life = Leftovers(partial(slots, directory, NAME), deliver, closing, interval=3600)
    life.start()
    await until(lambda: not slots(directory, NAME) or life._told)
    await life.close()


async def test_deliveries_that_break_off_anywhere_lose_nothing(tmp_path: Path) -> None:
    chance = random.Random(4)
    for turn in range(30):
        directory = tmp_path / str(turn)
        await left(directory, *numbered(60), still_open=[b"a"], slot=f"{NAME}.2")
        seen: dict[bytes, None] = {}
        while slots(directory, NAME):
            await live(directory, chance.randint(0, 80), seen)
        assert list(seen) == [b"open a", *numbered(60), closing(b"a", [b""])]
