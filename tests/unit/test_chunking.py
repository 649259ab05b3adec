"""Chunking: what is merged, what is kept apart, where long blocks are cut."""

from __future__ import annotations

import itertools

import pytest

from services.corpus.chunk import Passage
from services.ingestion.adapters.parsing.markdown import parse_markdown
from services.ingestion.adapters.parsing.text import parse_text
from services.ingestion.chunking import chunk
from services.ingestion.parsed import Block, BlockKind, ChunkLimits, ParsedDocument

LIMITS = ChunkLimits(target_chars=200, max_chars=320, overlap_chars=50)


def sentence(number: int) -> str:
    return f"Sentence number {number} tells one small thing."


def prose(count: int, first: int = 0) -> str:
    return " ".join(sentence(first + i) for i in range(count))


def markdown(source: str, limits: ChunkLimits = LIMITS) -> tuple[Passage, ...]:
    return chunk(parse_markdown(source.encode()), limits)


def test_small_neighbours_are_merged_up_to_the_target() -> None:
    source = "\n\n".join(sentence(i) for i in range(9))
    passages = markdown(source)
    assert [passage.text.count("Sentence") for passage in passages] == [4, 4, 1]
    assert all(source[passage.start : passage.end] == passage.text for passage in passages)


def test_a_section_of_level_two_begins_a_passage_and_lower_ones_may_share() -> None:
    passages = markdown(f"# A\n\n{prose(2)}\n\n## B\n\n{sentence(3)}\n\n### C\n\n{sentence(4)}\n\n## D\n\n{prose(2)}\n")
    assert [passage.headings for passage in passages] == [("A",), ("A", "B"), ("A", "D")]
    assert passages[1].text.startswith("## B")
    assert sentence(4) in passages[1].text


def test_a_tiny_section_is_merged_with_the_next_and_carries_the_path_both_share() -> None:
    passages = markdown(f"# A\n\n## B\n\nTiny.\n\n## C\n\n{sentence(1)}\n")
    assert [passage.headings for passage in passages] == [("A",)]


def test_a_heading_stays_with_the_text_below_it_even_when_that_has_to_be_split() -> None:
    for count in range(4, 12):
        passages = markdown(f"{prose(4)}\n\n## Heading of the section\n\n{prose(count)}")
        [heading] = [passage for passage in passages if "## Heading" in passage.text]
        assert "Sentence" in heading.text.partition("section")[2]
        assert heading.text.startswith("## Heading")


def test_a_tiny_rest_joins_the_passage_before() -> None:
    passages = markdown(f"{prose(4)}\n\nEnd.")
    assert len(passages) == 1


def test_long_paragraphs_are_cut_between_sentences_and_overlap_by_whole_ones() -> None:
    source = prose(20)
    passages = markdown(source)
    assert len(passages) > 3
    for before, after in itertools.pairwise(passages):
        assert before.text.endswith("thing.")
        assert after.text.startswith("Sentence")
        assert before.start < after.start < before.end
        assert before.end - after.start <= LIMITS.overlap_chars


def test_no_overlap_when_none_is_wanted() -> None:
    passages = markdown(prose(20), ChunkLimits(target_chars=200, max_chars=320, overlap_chars=0))
    assert all(before.end < after.start for before, after in itertools.pairwise(passages))


def test_abbreviations_and_initials_end_no_sentence() -> None:
    source = "The rule, cf. the handbook by J. Smith e.g. Chapter two of it and more, stands. " * 8
    passages = markdown(source.strip(), ChunkLimits(target_chars=100, max_chars=170, overlap_chars=0))
    assert all(passage.text.endswith("stands.") for passage in passages)


def test_text_without_spaces_is_cut_after_cjk_full_stops() -> None:
    source = "これは短い文です。「そうですか。」" * 40
    passages = markdown(source, ChunkLimits(target_chars=90, max_chars=120, overlap_chars=0))
    assert "".join(passage.text for passage in passages) == source
    assert all(passage.text.endswith(("。", "。」")) for passage in passages)


