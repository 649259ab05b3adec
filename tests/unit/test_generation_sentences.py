"""Sentences of passages: where they end, what they are, and how they read."""

from __future__ import annotations

import pytest

from services.generation.blocks import BlockKind
from services.generation.readable import readable
from services.generation.sentences import MAX_SENTENCE, split_sentences


def shown(text: str) -> list[str]:
    return [piece.readable for piece in split_sentences(text)]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One is here. Two is there! Three?", ["One is here.", "Two is there!", "Three?"]),
        ("Dr. Kröger met Prof. Lund. They agreed.", ["Dr. Kröger met Prof. Lund.", "They agreed."]),
        ("It costs 3.5 million. That is 2.1 % more.", ["It costs 3.5 million.", "That is 2.1 % more."]),
        ("See e.g. Fig. 3 or no. 4. Then stop.", ["See e.g. Fig. 3 or no. 4.", "Then stop."]),
        ("J. R. R. Tolkien wrote it. He did.", ["J. R. R. Tolkien wrote it.", "He did."]),
        ("Bring pens, paper etc. and go. Done.", ["Bring pens, paper etc. and go.", "Done."]),
        ("Bring pens, paper etc. The rest is there.", ["Bring pens, paper etc.", "The rest is there."]),
        ("It is run by Acme B.V. The seat is here.", ["It is run by Acme B.V.", "The seat is here."]),
        ("It is run by Acme B.V. Rotterdam.", ["It is run by Acme B.V. Rotterdam."]),
        ("Gültig ab 1. Juli 2024. Danach nicht.", ["Gültig ab 1. Juli 2024.", "Danach nicht."]),
        ("Am 24. und am 31. Dezember ist zu.", ["Am 24. und am 31. Dezember ist zu."]),
        ("It ended in 2011. Nobody came.", ["It ended in 2011.", "Nobody came."]),
        ('He said "Stop." Then he left.', ['He said "Stop."', "Then he left."]),
        ("Wait... Then go.", ["Wait...", "Then go."]),
        ("これは一つ。これは二つ。", ["これは一つ。", "これは二つ。"]),
        ("Write to a.b@c.example or www.d.example today.", ["Write to a.b@c.example or www.d.example today."]),
        ("A line that\nis wrapped. And on\nit goes.", ["A line that is wrapped.", "And on it goes."]),
    ],
)
def test_sentences_end_where_a_reader_ends_them(text: str, sentences: list[str]) -> None:
    assert shown(text) == sentences


def test_markdown_structure_is_recognised() -> None:
    text = (
        "# Guide\n\n## 4. Budget\n\nThe budget covers:\n\n- **desks** and chairs;\n- `lamps`.\n\n"
        "| City | Limit |\n|---|---:|\n| Lyon | €140 |\n| Oslo | €190 |\n\nRun this:\n\n```sh\nmake all\nmake test\n```\n"
    )
    pieces = split_sentences(text)
    assert [(piece.kind, piece.readable) for piece in pieces] == [
        (BlockKind.HEADING, "Guide"),
        (BlockKind.HEADING, "Budget"),
        (BlockKind.PROSE, "The budget covers:"),
        (BlockKind.LIST_ITEM, "desks and chairs;"),
        (BlockKind.LIST_ITEM, "lamps."),
        (BlockKind.TABLE_HEADER, "City: Limit"),
        (BlockKind.TABLE_ROW, "City: Lyon; Limit: €140"),
        (BlockKind.TABLE_ROW, "City: Oslo; Limit: €190"),
        (BlockKind.PROSE, "Run this:"),
        (BlockKind.CODE, "make all make test"),
    ]
    assert [piece.lead for piece in pieces] == [-1, -1, -1, 2, 2, -1, -1, -1, -1, 8]
    assert pieces[3].headings == ("Guide", "Budget")
    assert pieces[0].headings == ()
    assert text[pieces[3].start : pieces[3].end] == "- **desks** and chairs;"
    assert text[pieces[6].start : pieces[6].end] == "| Lyon | €140 |"


def test_code_belongs_to_the_list_item_that_introduces_it() -> None:
    pieces = split_sentences("1. Stop writes:\n   ```\n   stop it\n   ```\n2. Wait.\n")
    assert [piece.readable for piece in pieces] == ["Stop writes:", "stop it", "Wait."]
    assert [piece.lead for piece in pieces] == [-1, 0, -1]


def test_headings_of_text_without_markup_are_recognised() -> None:
    text = "TRAVEL POLICY\n\n1. SCOPE\n\nIt applies to all.\n\nWho pays?\n\nThe company pays.\n\nPhone 4200\n\nNo one."
    pieces = split_sentences(text)
    assert [piece.readable for piece in pieces if piece.kind is BlockKind.HEADING] == [
        "TRAVEL POLICY",
        "SCOPE",
        "Who pays?",
    ]
    assert next(piece for piece in pieces if piece.readable == "The company pays.").headings == ("Who pays?",)
    assert next(piece for piece in pieces if piece.readable == "Phone 4200").kind is BlockKind.PROSE


def test_setext_headings_and_rules() -> None:
    pieces = split_sentences("Title\n=====\n\nText.\n\n---\n\nMore.\n")
    assert [(piece.kind, piece.readable) for piece in pieces] == [
        (BlockKind.HEADING, "Title"),
        (BlockKind.PROSE, "Text."),
        (BlockKind.PROSE, "More."),
    ]


def test_extracted_tables_get_their_header_only_when_it_is_sure() -> None:
    rows = "Office | Floors | Desks\nLyon | 3 | 140\nOslo | 1 | 52"
    assert shown(f"Our offices\n\n{rows}")[1:] == [
        "Office; Floors; Desks",
        "Office: Lyon; Floors: 3; Desks: 140",
        "Office: Oslo; Floors: 1; Desks: 52",
    ]
    # At its beginning a passage may begin inside a table.
    assert shown(rows)[1] == "Lyon; 3; 140"
    assert shown("Facts\n\nOwner | Finance\nState | valid")[1:] == ["Owner: Finance", "State: valid"]


def test_a_wall_of_text_is_cut_into_bounded_pieces() -> None:
    text = "word " * 1000
    pieces = split_sentences(text)
    assert max(piece.end - piece.start for piece in pieces) <= MAX_SENTENCE
    assert sum(len(text[piece.start : piece.end].split()) for piece in pieces) == 1000
    assert [piece.end - piece.start for piece in split_sentences("x" * 1000)] == [480, 480, 40]


@pytest.mark.parametrize(
    ("source", "plain"),
    [
        ("- **Bold** and *soft* and __both__", "Bold and soft and both"),
        ("### 2. A `name_with_underscores` ###", "A name_with_underscores"),
        ("see [the guide](https://a.example/b_(c)) now", "see the guide now"),
        ("![logo](x.png) text", "logo text"),
        ("a fact [3] and a note [^4]", "a fact and a note"),
        ("> quoted\n> twice", "quoted twice"),
        ("2 * 3 * 4 and snake_case_name", "2 * 3 * 4 and snake_case_name"),
        ("   spaced\n  out ", "spaced out"),
        ("12) item", "item"),
    ],
)
def test_the_readable_form_has_no_decoration(source: str, plain: str) -> None:
    assert readable(source) == plain
