"""Sentences: a passage cut into the smallest pieces that can be cited, with exact offsets. Pure, linear in the text.

A piece is a prose sentence, a list item's sentence, a table row, a line of code or a heading. It keeps its place in
the source (``text[start:end]``) and beside it a readable form without markup, because the two purposes differ: a
citation must point at the source as it is, an answer must read well. The readable form drops emphasis, bullets,
link targets, quote marks and footnote numbers; a table row becomes "Header: value; Header: value".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise

MAX_SENTENCE = 480


class SentenceKind(Enum):
    """What a piece of a passage is."""

    PROSE = "prose"
    LIST_ITEM = "list-item"
    TABLE_ROW = "table-row"
    CODE = "code"
    HEADING = "heading"
    TABLE_HEADER = "table-header"


@dataclass(frozen=True, slots=True)
class Sentence:
    """One citable piece: ``text[start:end]``, without whitespace at either end, at most ``MAX_SENTENCE`` long.

    ``readable`` is how an answer shows it. ``headings`` are the headings above it inside the passage, outermost
    first. ``lead`` is the number, in the passage's list of pieces, of the sentence that introduces the list, table
    or code that this piece belongs to; -1 when there is none. ``paragraph`` numbers the blocks of the passage.
    """

    start: int
    end: int
    kind: SentenceKind
    readable: str
    headings: tuple[str, ...] = ()
    lead: int = -1
    paragraph: int = 0


_FENCE = re.compile(r"\s*(?:```|~~~)")
_HEADING = re.compile(r"\s{0,3}(#{1,6})\s+(.*?)\s*#*\s*")
_UNDERLINE = re.compile(r"\s{0,3}(?:={3,}|-{3,})\s*")
_RULE = re.compile(r"\s*(?:[-*_=]\s*){3,}")
_BULLET = re.compile(r"(?:>\s*)*(?:[-*+•‣▪◦–]|\(?\d{1,3}[.)]|\(?[a-z][.)])\s+(?=\S)")
_QUOTE = re.compile(r"\s*(?:>\s?)+")
_ROW_RULE = re.compile(r"\s*\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?\s*")
_CELL_GAP = re.compile(r"(?<!\\)\||\t")

_END = re.compile(r"[.!?…]+[\"'”’)\]»*_`]*(?=\s)|[。！？][」』”）]*")
_WORD_BEFORE = re.compile(r"[^\s(\[\"“'‘/]*$")
# A full stop behind these never ends a sentence.
_ABBREVIATIONS = frozenset(
    """mr mrs ms dr prof st mt rev gen col lt sgt capt hon no nos nr art par sec ch fig figs eq vol pp p cf vs viz e.g
    i.e eg ie ca approx al resp dept est incl excl max min tel z.b d.h u.a bzw evtl ggf inkl zzgl abs""".split()
)
# Behind these it may; what follows decides.
_OPEN_ABBREVIATIONS = frozenset("etc inc ltd co corp jr sr a.m p.m bros".split())
_STARTERS = frozenset(
    """the a an in on at it its he she they we you i this that these those there if when while for from to by as after
    before during under all each every any no not and but or so however please our their his her with""".split()
)
_INITIALS = re.compile(r"[^\W\d_](?:\.[^\W\d_])*\Z")
_MONTHS = frozenset(
    "januar februar märz april mai juni juli august september oktober november dezember quartal".split()
)
_NEXT_WORD = re.compile(r"\s+[\"'“‘(\[*_`]*([^\W_][^\s]*)?")
_DIGIT = re.compile(r"\d")
_BREAKS = ("; ", "\n", ", ", " ")


_MAX_HEADING = 80


def split_sentences(text: str) -> list[Sentence]:
    """Cut ``text`` into its pieces, in order of ``start``, never overlapping.

    Every letter or digit outside of code fence lines lies in exactly one piece.
    """
    found: list[Sentence] = []
    headings: list[tuple[int, str]] = []
    lead = -1
    for number, block in enumerate(_with_plain_headings(text, list(_blocks(text)))):
        if block.kind is SentenceKind.HEADING:
            while headings and headings[-1][0] >= block.level:
                headings.pop()
            path = tuple(heading for _, heading in headings)
            headings.append((block.level, readable(text[block.start : block.end])))
            lead = -1
        else:
            path = tuple(heading for _, heading in headings)
        if block.kind is SentenceKind.PROSE:
            lead = -1
        for start, end in _pieces(text, block):
            is_row = block.kind in (SentenceKind.TABLE_ROW, SentenceKind.TABLE_HEADER)
            shown = block.row(text) if is_row and end == block.end else readable(text[start:end])
            if shown:
                found.append(Sentence(start, end, block.kind, shown, path, lead, number))
        if block.kind is SentenceKind.PROSE and text[block.start : block.end].rstrip("*_ ").endswith(":"):
            lead = len(found) - 1
    return found


# --- blocks ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Block:
    start: int
    end: int
    kind: SentenceKind
    level: int = 0
    header: list[str] = field(default_factory=list)

    def row(self, text: str) -> str:
        """The readable form of a table row."""
        values = cells(text[self.start : self.end])
        if len(self.header) == len(values) and any(self.header):
            pairs = [
                f"{name}: {value}" if name else value for name, value in zip(self.header, values, strict=True) if value
            ]
            return "; ".join(pairs)
        values = [value for value in values if value]
        return (": " if len(values) == 2 else "; ").join(values)


def cells(row: str) -> list[str]:
    """The readable cells of a table row that is written with pipes or tabs."""
    row = row.strip(" ")
    if row.startswith("|"):
        row = row[1:].removesuffix("|")
    return [readable(cell) for cell in _CELL_GAP.split(row)]


def _blocks(text: str) -> Iterator[_Block]:
    """The blocks of Markdown, and of plain text that looks like it, in order.

    The last block may still grow until the next one is given out.
    """
    lines = list(_lines(text))
    fenced = False
    paragraph: _Block | None = None  # the last block, while wrapped lines may still go on with it
    header: list[str] | None = None  # of the table that we are in
    for index, (start, end) in enumerate(lines):
        line = text[start:end]
        following = text[slice(*lines[index + 1])] if index + 1 < len(lines) else ""
        row = not fenced and _is_row(line)
        if not row:
            header = None
        block: _Block | None = None
        if _FENCE.match(line):
            fenced = not fenced
        elif fenced:
            block = _Block(start, end, SentenceKind.CODE) if line.strip() else None
        elif row:
            if header is None:
                header = _header(line, following, first=not text[:start].strip())
                kind = SentenceKind.TABLE_HEADER if header else SentenceKind.TABLE_ROW
                block = _Block(start, end, kind)
            elif not _ROW_RULE.fullmatch(line):
                block = _Block(start, end, SentenceKind.TABLE_ROW, header=header)
        elif not line.strip() or _RULE.fullmatch(line):
            pass
        elif match := _HEADING.fullmatch(line):
            block = _Block(start, end, SentenceKind.HEADING, len(match[1]))
        elif paragraph is None and _UNDERLINE.fullmatch(following):
            block = _Block(start, end, SentenceKind.HEADING, 1 if "=" in following else 2)
        elif _BULLET.match(line.lstrip()):
            paragraph = _Block(start, end, SentenceKind.LIST_ITEM)
            yield paragraph
            continue
        elif paragraph is not None:
            paragraph.end = end
            continue
        else:
            paragraph = _Block(start, end, SentenceKind.PROSE)
            yield paragraph
            continue
        paragraph = None
        if block is not None:
            yield block


def _header(row: str, following: str, *, first: bool) -> list[str]:
    """The header cells if ``row``, the first that we see of a table, is its header; else nothing.

    Markdown says so by a rule. Tables extracted from other formats do not: there the first of several columns' rows
    is taken for a header if it has no numbers, unless the passage begins with it (it may begin inside a table).
    """
    found = cells(row)
    if _is_row(following) and _ROW_RULE.fullmatch(following):
        return found
    plain = not row.lstrip().startswith("|") and not any(character.isdigit() for character in row)
    if plain and not first and len(found) > 2 and len(cells(following)) == len(found):
        return found
    return []


def _with_plain_headings(text: str, blocks: list[_Block]) -> list[_Block]:
    """Mark the headings of text without markup: short lines that stand alone above other text."""
    for block, after in pairwise(blocks):
        shown = text[block.start : block.end]
        alone = text.count("\n", block.end, after.start) > 1
        if block.kind not in (SentenceKind.PROSE, SentenceKind.LIST_ITEM) or not alone or len(shown) > _MAX_HEADING:
            continue
        if block.kind is SentenceKind.LIST_ITEM and (not shown[0].isdigit() or after.kind is SentenceKind.LIST_ITEM):
            continue
        words = readable(shown)
        capitals = words.isupper()
        title = "\n" not in shown and words[:1].isupper() and words[-1] not in ".!?:;,…" and not _DIGIT.search(words)
        if capitals or title:
            block.kind, block.level = SentenceKind.HEADING, 6
    return blocks


def _lines(text: str) -> Iterator[tuple[int, int]]:
    start = 0
    for line in text.splitlines(keepends=True):
        yield start, start + len(line.rstrip())
        start += len(line)


def _is_row(line: str) -> bool:
    stripped = line.strip()
    return (stripped.startswith("|") and stripped.count("|") > 1) or " | " in stripped or "\t" in stripped


# --- pieces ---------------------------------------------------------------------------------------------------------


def _pieces(text: str, block: _Block) -> Iterator[tuple[int, int]]:
    whole = block.kind not in (SentenceKind.PROSE, SentenceKind.LIST_ITEM)
    cuts = [] if whole else list(_ends(text, block.start, block.end))
    start = block.start
    for cut in [*cuts, block.end]:
        yield from _bounded(text, *_trim(text, start, cut))
        start = cut


def _ends(text: str, start: int, end: int) -> Iterator[int]:
    bullet = _BULLET.match(text, _trim(text, start, end)[0], end)
    for match in _END.finditer(text, bullet.end() if bullet else start, end):
        if match.end() < end and (match[0][0] != "." or _full_stop(text, start, match)):
            yield match.end()


def _full_stop(text: str, start: int, match: re.Match[str]) -> bool:
    """Whether a run that begins with "." ends a sentence, rather than an abbreviation, an initial or a date's day."""
    if match[0].startswith("..") or match[0].startswith(".…"):
        return True
    before = _WORD_BEFORE.search(text, max(start, match.start() - 24), match.start())
    word = before[0].lower() if before else ""
    after = _NEXT_WORD.match(text, match.end())
    next_word = (after[1] or "") if after else ""
    if next_word[:1].islower():
        return False
    if word in _ABBREVIATIONS:
        return False
    if word in _OPEN_ABBREVIATIONS or _INITIALS.match(word):
        return next_word.lower().rstrip(",") in _STARTERS
    return not (word.isdigit() and len(word) <= 2 and next_word.lower().strip(".,;:)") in _MONTHS)


