"""Directories in which nothing can be kept: one line that says why and what to do, in every command, and nothing made."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli import main as cli_main
from cli import up
from cli.doctor import FAIL, data_directory
from services.runtime.data_directory import keep_from_others, obstacles, require_usable
from services.runtime.settings import ConfigurationError
from tests.support.clients import clients
from tests.support.processes import PATIENCE, ROOT


def a_file(folder: Path) -> Path:
    (folder / "data").write_text("x")
    return folder / "data"


def below_a_file(folder: Path) -> Path:
    return a_file(folder) / "groundwire"


def a_link_to_nothing(folder: Path) -> Path:
    (folder / "data").symlink_to(folder / "gone" / "away")
    return folder / "data"


@pytest.mark.parametrize("place", [a_file, below_a_file, a_link_to_nothing])
def test_what_is_no_directory(place: Callable[[Path], Path], tmp_path: Path) -> None:
    directory = place(tmp_path)
    with pytest.raises(ConfigurationError) as refused:
        require_usable(directory)
    (line,) = str(refused.value).splitlines()
    assert line.startswith(f"the data directory {directory} cannot be used: ")
    what = (
        f"it is a symbolic link to {tmp_path / 'gone' / 'away'}, which is not there or leads in a circle"
        if place is a_link_to_nothing
        else "is not a directory"
    )
    assert line.endswith(f"{what}; name another one with GROUNDWIRE_DATA_DIR")
    assert obstacles(directory) is not None
    assert [finding.state for finding in data_directory(directory)] == [FAIL]


@pytest.mark.parametrize(
    ("number", "why"),
    [
        (errno.EROFS, "the file system is read-only; name another one"),
        (errno.EACCES, "this user may not write there; change its owner or mode, or name another one"),
        (errno.EPERM, "this user may not write there; change its owner or mode, or name another one"),
        (errno.ENOSPC, "the disk is full; free some space there, or name another one"),
        (errno.EDQUOT, "this user's share of the disk is used up; free some space there, or name another one"),
        (errno.ENAMETOOLONG, "a name in this path is too long; name another one"),
        (errno.ENOENT, "it cannot be made there; name another one"),
        (errno.ENOLCK, "no locks available; name another one"),
    ],
)
@pytest.mark.parametrize("call", ["mkdir", "open", "write"])
def test_what_the_system_refuses(
    call: str, number: int, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number), str(tmp_path))

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(ConfigurationError) as refused:
        require_usable(tmp_path / "data", named_by="--data-dir DIR")
    monkeypatch.undo()
    assert str(refused.value) == (f"the data directory {tmp_path / 'data'} cannot be used: {why} with --data-dir DIR")
    assert list(tmp_path.rglob(".*")) == [], "nothing of the attempt stays"


def test_a_directory_is_made_for_its_owner_alone_and_left_empty(tmp_path: Path) -> None:
    require_usable(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    assert list((tmp_path / "a" / "b").iterdir()) == []
    assert obstacles(tmp_path / "a" / "b") is None


def test_what_others_could_read_is_taken_from_them_with_a_word(tmp_path: Path) -> None:
    """(H1)."""
    directory, outside = tmp_path / "data", tmp_path / "outside"
    for name in ("catalog.sqlite3", "catalog.sqlite3-wal", "store/chunks.sqlite3", "audit/segments/0"):
        (directory / name).parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        (directory / name).touch()
        (directory / name).chmod(0o644)
    outside.write_text("")
    outside.chmod(0o644)
    (directory / "link").symlink_to(outside)
    os.mkfifo(directory / "pipe", 0o666)
    directory.chmod(0o755)
    told = keep_from_others(directory)
    assert told.startswith(f"other users could read the data in {directory} (mode 755): it and 7 files and directories")
    for path in (directory, *directory.rglob("*")):
        assert path.is_symlink() or path.is_fifo() or path.stat().st_mode & 0o077 == 0, path
    assert outside.stat().st_mode & 0o777 == 0o644, "links lead nowhere"
    assert keep_from_others(directory) == ""


def test_a_directory_of_another_user_stays_but_not_the_files_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(H1)."""
    (tmp_path / "catalog.sqlite3").touch()
    (tmp_path / "catalog.sqlite3").chmod(0o640)
    tmp_path.chmod(0o750)
    change = os.fchmod

    def only_files(descriptor: int, mode: int) -> None:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            change(descriptor, mode)

    monkeypatch.setattr(os, "fchmod", only_files)
    assert "belongs to another user and lets others in (mode 750)" in keep_from_others(tmp_path)
    assert (tmp_path / "catalog.sqlite3").stat().st_mode & 0o777 == 0o600


