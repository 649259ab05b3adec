"""What standard output and standard error can show: text that never fails to be written, in lines that fit."""

from __future__ import annotations

import codecs
import io
import os
import re
import sys
import textwrap
from collections.abc import Iterable
from typing import TextIO

_HANDLER = "groundwire.shown"
# What commands write themselves has a meaning that is worth keeping, in one column each: tables stay aligned.
_ELLIPSIS = "…"
_PLAIN = {"·": "-", "–": "-", "—": "-", "“": '"', "”": '"', "‘": "'", "’": "'", "❯": ">", "✓": "+", "✗": "x"}
# A command in backticks is copied by people: it stays on one line, unless it is nearly one itself.
_COMMAND = re.compile(r"`[^`\n]{1,48}`")
_KEPT = "\0"


def replace_what_cannot_be_shown() -> None:
    """Have both streams replace what their encoding lacks; what PYTHONIOENCODING asks for instead is left alone."""
    for stream in (sys.stdout, sys.stderr):
        # Python's own ways, stderr's last: the first two fail, the other shows codes.
        if isinstance(stream, io.TextIOWrapper) and stream.errors in {"strict", "surrogateescape", "backslashreplace"}:
            stream.reconfigure(errors=_HANDLER)


def is_unicode(stream: io.TextIOBase | object) -> bool:
    """Whether ``stream`` can show every character."""
    return str(getattr(stream, "encoding", "")).lower().replace("-", "").startswith("utf")


def fitted(text: str, width: int) -> str:
    """``text`` in lines of at most ``width`` columns, broken between words; further lines are indented.

    A longer word, such as a path, stays whole: the terminal breaks it.
    """
    kept = _COMMAND.sub(lambda match: match[0].replace(" ", _KEPT), text)
    lines = []
    for line in kept.split("\n"):
        indent = line[: len(line) - len(line.lstrip(" "))]
        lines += textwrap.wrap(
            line.lstrip(" "),
            max(width, 20),
            initial_indent=indent,
            subsequent_indent=indent + "  ",
            break_long_words=False,
            break_on_hyphens=False,
        ) or [""]
    return "\n".join(lines).replace(_KEPT, " ")


def on_terminal(stream: TextIO, lines: Iterable[str]) -> list[str]:
    """``lines`` as they go to ``stream``: on a terminal broken between words, elsewhere as they are."""
    if not stream.isatty():
        return list(lines)
    columns = os.environ.get("COLUMNS", "")
    try:
        width = int(columns) if columns.isdecimal() and int(columns) else os.get_terminal_size(stream.fileno()).columns
    except OSError:
        width = 0
    # A terminal that does not know its size says 0.
    return fitted("\n".join(lines), width or 80).split("\n")


def _shown(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    if lacking[0] == _ELLIPSIS:
        return _dots(error.object, error.start)
    # Ellipses further on are asked for again.
    lacking = lacking.partition(_ELLIPSIS)[0]
    return "".join(_PLAIN.get(character, "?") for character in lacking), error.start + len(lacking)


def _dots(text: str, start: int) -> tuple[str, int]:
    """Three dots for an ellipsis, where that leaves what follows in its column: before a gap, which gives way, or nothing.

    Inside a word, such as a shortened id, it has one column.
    """
    behind = text[start + 1 : start + 3]
    if behind == "  ":
        return "...", start + 3
    if behind[:1].isalnum() and text[start - 1 : start].isalnum():
        return "~", start + 1
    return "...", start + 1


codecs.register_error(_HANDLER, _shown)
