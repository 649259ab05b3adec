"""Chunking: passages are pieces of their document, in order, within the limits; nothing but white space is lost."""

from __future__ import annotations

from itertools import pairwise

from services.corpus.chunk import Passage
from services.corpus.terms import analyze
from services.ingestion.adapters.parsing.markdown import parse_markdown
from services.ingestion.adapters.parsing.text import parse_text
from services.ingestion.chunking import split_into_passages
from services.ingestion.parsed import Block, BlockKind, ChunkLimits, ParsedDocument, ParseFailure
from tests.fuzz.source import Source

SEEDS = (
    b"# A\n\nOne sentence. Two, e.g. this one! Three?\n\n## B\n\nwordwordwordwordwordwordwordwordword\n\n| a | b |\n|---|---|\n| 1 | 2 |\x10\x08\x04\x00",
    "e\u0301" .encode() * 30 + "。 aa. a\n\n\u00a0x".encode() + b"\x05\x02\x05\x01",
    b"one\r\n\r\ntwo. three\rfour\n\n\n```\ncode code code\ncode\n```\x20\x20\x08\x02",
)  # fmt: skip


def around(run: bytes) -> list[bytes]:
    """Inputs with a long run in them."""
    return [b"# A\n\n| a |" + run + b"\nb. \x64\x40\x08" + kind for kind in (b"\x00", b"\x01")]


def fuzz(data: bytes) -> None:
    """See the module."""
    source = Source(data)
    target = 16 + source.number(200)
    limits = ChunkLimits(target, target + source.number(100), source.number(target // 4 + 1))
    kind = source.number(4)
    content = b"".join(iter(source.part, b""))
    try:
        parsed = parse_markdown(content) if kind == 0 else parse_text(content)
    except ParseFailure:
        return
    if kind >= 2:
        parsed = _in_blocks(parsed.text, source, pages=kind == 3)
    split = split_into_passages(parsed, limits)
    _check(parsed, split.passages, limits)


def _in_blocks(text: str, source: Source, *, pages: bool) -> ParsedDocument:
    """The text in two blocks of other kinds, on two pages."""
    half = len(text) // 2
    kinds = list(BlockKind)
    blocks = []
    for start, end in ((0, half), (half, len(text))):
        kind = source.pick(kinds)
        blocks.append(Block(start, end, kind, 1 + source.number(6) if kind is BlockKind.HEADING else 0))
    return ParsedDocument(text, tuple(blocks), None, (0, half) if pages else ())


def _check(parsed: ParsedDocument, passages: tuple[Passage, ...], limits: ChunkLimits) -> None:
    covered = 0
    for passage in passages:
        assert parsed.text[passage.start : passage.end] == passage.text
        assert 0 < len(passage.text) <= limits.max_chars
        assert not _stands(parsed, covered, passage.start)
        covered = max(covered, passage.end)
        assert Passage.from_payload(passage.to_payload()) == passage
        analyze(passage.text)
    assert not _stands(parsed, covered, len(parsed.text))
    assert all(one.start < two.start and one.end < two.end for one, two in pairwise(passages))


def _stands(parsed: ParsedDocument, start: int, end: int) -> bool:
    """Whether any block has text in that span."""
    return any(parsed.text[max(start, block.start) : min(end, block.end)].strip() for block in parsed.blocks)
