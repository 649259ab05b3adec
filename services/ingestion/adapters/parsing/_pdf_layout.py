"""From positioned fragments of a PDF to lines, and from lines to paragraphs, lists, rows and headings. Pure."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from services.ingestion.adapters.parsing._builder import TextBuilder, one_line
from services.ingestion.parsed import BlockKind, ParsedDocument

_BULLET = re.compile(r"[•▪●◦‣·∙■□○–—*\-]\s+(?=\S)")
_NUMBERED = re.compile(r"(?:\(?\d{1,3}[.)]|\(?[a-z][.)])\s+\S")
_DIVIDED = re.compile(r"[^\W\d_]-$")
_COMPOUND = re.compile(r"[^\W\d_]+-[^\W\d_]+")
_HYPHENS = ("\u00ad", "\u2010")
_ENDERS = (".", "!", "?", ":", ";", "。", "！", "？")
_HEADING_RATIO = 1.15
_MAX_HEADING_CHARS = 200
_MAX_BOLD_HEADING_CHARS = 80
# A paragraph begins where the distance between lines is this much more than usual.
_PARAGRAPH_RATIO = 1.2
_CELL_SEPARATOR = " | "


@dataclass(slots=True)
class Fragment:
    """A piece of text as a PDF draws it; points, y grows upwards; y is None where positions are not known."""

    text: str
    x: float
    y: float | None
    size: float
    bold: bool


@dataclass(slots=True)
class Line:
    """One line of a page (counted from 0)."""

    page: int
    text: str
    x: float
    y: float | None
    size: float
    bold: bool
    cells: bool = False


def lines_of(fragments: list[Fragment], page: int) -> list[Line]:
    """Join fragments that stand on one baseline, in the order of the file."""
    lines: list[Line] = []
    fresh = True  # the fragment before ended its line, as far as the library could tell
    end_x = 0.0
    longest = 0
    for fragment in fragments:
        parts = fragment.text.split("\n")
        for i, raw in enumerate(parts):
            text = _plain(raw)
            if not text.strip():
                continue
            y = fragment.y if i == 0 or not any(part.strip() for part in parts[:i]) else None
            last = lines[-1] if lines else None
            if last is not None and y is not None and _same_baseline(last, fragment):
                wide = fragment.x - end_x > 0.9 * fragment.size
                is_cell = fresh and wide and last.text.strip() not in ("•", "-", "–")
                last.cells = last.cells or is_cell
                last.text += (_CELL_SEPARATOR if is_cell else " " if fresh else "") + text
                last.bold = last.bold and fragment.bold
                if len(text) > longest:
                    last.size, longest = fragment.size, len(text)
            else:
                lines.append(Line(page, text, fragment.x, y, fragment.size, fragment.bold))
                longest = len(text)
            end_x = fragment.x + 0.5 * fragment.size * len(text.rstrip())
        fresh = fragment.text.endswith("\n")
    for line in lines:
        line.text = one_line(line.text)
    return [line for line in lines if line.text]


def _plain(text: str) -> str:
    # Some writers encode a bullet as a control character.
    if text.lstrip().startswith("\x7f"):
        text = text.replace("\x7f", "•", 1)
    stripped = text.rstrip()
    return stripped[:-1] + "-" if stripped.endswith(_HYPHENS) else text


def _same_baseline(line: Line, fragment: Fragment) -> bool:
    return (
        line.y is not None
        and fragment.y is not None
        and abs(line.y - fragment.y) <= 0.45 * max(line.size, fragment.size, 1.0)
    )


def compose(lines: list[Line], page_count: int) -> ParsedDocument:
    """Put lines together to a document of ``page_count`` pages."""
    typography = _Typography(lines)
    builder = TextBuilder()
    firsts: dict[int, int] = {}
    group: list[Line] = []
    for line in lines:
        if group and typography.breaks(group[-1], line):
            _emit(group, typography, builder, firsts)
            group = []
        group.append(line)
    if group:
        _emit(group, typography, builder, firsts)
    starts: list[int] = []
    following = builder.length
    for page in reversed(range(page_count)):
        # A page without text begins where the next one does, so that no text counts as lying on it.
        following = firsts.get(page, following)
        starts.append(following)
    starts.reverse()
    if starts:
        starts[0] = 0
    return builder.build(tuple(starts))


def _emit(group: list[Line], typography: _Typography, builder: TextBuilder, firsts: dict[int, int]) -> None:
    text = ""
    marks: list[tuple[int, int]] = []
    for line in group:
        piece = line.text
        if text and _DIVIDED.search(text) and piece[:1].islower():
            if not typography.is_compound(text, piece):
                text = text[:-1]
        elif text:
            text += " "
        marks.append((line.page, len(text)))
        text += piece
    level = typography.level(group)
    if level:
        start = builder.add(text, BlockKind.HEADING, level)
    elif bullet := _BULLET.match(text):
        # Citations show a plain dash; the length of the marker changes, so marks behind it move.
        shift = 2 - bullet.end()
        marks = [(page, max(0, offset + shift)) for page, offset in marks]
        start = builder.add("- " + text[bullet.end() :], BlockKind.LIST_ITEM)
    elif _NUMBERED.match(text):
        start = builder.add(text, BlockKind.LIST_ITEM)
    else:
        start = builder.add(text, BlockKind.TABLE_ROW if group[0].cells else BlockKind.PARAGRAPH)
    if start is not None:
        for page, offset in marks:
            firsts.setdefault(page, start + offset)


def usual_size(lines: list[Line]) -> float:
    """The type size of most of the text, in half points; 0 where sizes are not known."""
    weights: Counter[float] = Counter()
    for line in lines:
        weights[_rounded(line.size)] += len(line.text)
    return max(weights, key=lambda size: (weights[size], -size), default=0.0)


def is_large(line: Line, body: float) -> bool:
    """Whether a line is set as a heading is, where most of the text has size ``body``."""
    return body > 0 and _rounded(line.size) >= body * _HEADING_RATIO


class _Typography:
    """What is usual in this document: the body's type size, the distance of lines, the sizes of headings."""

    def __init__(self, lines: list[Line]) -> None:
        self._body = usual_size(lines)
        ratios = [
            (above.y - below.y) / below.size
            for above, below in pairwise(lines)
            if above.page == below.page and above.y is not None and below.y is not None and below.size > 0
            if 0.5 < (above.y - below.y) / below.size < 1.8
        ]
        self._leading = median(ratios) if ratios else 1.2
        sizes = {_rounded(line.size) for line in lines if is_large(line, self._body)}
        self._levels = {size: min(6, i) for i, size in enumerate(sorted(sizes, reverse=True), start=1)}
        self._longest = max((len(line.text) for line in lines), default=0)
        self._compounds = {word.lower() for line in lines for word in _COMPOUND.findall(line.text)}

    def level(self, group: list[Line]) -> int:
        """The level of a heading, 0 for everything else."""
        first = group[0]
        length = sum(len(line.text) for line in group)
        if length > _MAX_HEADING_CHARS or not any(map(str.isalpha, first.text)):
            return 0
        if is_large(first, self._body):
            return self._levels[_rounded(first.size)]
        alone = len(group) == 1 and not first.cells and first.bold and _rounded(first.size) == self._body
        if alone and length <= _MAX_BOLD_HEADING_CHARS and not first.text.endswith(_ENDERS):
            return min(6, len(self._levels) + 1)
        return 0

    def breaks(self, above: Line, below: Line) -> bool:
        """Whether ``below`` begins a new block rather than going on with the one that ``above`` belongs to."""
        if above.cells or below.cells or _BULLET.match(below.text) or _NUMBERED.match(below.text):
            return True
        if _rounded(above.size) != _rounded(below.size) and (
            is_large(above, self._body) or is_large(below, self._body)
        ):
            return True
        if above.bold != below.bold and not self._goes_on(above, below):
            return True
        if above.page != below.page:
            return not self._goes_on(above, below)
        if above.y is None or below.y is None:
            return above.text.endswith(_ENDERS) and len(above.text) < 0.7 * self._longest
        gap = above.y - below.y
        if gap <= 0:
            return not self._goes_on(above, below)
        if gap > _PARAGRAPH_RATIO * self._leading * max(below.size, 1.0):
            return True
        # The first line of a paragraph may be indented instead; the lines of a list item are, without an end before.
        return below.x > above.x + below.size and above.text.endswith(_ENDERS)

    @staticmethod
    def _goes_on(above: Line, below: Line) -> bool:
        """Whether a sentence runs on from one line to another, whatever lies between."""
        return not above.text.endswith(_ENDERS) and below.text[:1].islower()

    def is_compound(self, before: str, after: str) -> bool:
        """Whether a word that is divided at a line's end has its hyphen in the middle of a line as well."""
        left = before[:-1].rsplit(maxsplit=1)[-1]
        right = re.match(r"\w*", after)
        return f"{left}-{right.group() if right else ''}".lower() in self._compounds


def _rounded(size: float) -> float:
    return round(size * 2) / 2
