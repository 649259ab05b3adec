"""Small pure helpers for words and numbers on a terminal."""

from __future__ import annotations

import re

from rich.cells import cell_len, set_cell_size

from services.corpus.cleaning import cleaned

_SPACE = re.compile(r"\s+")


def one_line(text: str, width: int = 160) -> str:
    """``text`` on one line of at most ``width`` characters."""
    line = _SPACE.sub(" ", cleaned(text)).strip()
    return line if len(line) <= width else line[: width - 1].rstrip() + "…"


def shortened(text: str, width: int) -> str:
    """``text`` in at most ``width`` columns: an id that is longer loses its middle, for ids differ at their ends."""
    if cell_len(text) <= width:
        return text
    if width < 2:
        return set_cell_size(text, max(width, 0))
    kept = (width - 1) // 2
    tail = text[len(text) - kept :]
    while cell_len(tail) > kept:
        tail = tail[1:]
    return set_cell_size(text, width - 1 - cell_len(tail)).rstrip(" ") + "…" + tail


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
