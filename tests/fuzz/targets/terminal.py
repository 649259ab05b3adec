"""What goes to a terminal: no character that it would obey, no line wider than it is, and nothing shown is left behind."""

from __future__ import annotations

import re

from rich.cells import cell_len
from rich.text import Text

from cli.tables import LEAST, fitted_table, narrowed
from cli.text import one_line, seconds, shortened, size
from cli.typewriter import Typewriter
from services.corpus.cleaning import cleaned
from tests.fuzz.source import Source

_OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_COLOUR = re.compile(r"\x1b\[(?:36|0)m")

SEEDS = (
    b"a \x1b[2J\xc2\x9b31m [1] word\n\r\n\t \xe4\xba\x8c\xe4\xba\x8c\xe4\xba\x8c\xff\x14\x28\x01",
    b"an-id-that-is-very-long-0123456789\xe2\x80\xae\xf0\x9f\x91\xa8\xe2\x80\x8d\xf0\x9f\x91\xa9\x05\x03",
    b"wordwordwordwordwordwordwordword [2][3] x" * 3 + b"\x1e\x02\x03\x01",
)


def around(run: bytes) -> list[bytes]:
    """Inputs with a long run in them."""
    return [b"a " + run + b" b\xff\x14\x28\x01"]


def fuzz(data: bytes) -> None:
    """See the module."""
    source = Source(data)
    width, height, colour = source.number(120), 1 + source.number(60), source.flag()
    text = source.text()
    assert not _OBEYED.search(cleaned(text))
    line = one_line(text, max(2, width))
    assert not _OBEYED.search(line)
    assert "\n" not in line
    assert len(line) <= max(2, width)
    short = shortened(line, width)
    assert cell_len(short) <= width
    _check_tables(line, width)
    _check_typewriter(source, text, max(width, 20), height, colour)
    assert seconds(float(width * height))
    assert size(float(width) ** 6)


def _check_tables(line: str, width: int) -> None:
    heads, rows = ("NAME", "N"), [(line, "1"), (line[::-1], "22")]
    widths = narrowed(heads, rows, width, [0])
    assert sum(widths) + 2 <= width or widths[0] <= max(LEAST, 4)
    fitted_table(heads, [(line, Text("1"))], width, yielding=["NAME"], right=["N"])


def _check_typewriter(source: Source, text: str, width: int, height: int, colour: bool) -> None:
    pieces = ["".join(piece) for piece in source.cuts(text)]
    typewriter = Typewriter(width=width, height=height, colour=colour)
    written = "".join(typewriter.feed(piece) for piece in pieces) + typewriter.finish()
    assert typewriter.text == text
    shown = _COLOUR.sub("", written)
    assert not _OBEYED.search(shown)
    assert all(cell_len(line) <= width for line in shown.split("\n"))
    typewriter.reset()
