"""Small pure helpers for words and numbers on a terminal."""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Iterable
from typing import TextIO

# Everything that a terminal would obey instead of show: C0 (except tab and newline), DEL and C1.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_SPACE = re.compile(r"\s+")


def clean(text: str) -> str:
    """``text`` without control characters: a document must not be able to move the cursor or set the title."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text.replace("\r\n", "\n"))


def one_line(text: str, width: int = 160) -> str:
    """``text`` on one line of at most ``width`` characters."""
    line = _SPACE.sub(" ", clean(text)).strip()
    return line if len(line) <= width else line[: width - 1].rstrip() + "…"


def seconds(value: float) -> str:
    """A duration for people: ``0.42 s``, ``7 s``, ``3 min 20 s``."""
    if value < 10:
        return f"{value:.2f}".rstrip("0").rstrip(".") + " s"
    if value < 100:
        return f"{value:.0f} s"
    return f"{int(value) // 60} min {int(value) % 60} s"


def size(count: float) -> str:
    """A number of bytes for people: ``512 B``, ``1.5 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def plural(count: int, noun: str) -> str:
    """``1 document``, ``2 documents``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


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
    return wrapped(lines, width or 80)


def wrapped(lines: Iterable[str], width: int) -> list[str]:
    """``lines`` broken between words after at most ``width`` characters; a longer word, such as a path, stays whole."""
    found: list[str] = []
    for line in (part for text in lines for part in text.split("\n")):
        if len(line) <= width:
            found.append(line)
            continue
        indent = " " * (len(line) - len(line.lstrip()) + 2)
        found += textwrap.wrap(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return found
