"""Chunking keeps its promises for any document."""

from __future__ import annotations

import itertools

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from services.ingestion.chunking import chunk
from services.ingestion.parsed import Block, BlockKind, ChunkLimits, ParsedDocument

PIECES = st.sampled_from(
    [
        "a",
        "word",
        " ",
        "  ",
        "\n",
        "\n\n",
        "\t",
        ". ",
        "! ",
        '." ',
        "。",
        "é",
        "e\u0301",
        "𝒳",
        "x" * 40,
        "\u00a0",
        "\r\n",
        "e.g. ",
    ]
)


@st.composite
def documents(draw: st.DrawFn) -> ParsedDocument:
    parts: list[str] = []
    blocks: list[Block] = []
    length = 0
    for _ in range(draw(st.integers(0, 12))):
        gap = draw(st.sampled_from(["", "\n", "\n\n", " " * 50]))
        text = "".join(draw(st.lists(PIECES, max_size=30)))
        kind = draw(st.sampled_from(list(BlockKind)))
        level = draw(st.integers(1, 6)) if kind is BlockKind.HEADING else 0
        parts += [gap, text]
        start = length + len(gap)
        length = start + len(text)
        blocks.append(Block(start, length, kind, level, draw(st.sampled_from(["", "A", "B"])) if level else ""))
    pages = draw(st.one_of(st.just(()), st.lists(st.integers(0, length), min_size=1).map(lambda s: (0, *sorted(s)))))
    return ParsedDocument("".join(parts), tuple(blocks), None, tuple(pages))


@st.composite
def chunk_limits(draw: st.DrawFn) -> ChunkLimits:
    target = draw(st.integers(16, 120))
    return ChunkLimits(target, target + draw(st.integers(0, 80)), draw(st.integers(0, target // 4)))


# Documents are large for Hypothesis; how fast it draws them says nothing about the chunker.
@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(documents(), chunk_limits())
# A space after a full stop that needs none.
@example(ParsedDocument("x" * 40 + "。 aa. a", (Block(0, 47, BlockKind.PARAGRAPH),)), ChunkLimits(21, 23, 5))
def test_passages_are_exact_bounded_ordered_and_complete(parsed: ParsedDocument, limits: ChunkLimits) -> None:
    passages = chunk(parsed, limits)
    covered: set[int] = set()
    for passage in passages:
        assert parsed.text[passage.start : passage.end] == passage.text
        assert passage.text == passage.text.strip()
        assert 0 < len(passage.text) <= limits.max_chars
        assert passage.page == parsed.page_of(passage.start)
        covered.update(range(passage.start, passage.end))
    visible = {
        offset
        for block in parsed.blocks
        for offset in range(block.start, block.end)
        if not parsed.text[offset].isspace()
    }
    assert visible <= covered
    for before, after in itertools.pairwise(passages):
        assert before.start < after.start
        assert before.end < after.end
        assert before.end - after.start <= limits.overlap_chars
    assert chunk(parsed, limits) == passages