def test_an_endless_word_is_cut_but_not_between_a_letter_and_its_marks() -> None:
    source = "e\u0301" * 500
    passages = chunk(parse_text(source.encode()), ChunkLimits(target_chars=99, max_chars=99, overlap_chars=0))
    assert "".join(passage.text for passage in passages) == source
    assert all(passage.text[0] == "e" for passage in passages)


def test_code_that_fits_stays_whole_and_longer_code_is_cut_between_lines() -> None:
    line = "value = compute(value)  # 1. one. 2. two."
    fits = "```\n" + "\n".join([line] * 6) + "\n```"
    [passage] = [passage for passage in markdown(f"{prose(3)}\n\n{fits}\n\n{prose(3)}") if "```" in passage.text]
    assert passage.text.count("value =") == 6
    longer = markdown("```\n" + "\n".join([line] * 40) + "\n```")
    assert len(longer) > 4
    assert all(passage.text.splitlines()[-1] in (line, "```") for passage in longer)


def test_tables_are_never_cut_inside_a_row() -> None:
    rows = [f"| Row number {i} | with a value. And more |" for i in range(40)]
    passages = markdown("| Name | Value |\n|---|---|\n" + "\n".join(rows))
    assert len(passages) > 4
    assert [line for passage in passages for line in passage.text.splitlines()][2:] == rows


def test_headings_in_a_path_are_bounded_and_of_one_line() -> None:
    parsed = ParsedDocument(
        "H\nx", (Block(0, 1, BlockKind.HEADING, 1, "long\n" * 1000), Block(2, 3, BlockKind.PARAGRAPH))
    )
    [passage] = chunk(parsed, LIMITS)
    assert len(passage.headings[0]) <= 200
    assert passage.headings[0].endswith("…")
    assert "\n" not in passage.headings[0]


def test_pages_are_those_of_the_passages_start() -> None:
    text = f"{prose(4)}\n\n{prose(4, 10)}"
    second = text.index(sentence(10))
    blocks = (Block(0, second - 2, BlockKind.PARAGRAPH), Block(second, len(text), BlockKind.PARAGRAPH))
    parsed = ParsedDocument(text, blocks, page_starts=(0, second))
    assert [passage.page for passage in chunk(parsed, LIMITS)] == [1, 2]
    assert [ParsedDocument(text, blocks).page_of(offset) for offset in (0, second)] == [0, 0]


def test_nothing_gives_no_passages() -> None:
    assert chunk(ParsedDocument(" \n ", (Block(0, 3, BlockKind.PARAGRAPH),)), LIMITS) == ()


@pytest.mark.parametrize(("target", "maximum", "overlap"), [(0, 10, 0), (100, 50, 0), (100, 200, 26), (100, 200, -1)])
def test_limits_that_cannot_work_are_refused(target: int, maximum: int, overlap: int) -> None:
    with pytest.raises(ValueError, match="must be"):
        ChunkLimits(target, maximum, overlap)


class CountingText(str):
    """A text that counts how many characters are read from it."""

    __slots__ = ("read",)
    read: int

    def __getitem__(self, key: object) -> str:
        found = super().__getitem__(key)  # type: ignore[index]  # str's own signature, kept as it is
        self.read = getattr(self, "read", 0) + len(found)
        return found


@pytest.mark.parametrize(
    "unit", ["a", ".", "(a). ", "word ", "A sentence here. ", "\n", "a\n\n", "。", ") ", "x" + " " * 400, "e\u0301"]
)
def test_the_characters_read_grow_with_the_text_and_no_faster(unit: str) -> None:
    def cost(length: int) -> float:
        text = CountingText(("x" + unit * length)[:length])
        parsed = parse_text(text.encode())
        # One block for all, the worst case of splitting, and the blocks of the text, that of merging.
        for blocks in ((Block(0, length, BlockKind.PARAGRAPH),), parsed.blocks):
            chunk(ParsedDocument(text, blocks), ChunkLimits())
        return text.read / length

    assert cost(80_000) <= 1.5 * cost(20_000) + 1
    assert cost(80_000) < 40