def _bounded(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Cut what is too long for a sentence behind a clause, a line or a word; yield nothing for whitespace."""
    while end - start > MAX_SENTENCE:
        limit = start + MAX_SENTENCE
        places = (text.rfind(mark, start + MAX_SENTENCE // 2, limit) for mark in _BREAKS)
        cut = next((place + 1 for place in places if place >= 0), limit)
        first = _trim(text, start, cut)
        if first[0] < first[1]:
            yield first
        start = _trim(text, cut, end)[0]
    if start < end:
        yield start, end


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end


# --- the readable form ----------------------------------------------------------------------------------------------

_LINK = re.compile(r"!?\[([^\[\]]*)\]\((?:[^()\s]|\([^()\s]*\))*(?:\s+\"[^\"]*\")?\)")
_FOOTNOTE = re.compile(r"\s?\[\^?\d{1,3}\](?!\()")
_EMPHASIS = re.compile(r"(\*{1,3}|(?<!\w)_{1,3}(?=\S))(?=\S)(.+?)(?<=\S)\1(?!\w)")
_STRAY = re.compile(r"\*{2,}|(?<!\w)_{2,}(?!\w)")
_CODE_SPAN = re.compile(r"`+([^`]*)`+")
_LINE_QUOTE = re.compile(r"\n[ \t]*(?:>[ \t]?)+")


def readable(source: str) -> str:
    """``source`` on one line without Markdown's decoration; plain text stays as it is.

    Numbers in square brackets are dropped because a reader would take them for the answer's own markers.
    """
    shown = _QUOTE.sub("", _LINE_QUOTE.sub("\n", source), count=1) if ">" in source else source
    shown = shown.strip()
    if match := _HEADING.fullmatch(shown):
        shown = match[2]
    if match := _BULLET.match(shown):
        shown = shown[match.end() :]
    shown = _LINK.sub(r"\1", shown)
    shown = _FOOTNOTE.sub("", shown)
    for _ in range(2):
        shown = _EMPHASIS.sub(r"\2", shown)
    shown = _STRAY.sub("", _CODE_SPAN.sub(r"\1", shown))
    return " ".join(shown.replace("\\|", "|").split())


def overlap(first: Sequence[str], second: Sequence[str]) -> float:
    """The Jaccard similarity of two lists of terms, 0 to 1."""
    one, other = set(first), set(second)
    return len(one & other) / len(one | other) if one or other else 1.0
