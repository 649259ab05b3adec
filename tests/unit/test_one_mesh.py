"""Two meshes never share a data directory or ports, and a killed one blocks no other."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from cli import main as cli_main
from cli import up
from cli.errors import CliError
from cli.mesh import check_ports, free_ports
from cli.one_mesh import LOCK, HeldPorts, MeshLock

_ROOT = Path(__file__).resolve().parents[2]
# Takes the lock, gives it to a child that lives until its stdin ends, and says the child's process id.
_HOLDER = """
import subprocess, sys
from pathlib import Path
from cli.one_mesh import MeshLock
lock = MeshLock.take(Path(sys.argv[1]), print, make=True)
child = subprocess.Popen(["cat"], stdout=subprocess.DEVNULL, pass_fds=(lock.descriptor,))
print(child.pid, flush=True)
child.wait()
"""


@contextmanager
def another_mesh(data_dir: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that holds the lock, with a child; both end when its stdin does."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(data_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(_ROOT)},
    )
    with process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline().strip().isdigit()
        try:
            yield process
        finally:
            process.stdin.close()


def state(directory: Path) -> dict[str, tuple[int, int, bytes]]:
    found = {}
    for path in directory.rglob("*"):
        status = path.stat()
        found[path.name] = (status.st_mtime_ns, status.st_size, path.read_bytes())
    return found


def never(*_: Any, **__: Any) -> Any:
    raise AssertionError("processes would have been started")


@pytest.mark.parametrize("same_ports", [True, False])
def test_a_second_up_is_refused_before_anything_is_done(
    same_ports: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(up, "supervisor", never)
    base = free_ports(1)[0]
    with another_mesh(tmp_path) as first, ExitStack() as stack:
        if same_ports:
            taken = HeldPorts.of({"query": f"127.0.0.1:{base}"})
            stack.callback(taken.close)
        before = state(tmp_path)
        code = cli_main.main(["up", "--data-dir", str(tmp_path), "--port-base", str(base)])
        told = capfd.readouterr()
        assert (code, told.out) == (1, "")
        assert told.err == (
            f"error: another groundwire uses this data directory: process {first.pid} runs `groundwire up` on "
            f"{tmp_path}; end that one, or use other places with --data-dir DIR --port-base N\n"
        )
        assert state(tmp_path) == before


def test_another_directory_with_the_same_ports_is_refused_before_they_are_listened_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(up, "supervisor", never)
    base = free_ports(1)[0]
    with closing(HeldPorts.of({"query": f"127.0.0.1:{base}"})):
        code = cli_main.main(["up", "--data-dir", str(tmp_path / "data"), "--port-base", str(base)])
    told = capfd.readouterr()
    assert (code, told.out, len(told.err.splitlines())) == (1, "", 1)
    assert f"cannot listen on 127.0.0.1:{base} (query): another `groundwire up` listens there" in told.err
    assert "--port-base N takes other ports" in told.err
    assert list(tmp_path.iterdir()) == []


def test_a_killed_mesh_is_waited_for_until_its_processes_have_ended(tmp_path: Path) -> None:
    with another_mesh(tmp_path) as first:
        first.kill()
        first.wait()
        said: list[str] = []

        def say(message: str) -> None:
            said.append(message)
            assert first.stdin is not None
            first.stdin.close()  # now its child ends, too

        with closing(taken(tmp_path, say)):
            assert len(said) == 1
            assert "was killed; waiting until all of its processes have ended" in said[0]


def test_a_killed_mesh_without_processes_blocks_no_other(tmp_path: Path) -> None:
    with another_mesh(tmp_path) as first:
        assert first.stdin is not None
        first.stdin.close()
        first.wait()
    with closing(taken(tmp_path, never)):
        assert (tmp_path / LOCK).read_text() == str(os.getpid())
        assert (tmp_path / LOCK).stat().st_mode & 0o777 == 0o600


def test_no_lock_is_made_for_a_directory_that_has_none_unless_it_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for directory in (tmp_path, tmp_path / "missing", tmp_path / "file"):
        assert MeshLock.take(directory, never, make=False) is None
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux's own")
def test_ports_are_free_again_when_they_are_given_back() -> None:
    addresses = {"query": f"127.0.0.1:{free_ports(1)[0]}", "store": "unix:/nowhere.sock", "audit": "127.0.0.1:0"}
    with closing(HeldPorts.of(addresses)) as first:
        assert first.taken == ()
        with closing(HeldPorts.of(addresses)) as second:
            assert second.taken == ("query",)
            with pytest.raises(CliError, match=r"another `groundwire up` listens there.*`groundwire doctor` shows who"):
                check_ports(addresses, second.taken)
            with pytest.raises(CliError, match="`groundwire status --port-base 6000` shows who is there"):
                check_ports(addresses, second.taken, 6000)
    with closing(HeldPorts.of(addresses)) as third:
        assert third.taken == ()


def taken(directory: Path, say: Any) -> MeshLock:
    lock = MeshLock.take(directory, say, make=True)
    assert lock is not None
    return lock
