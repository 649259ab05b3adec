"""kill -9, two hundred times: every event that was acknowledged is there afterwards, and the log verifies."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from services.audit.event import decode
from services.audit.records import EVENTS
from services.audit.verify import verify_directory
from services.journal.files import DirectoryFiles
from services.journal.segments import CUT, DamagedJournalError, scan, segment_names
from tests.support.audit_world import LOG
from tests.support.processes import ROOT

pytestmark = pytest.mark.long

KILLS = 200


def events_of(directory: Path) -> dict[int, str]:
    found: dict[int, str] = {}
    if not (directory / EVENTS).is_dir():  # it was killed before it could begin
        return found
    files = DirectoryFiles.unlocked(directory / EVENTS)
    for name in segment_names(files):
        try:
            for _, index, payload in scan(files, name):
                found[index] = decode(payload[32:]).event_id
        except DamagedJournalError as error:
            assert error.what == CUT  # noqa: PT017 - a torn tail is what a kill may leave
    return found


def test_what_was_acknowledged_survives_two_hundred_kills(tmp_path: Path) -> None:
    chance = random.Random(9)
    acknowledged: dict[int, str] = {}
    writer = subprocess.Popen(
        [sys.executable, "-m", "tests.support.audit_writer"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'generated'}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert writer.stdin
    assert writer.stdout
    directory = tmp_path
    try:
        for number in range(KILLS):
            if number % 20 == 0:  # a fresh log now and then: a start reads all of it
                acknowledged.clear()
                directory = tmp_path / str(number)
                directory.mkdir()
            writer.stdin.write(f"{directory}\n")
            writer.stdin.flush()
            pid, seen, wanted = 0, 0, chance.randint(0, 12)
            while (line := writer.stdout.readline().strip()) != "end":
                assert line, "the writer died"
                first, second = line.split()
                if first == "pid":
                    pid = int(second)
                else:
                    acknowledged[int(first)] = second
                    seen += 1
                if pid and seen >= wanted:
                    os.kill(pid, signal.SIGKILL)
                    wanted = 1 << 30
            found = events_of(directory)
            assert acknowledged.items() <= found.items(), number
    finally:
        writer.stdin.close()
        writer.wait(30)
    report = verify_directory(directory, [LOG.verifier], living=True)
    assert report.intact, report.problems
    assert report.events == len(found) > 50
