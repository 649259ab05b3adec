"""Generation reads passages in time linear in their length, whatever they contain (X1)."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from services.generation.extraction import candidates
from services.generation.ports import Passage
from services.generation.readable import readable
from services.generation.sentences import split_sentences

Reader = Callable[[str], object]

_PIECES = [" ", "\t", "a", "-", "_", "*", "`", "|", "[", ">", "> ", "- ", "* ", "|-", "| ", "[a", "*a ", " #", "a: b\n"]
_PIECES += ["|a|b|\n", "a:\n\n", "- a:\n", "# a\n", "a. ", "? ", "[a](", "\\", "1. "]
_BEGINNINGS = ["", "| a | b |\n", "# a", "> "]


def _seconds(read: Reader, text: str) -> float:
    best = float("inf")
    for _ in range(3):
        began = time.thread_time()
        read(text)
        best = min(best, time.thread_time() - began)
    return best


def _grows_linearly(read: Reader, beginning: str, piece: str, end: str, length: int) -> bool:
    def text(characters: int) -> str:
        return beginning + piece * (characters // len(piece)) + end

    # Ten times the text takes about ten times as long; quadratic work would take a hundred times.
    return _seconds(read, text(length)) < 30 * max(_seconds(read, text(length // 10)), 0.0002)


@pytest.mark.parametrize("beginning", _BEGINNINGS)
def test_splitting_a_passage_is_linear(beginning: str) -> None:
    """Runs of each kind of mark, in a passage and in the line below a table's header (X1)."""
    for piece in _PIECES:
        assert _grows_linearly(split_sentences, beginning, piece, "| a | b", 4_000), (beginning, piece)


@pytest.mark.parametrize("piece", _PIECES)
def test_the_readable_form_is_linear(piece: str) -> None:
    """Decoration that never closes (X1)."""
    for beginning in ("", "# ", "> "):
        assert _grows_linearly(readable, beginning, piece, "x", 8_000), (
            beginning
        )  # emphasis spans at most 480 characters


def test_a_passage_of_sentences_that_introduce_lists_is_linear() -> None:
    """Each of them looks for its list; none copies what follows it (X1)."""

    def read(text: str) -> object:
        return candidates("?", [Passage("p", "", text, 0.0)], 0)

    assert _grows_linearly(read, "", "a:\n\n", "a", 30_000)


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("## A title ##", "A title"),
        ("# a #b", "a #b"),
        ("#", "#"),
        ("#######  a", "####### a"),
        ("> quoted", "quoted"),
        ("when x > 5", "when x > 5"),
    ],
)
def test_headings_and_quotes_lose_their_marks(source: str, shown: str) -> None:
    """A ">" inside a sentence is content."""
    assert readable(source) == shown
