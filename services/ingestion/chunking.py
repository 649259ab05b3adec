"""Chunking: from a parsed document to the passages that are indexed. Pure, deterministic, linear in the text.

Passages follow the document's structure: small neighbouring blocks are merged up to a target length, a section of
level 1 or 2 begins a passage of its own unless what stands before it is tiny, and long blocks are split between
sentences (code and tables between lines). A heading always stays with what follows it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Generator, Iterator
from dataclasses import dataclass

from services.corpus.chunk import Passage
from services.corpus.spans import trimmed
from services.ingestion.parsed import BlockKind, ChunkLimits, ParsedDocument, SplitDocument

# A path is repeated in every passage below it, so a document must not be able to make one arbitrarily long.
_MAX_HEADING_CHARS = 200

# Whitespace runs after closing punctuation, and places after CJK full stops, which no space follows. Each run is
# matched once, from its first character, so that no text makes the scan quadratic.
_SENTENCE_GAP = re.compile(
    r"(?<=[.!?…。！？\"'”’)\]»」』）])\s+|(?:(?<=[。！？])|(?<=[。！？][」』”）]))(?=[^\s。！？」』”）])"
)
_WORD_GAP = re.compile(r"\s+")
_CLOSERS = "\"'”’)]»」』）"
_ENDERS = frozenset(".!?…。！？")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(])(?:[A-Za-z]|e\.g|i\.e|etc|cf|vs|al|mr|mrs|ms|dr|prof|st|no|nos|fig|eq|sec|vol|pp|ca|approx|inc|ltd|jr|sr)\.$",
    re.IGNORECASE,
)


@dataclass(slots=True)
class _Piece:
    """A block, or a part of one that was too long: never longer than the limit, never without text."""

    start: int
    end: int
    path: tuple[str, ...]
    level: int = 0  # of a heading; 0 for everything else
    part: bool = False  # a part of a split block other than its last


def split_into_passages(parsed: ParsedDocument, limits: ChunkLimits) -> SplitDocument:
    """Chunk ``parsed`` and keep what else is worth knowing of it."""
    return SplitDocument(parsed.title, len(parsed.text), chunk(parsed, limits))


def chunk(parsed: ParsedDocument, limits: ChunkLimits) -> tuple[Passage, ...]:
    """Cut a document into passages.

    For each passage ``parsed.text[start:end] == text``, without whitespace at either end, at most ``max_chars``
    long. Every character in a block that is not whitespace lies in at least one passage; passages are in order of
    ``start``, and overlap only inside a block that was split. ``headings`` holds the headings that all of the
    passage stands under, those inside it included.
    """
    return tuple(
        Passage(parsed.text[start:end], start, end, path, parsed.page_of(start))
        for start, end, path in _merge(_pieces(parsed, limits), limits)
    )


def _pieces(parsed: ParsedDocument, limits: ChunkLimits) -> Iterator[_Piece]:
    text = parsed.text
    open_headings: list[tuple[int, str]] = []
    path: tuple[str, ...] = ()
    lead: int | None = None  # where the headings begin that wait for the text below them
    for block in parsed.blocks:
        start, end = trimmed(text, block.start, block.end)
        if start == end:
            continue
        level = 0
        if block.kind is BlockKind.HEADING:
            level = block.level
            while open_headings and open_headings[-1][0] >= level:
                open_headings.pop()
            open_headings.append((level, _shorten(block.heading or text[start : start + _MAX_HEADING_CHARS + 1])))
            path = tuple(heading for _, heading in open_headings)
        room = limits.max_chars - (start - (start if lead is None else lead))
        if room < limits.target_chars // 2:
            room = limits.max_chars
        if level == 0:
            lead = None
        elif lead is None:
            lead = start
        if end - start <= room:
            yield _Piece(start, end, path, level)
            continue
        spans = list(_split((text, start, end), block.kind, limits, room))
        for i, (from_, to) in enumerate(spans):
            # Only its beginning is a heading to what stands before; the rest of an overlong one is mere text.
            yield _Piece(from_, to, path, level if i == 0 else 0, part=i < len(spans) - 1)


def _shorten(heading: str) -> str:
    heading = " ".join(heading.split())
    return heading if len(heading) <= _MAX_HEADING_CHARS else heading[: _MAX_HEADING_CHARS - 1].rstrip() + "…"


@dataclass(slots=True)
class _Open:
    """The passage that is being put together."""

    start: int
    end: int
    path: tuple[str, ...]
    headings_only: bool
    section: bool  # it begins with a heading of level 1 or 2, or the document
    sealed: bool  # it ends inside a split block: what follows belongs to another passage

    @property
    def length(self) -> int:
        return self.end - self.start


def _merge(pieces: Iterator[_Piece], limits: ChunkLimits) -> Iterator[tuple[int, int, tuple[str, ...]]]:
    tiny = limits.target_chars // 5
    before: _Open | None = None  # complete, but kept for a moment: a tiny rest of its section may still join it
    now: _Open | None = None
    for piece in pieces:
        if now is not None and _joins(now, piece, limits, tiny):
            now = _Open(
                now.start,
                piece.end,
                piece.path if now.headings_only else _common(now.path, piece.path),
                now.headings_only and piece.level > 0,
                now.section,
                piece.part,
            )
            continue
        if now is not None:
            before = yield from _settle(before, now, limits, tiny)
        now = _Open(piece.start, piece.end, piece.path, piece.level > 0, 0 < piece.level <= 2, piece.part)
    if now is not None:
        before = yield from _settle(before, now, limits, tiny)
    if before is not None:
        yield before.start, before.end, before.path


def _joins(now: _Open, piece: _Piece, limits: ChunkLimits, tiny: int) -> bool:
    """Whether ``piece`` still belongs to the open passage."""
    merged = piece.end - now.start
    if now.sealed or merged > limits.max_chars:
        return False
    if now.headings_only:
        return True
    if 0 < piece.level <= 2:
        return now.length < tiny
    if piece.level and now.length >= limits.target_chars // 2:
        return False
    return merged <= limits.target_chars or now.length < tiny


def _settle(
    before: _Open | None, now: _Open, limits: ChunkLimits, tiny: int
) -> Generator[tuple[int, int, tuple[str, ...]], None, _Open]:
    """Give out the passage before, or let a tiny rest of the same section join it; return what is kept."""
    if before is None:
        return now
    if now.length < tiny and not now.section and now.end - before.start <= limits.max_chars:
        return _Open(before.start, now.end, _common(before.path, now.path), False, before.section, now.sealed)
    yield before.start, before.end, before.path
    return now


def _common(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
    if one == other:
        return one
    shared = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        shared += 1
    return one[:shared]


def _split(span: tuple[str, int, int], kind: BlockKind, limits: ChunkLimits, room: int) -> Iterator[tuple[int, int]]:
    """Cut a long block (text, start, end) into trimmed spans of at most ``max_chars``, the first of at most ``room``."""
    text, start, end = span
    lines = kind in (BlockKind.CODE, BlockKind.TABLE_ROW)
    while end - start > room:
        cut, sentence = _cut(text, start, room, lines, limits)
        from_, to = trimmed(text, start, cut)
        yield from_, to
        start = trimmed(text, cut, end)[0]
        if sentence and limits.overlap_chars:
            # At least a quarter of the target is new in each part: the work stays linear in the text.
            start = _overlap(text, max(from_ + limits.target_chars // 4, to - limits.overlap_chars), to) or start
        room = limits.max_chars
    yield start, end


def _cut(text: str, start: int, room: int, lines: bool, limits: ChunkLimits) -> tuple[int, bool]:
    """Where the part that begins at ``start`` ends: after at least half the target, near the target if possible."""
    window = text[start : start + room]
    least = limits.target_chars // 2
    finders = (_line_gaps, _word_gaps) if lines else (_sentence_gaps, _line_gaps, _word_gaps)
    for finder in finders:
        found = [gap for gap in finder(window) if gap >= least]
        if found:
            best = min(found, key=lambda gap: (abs(gap - limits.target_chars), gap))
            return start + best, finder is _sentence_gaps
    # One endless word: cut it, but not between a letter and its marks.
    cut = len(window)
    while cut > least and unicodedata.combining(text[start + cut]):
        cut -= 1
    return start + cut, False


def _overlap(text: str, start: int, end: int) -> int | None:
    """Where the first sentence begins in ``text[start:end]``, the end of the part before."""
    tail = text[start:end]
    return next((start + gap for gap in _sentence_gaps(tail) if 0 < gap < len(tail)), None)


def _sentence_gaps(window: str) -> Iterator[int]:
    for match in _SENTENCE_GAP.finditer(window):
        if match.start() == match.end():
            yield match.end()
            continue
        tail = window[max(0, match.start() - 16) : match.start()]
        closed = tail.rstrip(_CLOSERS)
        if closed and closed[-1] in _ENDERS and not (closed == tail and _ABBREVIATION.search(tail)):
            yield match.end()


def _line_gaps(window: str) -> Iterator[int]:
    position = window.find("\n")
    while position >= 0:
        yield position + 1
        position = window.find("\n", position + 1)


def _word_gaps(window: str) -> Iterator[int]:
    return (match.end() for match in _WORD_GAP.finditer(window))