async def test_processes_make_files_for_their_owner_alone(tmp_path: Path) -> None:
    """(H1)."""
    directory = tmp_path / "data"
    directory.mkdir(mode=0o755)
    directory.chmod(0o755)
    environment = {**os.environ, "GROUNDWIRE_DATA_DIR": str(directory), "HOME": str(tmp_path)}
    command = [sys.executable, "-m", "cli.main", "revoke", "--subject", "alice"]
    old = os.umask(0o022)
    try:
        done = await asyncio.to_thread(
            subprocess.run, command, env=environment, cwd=ROOT, capture_output=True, timeout=PATIENCE, check=False
        )
    finally:
        os.umask(old)
    assert done.returncode == 0, done.stderr
    made = [path for path in directory.rglob("*") if path.is_file()]
    assert made
    assert [path for path in directory.rglob("*") if path.stat().st_mode & 0o077] == []


def test_a_user_who_may_not_write_is_told_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert obstacles(tmp_path / "data") == "this user may not write there"


@pytest.mark.parametrize(
    "command",
    [
        ("token",),
        ("up", "--port-base", "0"),
        ("keys", "list"),
        ("keys", "generate"),
        ("keys", "rotate", "acme"),
        ("keys", "shred", "acme", "--yes", "acme"),
        ("backup", "BACKUP"),
        ("revoke", "--subject", "alice"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("place", [a_file, below_a_file])
def test_every_command_says_so_in_one_line(
    command: tuple[str, ...],
    place: Callable[[Path], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    directory = place(tmp_path)
    monkeypatch.setenv("GROUNDWIRE_DATA_DIR", str(directory))
    before = sorted(tmp_path.rglob("*"))
    # What would start processes must not get that far.
    monkeypatch.setattr(up, "supervisor", _never)
    code = cli_main.main([part.replace("BACKUP", str(tmp_path / "backup")) for part in command])
    told = capfd.readouterr()
    assert (code, told.out, len(told.err.splitlines())) == (2, "", 1), told.err
    assert f"the data directory {directory} cannot be used: " in told.err
    assert "GROUNDWIRE_DATA_DIR" in told.err
    assert ("--data-dir DIR" in told.err) == (command[0] == "up")
    assert sorted(tmp_path.rglob("*")) == before


async def test_a_service_says_so_before_it_opens_anything(tmp_path: Path) -> None:
    directory = a_file(tmp_path)
    environment = os.environ | {"GROUNDWIRE_DATA_DIR": str(directory), "PYTHONPATH": ""}
    done = await asyncio.to_thread(clients().run, ("serve", "store"), environment, timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode() == (
        f"error: the data directory {directory} cannot be used: it is not a directory; "
        "name another one with GROUNDWIRE_DATA_DIR\n"
    )


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_token_whose_secret_cannot_be_made(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any) -> int:
        # As write(2) does: it knows no name.
        raise OSError(number, os.strerror(number))

    monkeypatch.setenv("GROUNDWIRE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setattr(Path, "write_bytes", refuse)
    assert cli_main.main(["token"]) == (1 if number == errno.ENOSPC else 2)
    told = capsys.readouterr()
    assert (told.out, len(told.err.splitlines())) == ("", 1)
    assert told.err.startswith(f"error: the data directory {tmp_path / 'data'} cannot be used: ")


def test_a_home_that_cannot_be_written_is_told_as_the_data_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(path: Path, *_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(tmp_path / ".local"))

    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.delenv("GROUNDWIRE_DATA_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(Path, "mkdir", refuse)
    assert cli_main.main(["token"]) == 2
    assert capsys.readouterr().err == (
        f"error: the data directory {tmp_path}/.local/share/groundwire cannot be used: the file system is read-only; "
        "name another one with GROUNDWIRE_DATA_DIR\n"
    )


def _never(*_: Any, **__: Any) -> Any:
    raise AssertionError("processes would have been started")
