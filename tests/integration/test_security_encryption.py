"""Several real processes share one key store."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from services.security.encryption import KeysShredded
from services.security.key_stores import SqliteKeyStore
from services.security.keyring import Keyring
from services.security.master_keys import FileMasterKey
from services.security.sealed import Sealer

_PATIENCE = 60.0


class Process:
    """A keyring in a process of its own."""

    def __init__(self, repository: Path, store: Path, master: Path) -> None:
        script = repository / "tests" / "support" / "keyring_process.py"
        self.popen = subprocess.Popen(
            [sys.executable, str(script), str(store), str(master)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": f"{repository}:{repository / 'generated'}"},
        )

    def send(self, *command: object) -> None:
        assert self.popen.stdin is not None
        self.popen.stdin.write(json.dumps(command) + "\n")
        self.popen.stdin.flush()

    def receive(self) -> Any:
        assert self.popen.stdout is not None
        answer = json.loads(self.popen.stdout.readline())
        return answer["error"] if "error" in answer else answer["result"]

    def ask(self, *command: object) -> Any:
        self.send(*command)
        return self.receive()

    def end(self) -> None:
        self.popen.kill()
        self.popen.communicate()


class Mesh:
    def __init__(self, repository: Path, directory: Path) -> None:
        self.repository = repository
        self.store_path, self.master_path = directory / "keys" / "keys.db", directory / "master" / "master.key"
        self.master = FileMasterKey.create(self.master_path)
        self.processes: list[Process] = []

    def start(self, count: int) -> list[Process]:
        started = [Process(self.repository, self.store_path, self.master_path) for _ in range(count)]
        self.processes += started
        for process in started:
            assert process.ask("ready") is True
        return started


@pytest.fixture
def mesh(repository: Path, tmp_path: Path) -> Iterator[Mesh]:
    mesh = Mesh(repository, tmp_path)
    yield mesh
    for process in mesh.processes:
        process.end()


def eventually(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + _PATIENCE
    while not condition():
        assert time.monotonic() < end


def test_a_race_of_first_uses_between_processes_makes_one_key(mesh: Mesh) -> None:
    processes = mesh.start(4)
    for round_ in range(10):
        for process in processes:
            process.send("seal", f"tenant {round_}", "d", "text")
        tokens = [process.receive() for process in processes]
        for process in processes:
            for token in tokens:
                assert process.ask("open", f"tenant {round_}", "d", token) == "text"
        assert len({tuple(process.ask("hash", f"tenant {round_}", ["fox"])) for process in processes}) == 1
    store = SqliteKeyStore.open(mesh.store_path)
    assert [len(record.keys) for record in Keyring(mesh.master, store).list_tenants()] == [2] * 10
    store.close()


def test_a_shredding_reaches_other_processes_and_new_ones(mesh: Mesh) -> None:
    one, other = mesh.start(2)
    token, kept = one.ask("seal", "acme", "d", "text"), one.ask("seal", "bolt", "d", "text")
    assert other.ask("open", "acme", "d", token) == "text"
    store = SqliteKeyStore.open(mesh.store_path)
    ring = Keyring(mesh.master, store)
    record = store.get("acme")
    assert record is not None
    assert ring.shred("acme").keys_destroyed == 2
    eventually(lambda: other.ask("open", "acme", "d", token) == "KeysShredded")
    eventually(lambda: one.ask("open", "acme", "d", token) == "KeysShredded")
    [late] = mesh.start(1)
    for process in (one, other, late):
        assert process.ask("open", "acme", "d", token) == "KeysShredded"
        assert process.ask("seal", "acme", "d", "text") == "KeysShredded"
        assert process.ask("hash", "acme", ["fox"]) == "KeysShredded"
        assert process.ask("open", "bolt", "d", kept) == "text"
    with pytest.raises(KeysShredded):
        Sealer(ring).seal("acme", "d", 1, "f", b"text")
    files = b"".join(path.read_bytes() for path in mesh.store_path.parent.iterdir())
    assert [key for key in record.keys if key.wrapped in files] == []
    store.close()


def test_rotations_reach_processes_that_were_running(mesh: Mesh) -> None:
    one, other = mesh.start(2)
    tokens = [one.ask("seal", "acme", "d", "text")]
    assert other.ask("open", "acme", "d", tokens[0]) == "text"
    for _ in range(5):
        one.ask("rotate", "acme")
        tokens.append(one.ask("seal", "acme", "d", "text"))
        # At once: a value under a key that a process does not know makes it look.
        assert other.ask("open", "acme", "d", tokens[-1]) == "text"
    old = mesh.master.key_id
    mesh.master.add_key()
    assert one.ask("rewrap") == 1
    mesh.master.forget(old)
    other.ask("seal", "new", "d", "text")
    for process in (one, other, *mesh.start(1)):
        assert [process.ask("open", "acme", "d", token) for token in tokens] == ["text"] * len(tokens)


def test_a_process_killed_in_the_middle_of_a_change_leaves_the_state_before_it(mesh: Mesh) -> None:
    [process] = mesh.start(1)
    token = process.ask("seal", "acme", "d", "text")
    program = (
        "import sqlite3, sys, time; c = sqlite3.connect(sys.argv[1], isolation_level=None);"
        # A page cache of nothing makes SQLite write into the file before the commit.
        "c.execute('PRAGMA cache_size = 0'); c.execute('BEGIN IMMEDIATE'); c.execute('DELETE FROM wrapped_keys');"
        "c.executemany('INSERT INTO checkpoints VALUES (?, ?, ?)', [('t', str(i), 'x' * 900) for i in range(200)]);"
        "print('changed', flush=True); time.sleep(600)"
    )
    changer = subprocess.Popen(
        [sys.executable, "-ISc", program, str(mesh.store_path)], stdout=subprocess.PIPE, text=True
    )
    assert changer.stdout is not None
    assert changer.stdout.readline() == "changed\n"
    assert mesh.store_path.with_name("keys.db-journal").stat().st_mode & 0o777 == 0o600
    changer.send_signal(signal.SIGKILL)
    changer.communicate()
    [late] = mesh.start(1)
    assert late.ask("open", "acme", "d", token) == "text"
    assert process.ask("rotate", "acme") == 2
    with sqlite3.connect(mesh.store_path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("SELECT count(*) FROM checkpoints").fetchone() == (0,)
    connection.close()
