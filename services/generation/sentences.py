"""Sentences: a passage cut into the smallest pieces that can be cited, with exact offsets. Pure, linear in the text.

A piece is a prose sentence, a list item's sentence, a table row, a block of code or a heading. It keeps its place in
the source (``text[start:end]``) and beside it a readable form without markup, because the two purposes differ: a
citation must point at the source as it is, an answer must read well. The readable form drops emphasis, bullets,
link targets, quote marks and footnote numbers; a table row becomes "Header: value; Header: value".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from services.corpus.spans import trimmed
from services.generation.blocks import Block, BlockKind, split_blocks
from services.generation.readable import BULLET, readable, row_with_header

MAX_SENTENCE = 480


@dataclass(frozen=True, slots=True)
class Sentence:
    """One citable piece: ``text[start:end]``, without whitespace at either end, at most ``MAX_SENTENCE`` long.

    ``readable`` is how an answer shows it. ``headings`` are the headings above it inside the passage, outermost
    first. ``lead`` is the number, in the passage's list of pieces, of the sentence that introduces the list, table
    or code that this piece belongs to; -1 when there is none. ``paragraph`` numbers the blocks of the passage.
    """

    start: int
    end: int
    kind: BlockKind
    readable: str
    headings: tuple[str, ...] = ()
    lead: int = -1
    paragraph: int = 0


_END = re.compile(r"(?<![.!?…])[.!?…]++[\"'”’)\]»*_`]*+(?=\s)|[。！？][」』”）]*")
_WORD_BEFORE = re.compile(r"[^\s(\[\"“'‘/]*$")
_INITIALS = re.compile(r"[^\W\d_](?:\.[^\W\d_])*\Z")
_NEXT_WORD = re.compile(r"\s+[\"'“‘(\[*_`]*([^\W_][^\s]*)?")
_BREAKS = ("; ", "\n", ", ", " ")


def _words(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


# A full stop behind these never ends a sentence.
_ABBREVIATIONS = _words(
    """mr mrs ms dr prof st mt rev gen col lt sgt capt hon no nos nr art par sec ch fig figs eq vol pp p cf vs viz e.g
    i.e eg ie ca approx al resp dept est incl excl max min tel z.b d.h u.a bzw evtl ggf inkl zzgl abs"""
)
# Behind these it may; what follows decides.
_OPEN_ABBREVIATIONS = _words("etc inc ltd co corp jr sr a.m p.m bros")
_STARTERS = _words(
    """the a an in on at it its he she they we you i this that these those there if when while for from to by as after
    before during under all each every any no not and but or so however please our their his her with"""
)
_MONTHS = _words("januar februar märz april mai juni juli august september oktober november dezember quartal")


def split_sentences(text: str) -> list[Sentence]:
    """Cut ``text`` into its pieces, in order of ``start``, never overlapping.

    Every word outside of code fence lines lies in exactly one piece. What has no readable form (a rule, a lone
    footnote number, an empty list item) is left out.
    """
    found: list[Sentence] = []
    above = _Above()
    for number, block in enumerate(split_blocks(text)):
        above.enter(block)
        path = tuple(heading for _, heading in above.headings)
        for start, end in _pieces(text, block):
            shown = _shown(text, block, start, end)
            if shown:
                found.append(Sentence(start, end, block.kind, shown, path, above.lead(block), number))
        above.leave(block, found)
    return found


class _Above:
    """What stands above a block: the open headings, and the sentences that introduce it by ending with a colon."""

    def __init__(self) -> None:
        self.headings: list[tuple[int, str]] = []
        self._in_text = -1
        self._introduced: BlockKind | None = None  # what the sentence in the text introduces: a list, a table or code
        self._in_item = -1  # inside a list item, which may introduce code

    def enter(self, block: Block) -> None:
        if block.kind is BlockKind.HEADING:
            while self.headings and self.headings[-1][0] >= block.level:
                self.headings.pop()
        if block.kind in (BlockKind.HEADING, BlockKind.PROSE):
            self._in_text = -1
            self._introduced = None
            self._in_item = -1
            return
        if block.kind is not BlockKind.CODE:
            self._in_item = -1
        if self._in_item < 0:
            kind = BlockKind.TABLE_ROW if block.kind is BlockKind.TABLE_HEADER else block.kind
            self._introduced = self._introduced or kind
            if kind is not self._introduced:
                self._in_text = -1

    def lead(self, block: Block) -> int:
        return self._in_item if block.kind is BlockKind.CODE and self._in_item >= 0 else self._in_text

    def leave(self, block: Block, found: Sequence[Sentence]) -> None:
        last = len(found) - 1
        if last < 0:
            return
        if block.kind is BlockKind.HEADING:
            self.headings.append((block.level, found[last].readable))
        if block.kind is BlockKind.PROSE and found[last].readable.endswith(":"):
            self._in_text = last
        if block.kind is BlockKind.LIST_ITEM and found[last].readable.endswith(":"):
            self._in_item = last


def _shown(text: str, block: Block, start: int, end: int) -> str:
    is_row = block.kind in (BlockKind.TABLE_ROW, BlockKind.TABLE_HEADER)
    if is_row and end - start == block.end - block.start:
        return row_with_header(text[start:end], block.header)
    return readable(text[start:end])


def _pieces(text: str, block: Block) -> Iterator[tuple[int, int]]:
    whole = block.kind not in (BlockKind.PROSE, BlockKind.LIST_ITEM)
    cuts = [] if whole else list(_ends(text, block.start, block.end))
    start = block.start
    for cut in [*cuts, block.end]:
        yield from _bounded(text, *trimmed(text, start, cut))
        start = cut


def sentence_ends(text: str) -> list[int]:
    """Where sentences of ``text``, read as one paragraph, end; not the end of the text itself."""
    return list(_ends(text, 0, len(text)))


def _ends(text: str, start: int, end: int) -> Iterator[int]:
    bullet = BULLET.match(text, trimmed(text, start, end)[0], end)
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
        first = trimmed(text, start, cut)
        if first[0] < first[1]:
            yield first
        start = trimmed(text, cut, end)[0]
    if start < end:
        yield start, end
