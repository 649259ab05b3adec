"""Blocks: the paragraphs, list items, table rows, code and headings of a passage, with offsets. Pure, linear.

Passages are Markdown sources, or text extracted from other formats: there table cells stand between " | " and headings
are short lines of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise

from services.generation.readable import BULLET, cells, heading, readable


class BlockKind(Enum):
    """What a block of a passage is."""

    PROSE = "prose"
    LIST_ITEM = "list-item"
    TABLE_ROW = "table-row"
    TABLE_HEADER = "table-header"
    CODE = "code"
    HEADING = "heading"


@dataclass(slots=True)
class Block:
    """A block: ``text[start:end]``. ``level`` is a heading's, 1 the outermost; ``header`` are a table row's headers."""

    start: int
    end: int
    kind: BlockKind
    level: int = 0
    header: list[str] = field(default_factory=list)


_FENCE = re.compile(r"\s*(?:```|~~~)")
_UNDERLINE = re.compile(r"\s{0,3}(?:={3,}|-{3,})\s*")
_RULE = re.compile(r"\s*+(?:[-*_=]\s*+){3,}+")
# Possessive: whitespace that was read is not given back, so that a long line takes time linear in its length.
_ROW_RULE = re.compile(r"\s*+\|?+\s*+:?+-++:?+\s*+(?:\|\s*+:?+-++:?+\s*+)*+\|?+\s*+")
_DIGIT = re.compile(r"\d")
_LONGEST_MARKED = 480  # of a heading or a table's header; longer lines are text
_LONGEST_PLAIN_HEADING = 80
_PLAIN_LEVEL = 6


def split_blocks(text: str) -> list[Block]:
    """Cut ``text`` into its blocks, in order, never overlapping; they leave out blank lines, rules and code fences."""
    return _with_plain_headings(text, _Reader(text).read())


class _Reader:
    """Reads a passage line by line."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._beginning = len(text) - len(text.lstrip())
        self._blocks: list[Block] = []
        self._fenced = False
        self._open = False  # whether a wrapped line may still go on with the last block
        self._header: list[str] | None = None  # of the table that we are in

    def read(self) -> list[Block]:
        lines = list(_lines(self._text))
        for (start, end), following in zip(lines, [*lines[1:], (0, 0)], strict=False):
            if _FENCE.match(self._text, start, end):
                self._fenced = not self._fenced
                self._open = False
            elif self._fenced:
                self._code(start, end)
            else:
                self._line(start, end, self._text[slice(*following)])
        return self._blocks

    def _line(self, start: int, end: int, following: str) -> None:
        line = self._text[start:end]
        if is_row(line):
            self._row(start, end, line, following)
            return
        self._header = None
        if not line.strip() or _RULE.fullmatch(line):
            self._open = False
        elif len(line) <= _LONGEST_MARKED and (found := heading(line)) is not None:
            self._add(BlockKind.HEADING, start, end, level=found[0])
        elif BULLET.match(line.lstrip()):
            self._add(BlockKind.LIST_ITEM, start, end)
            self._open = True
        elif self._open:
            self._blocks[-1].end = end
        elif len(line) <= _LONGEST_MARKED and _UNDERLINE.fullmatch(following):
            self._add(BlockKind.HEADING, start, end, level=1 if "=" in following else 2)
        else:
            self._add(BlockKind.PROSE, start, end)
            self._open = True

    def _row(self, start: int, end: int, line: str, following: str) -> None:
        if self._header is None:
            self._header = _header(line, following, first=start <= self._beginning)
            self._add(BlockKind.TABLE_HEADER if self._header else BlockKind.TABLE_ROW, start, end)
        elif _ROW_RULE.fullmatch(line):
            self._open = False
        else:
            self._add(BlockKind.TABLE_ROW, start, end)
            self._blocks[-1].header = self._header

    def _code(self, start: int, end: int) -> None:
        if self._open:
            self._blocks[-1].end = end
        elif start < end:
            self._add(BlockKind.CODE, start, end)
            self._open = True

    def _add(self, kind: BlockKind, start: int, end: int, level: int = 0) -> None:
        self._blocks.append(Block(start, end, kind, level))
        self._open = False


def is_row(line: str) -> bool:
    """Whether a line is a row of a table."""
    stripped = line.strip()
    return (stripped.startswith("|") and stripped.count("|") > 1) or " | " in stripped or "\t" in stripped


def _header(row: str, following: str, *, first: bool) -> list[str]:
    """The header cells if ``row``, the first that we see of a table, is its header; else nothing.

    Markdown says so by a rule. Tables extracted from other formats do not: there the first of several columns' rows
    is taken for a header if it has no numbers, unless the passage begins with it (it may begin inside a table).
    """
    if len(row) > _LONGEST_MARKED:
        return []
    found = cells(row)
    if is_row(following) and _ROW_RULE.fullmatch(following):
        return found
    if row.lstrip().startswith("|") or _DIGIT.search(row) or first or len(found) < 3:
        return []
    return found if len(following) <= _LONGEST_MARKED and len(cells(following)) == len(found) else []


def _with_plain_headings(text: str, blocks: list[Block]) -> list[Block]:
    """Mark the headings of text without markup: short lines (or questions) that stand alone above other text."""
    for block, after in pairwise(blocks):
        shown = text[block.start : block.end]
        alone = text.count("\n", block.end, after.start) > 1
        if block.kind not in (BlockKind.PROSE, BlockKind.LIST_ITEM) or not alone:
            continue
        if len(shown) > _LONGEST_PLAIN_HEADING or not (words := readable(shown)):
            continue
        if block.kind is BlockKind.LIST_ITEM and (not shown.lstrip()[0].isdigit() or after.kind is BlockKind.LIST_ITEM):
            continue
        title = "\n" not in shown and words[:1].isupper() and words[-1] not in ".!:;,…" and not _DIGIT.search(words)
        if words.isupper() or title:
            block.kind, block.level = BlockKind.HEADING, _PLAIN_LEVEL
    return blocks


def _lines(text: str) -> Iterator[tuple[int, int]]:
    start = 0
    for line in text.splitlines(keepends=True):
        yield start, start + len(line.rstrip())
        start += len(line)
