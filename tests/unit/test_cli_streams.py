"""What commands write can always be written, in lines that fit, and help says nothing that means nothing."""

from __future__ import annotations

import io
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from typer.main import get_command

from cli import main as cli_main
from cli.output import Format, Screen
from cli.streams import fitted, replace_what_cannot_be_shown
from cli.text import shortened

_TEXT = "“Tarif” … kostet 5 € · 東京 \N{DROMEDARY CAMEL} – n\udcffe"


def _streams(monkeypatch: pytest.MonkeyPatch, encoding: str, errors: str = "strict") -> io.BytesIO:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding, errors, write_through=True))
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(written, encoding, "backslashreplace", write_through=True))
    replace_what_cannot_be_shown()
    return written


@pytest.mark.parametrize(
    ("encoding", "errors", "shown"),
    [
        ("ascii", "strict", '"Tarif" ... kostet 5 ? - ?? ? - n?e'),
        ("ascii", "surrogateescape", '"Tarif" ... kostet 5 ? - ?? ? - n?e'),
        ("latin-1", "strict", '"Tarif" ... kostet 5 ? · ?? ? - n?e'),
        ("cp1252", "strict", "“Tarif” … kostet 5 € · ?? ? – n?e"),
        ("utf-8", "strict", _TEXT.replace("\udcff", "?")),
    ],
)
def test_what_an_encoding_lacks_is_replaced(
    monkeypatch: pytest.MonkeyPatch, encoding: str, errors: str, shown: str
) -> None:
    written = _streams(monkeypatch, encoding, errors)
    screen = Screen(Format.TEXT)
    screen.text(_TEXT)
    screen.table(_TEXT)
    screen.note(_TEXT)
    sys.stderr.write(f"{_TEXT}\n")
    assert written.getvalue().decode(encoding) == f"{shown}\n" * 4


def test_dots_for_an_ellipsis_leave_columns_where_they_are() -> None:
    for text, shown in (
        ("policies…2025.pdf  4", "policies~2025.pdf  4"),
        ("a…  4", "a...4"),
        ("and so on …   4", "and so on ... 4"),
        ("Looking …", "Looking ..."),
        ("— … 東…", "- ... ?..."),
    ):
        assert text.encode("ascii", "groundwire.shown").decode() == shown


def test_what_the_environment_asks_for_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    written = _streams(monkeypatch, "ascii", "xmlcharrefreplace")
    Screen(Format.TEXT).text("5 €")
    assert written.getvalue() == b"5 &#8364;\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "utf-16"])
def test_json_says_the_same_in_every_encoding(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    document = {"answer": "5 € in 東京 \N{DROMEDARY CAMEL}"}
    written = _streams(monkeypatch, encoding)
    screen = Screen(Format.JSON)
    screen.json(document)
    screen.json_line(document)
    assert [json.loads(line) for line in written.getvalue().decode(encoding).splitlines()] == [document, document]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_help_and_errors_of_a_process_are_shown_in_any_encoding(encoding: str) -> None:
    for arguments, code in ((["ask", "--help"], 0), (["ask", "hotel…?", "--top-k", "viele…"], 2)):
        done = subprocess.run(
            [sys.executable, "-m", "cli.main", *arguments],
            env={"PYTHONIOENCODING": encoding, "PATH": "", "PYTHONPATH": ":".join(sys.path), "LC_ALL": "C.UTF-8"},
            capture_output=True,
            check=False,
        )
        assert done.returncode == code
        assert b"Traceback" not in done.stderr
        assert b"UnicodeEncodeError" not in done.stderr
        assert b"\\u" not in done.stderr


def test_messages_are_broken_between_words_and_commands_are_not() -> None:
    said = (
        "error: cannot reach the query service at 127.0.0.1:50050; start it with `groundwire up --data-dir ./data`, "
        "or say where it is with --address\n  collections[12].name: must be 1 to 128 letters, digits, '.', '_' or '-'"
    )
    assert fitted(said, 60).splitlines() == [
        "error: cannot reach the query service at 127.0.0.1:50050;",
        "  start it with `groundwire up --data-dir ./data`, or say",
        "  where it is with --address",
        "  collections[12].name: must be 1 to 128 letters, digits,",
        "    '.', '_' or '-'",
    ]
    path = "/a/very/long/path/" + "x" * 80
    assert fitted(f"error: {path} is not there", 40).splitlines() == ["error:", f"  {path}", "  is not there"]


@given(st.text(st.characters(exclude_categories=["Cc", "Cs", "Z"])), st.integers(0, 40))
def test_what_is_shortened_fits_and_keeps_both_ends(text: str, width: int) -> None:
    short = shortened(text, width)
    assert cell_len(short) <= width or width < 2
    assert short == text or cell_len(text) > width
    if short != text and width >= 3:
        head, _, tail = short.partition("…") if "…" not in text else ("", "", "")
        assert text.startswith(head.rstrip())
        assert text.endswith(tail)


def _commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for name, below in getattr(command, "commands", {}).items():
        yield from _commands(below, (*path, name))


@pytest.mark.parametrize("path", list(_commands(get_command(cli_main.app))), ids=" ".join)
@pytest.mark.parametrize("columns", [80, 120])
def test_the_help_of_every_command_fits_and_names_no_types(
    path: tuple[str, ...], columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert cli_main.main([*path, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"Usage: {' '.join(('groundwire', *path))}" in " ".join(shown.split())
    assert max(map(cell_len, shown.splitlines())) <= columns
    for noise in ("<bool>", "<str>", "<path>", "<list[", "Path]", "range>", "<int", "<float"):
        assert noise not in shown


def test_help_shows_what_a_number_may_be(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    for command, shown in (
        ("ask", ("N [1<=x<=100]", "X [0.0<=x<=1.0]", "N [0<=x<=8192]")),
        ("search", ("N [1<=x<=100]",)),
        ("status", ("N [1<=x<=65530]", "its six ports are")),
        ("up", ("N [0<=x<=65530]", "0: any free ones")),
    ):
        assert cli_main.main([command, "--help"]) == 0
        told = " ".join(capsys.readouterr().out.replace("│", " ").split())
        for part in shown:
            assert part in told, command


@pytest.mark.parametrize("path", [path for path in _commands(get_command(cli_main.app)) if path and path != ("_mesh",)])
def test_the_examples_in_help_are_command_lines_that_are_understood(path: tuple[str, ...]) -> None:
    command = get_command(cli_main.app)
    for name in path:
        command = getattr(command, "commands")[name]  # noqa: B009 - groups alone have them
    lines = re.findall(r"\[dim\]\$\[/dim\] (.*)", command.epilog or "")
    assert lines, "every command shows how it is used"
    understood = 0
    for line in lines:
        # What stands before and behind the command is the shell's.
        for part in re.split(r"\||>|\$\(|\)", line):
            words = shlex.split(part)
            if words[:1] == ["groundwire"]:
                understood += _understood(get_command(cli_main.app), words[1:], path)
    assert understood


def _understood(command: Any, words: list[str], path: tuple[str, ...]) -> bool:
    """Parse ``words`` as the command line would, without running anything; whether they are of ``path``."""
    context = command.make_context("groundwire", list(words))
    named: tuple[str, ...] = ()
    while hasattr(command, "resolve_command"):
        rest = [*context._protected_args, *context.args]
        name, command, rest = command.resolve_command(context, rest)
        named += (name,)
        context = command.make_context(name, rest, parent=context)
    return named[: len(path)] == path
