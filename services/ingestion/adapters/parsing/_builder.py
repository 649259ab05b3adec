"""What the parsers share: decoding, cleaning, and putting extracted text together with its blocks."""

from __future__ import annotations

import re

from services.ingestion.parsed import MAX_TEXT_CHARS, Block, BlockKind, FailureReason, ParsedDocument, ParseFailure

# Control characters and lone surrogates mean nothing to readers, and neither protobuf nor databases take them all.
_UNWANTED = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufffe\uffff\u00ad]")
_RUNS = re.compile(r"[^\S\n]+")
_MAX_TITLE_CHARS = 300


def clean(text: str) -> str:
    """``text`` without control characters, soft hyphens and lone surrogates."""
    return _UNWANTED.sub("", text)


def one_line(text: str) -> str:
    """``text`` cleaned, its whitespace folded to single spaces."""
    return " ".join(clean(text).split())


def fold_lines(text: str) -> str:
    """``text`` cleaned, whitespace inside each line folded, empty lines dropped."""
    lines = (_RUNS.sub(" ", line).strip() for line in clean(text).splitlines())
    return "\n".join(line for line in lines if line)


def as_title(text: str | None) -> str | None:
    """A title fit to show, or None."""
    title = one_line(text or "")
    return title[:_MAX_TITLE_CHARS].rstrip() or None


def check_length(text: str) -> None:
    """Raise TOO_LARGE for more text than a document may have."""
    if len(text) > MAX_TEXT_CHARS:
        raise ParseFailure(
            FailureReason.TOO_LARGE,
            f"The document has more than {MAX_TEXT_CHARS:,} characters of text; split it into smaller documents.",
        )


class TextBuilder:
    """Collects extracted blocks and gives them their offsets."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._blocks: list[Block] = []
        self._length = 0
        self.title: str | None = None

    @property
    def length(self) -> int:
        """Where the text ends for now."""
        return self._length

    @property
    def empty(self) -> bool:
        """Whether no block has been added."""
        return not self._blocks

    def add(self, text: str, kind: BlockKind, level: int = 0) -> int | None:
        """Append a block of clean text and return its start; None, and nothing done, if it is only whitespace."""
        text = text.strip("\n") if kind is BlockKind.CODE else text.strip()
        if not text.strip():
            return None
        if self._blocks:
            # Rows of a table and items of a list stand together; everything else has an empty line between.
            close = kind in (BlockKind.TABLE_ROW, BlockKind.LIST_ITEM) and self._blocks[-1].kind is kind
            self._append("\n" if close else "\n\n")
        start = self._length
        self._append(text)
        heading = one_line(text) if kind is BlockKind.HEADING else ""
        self._blocks.append(Block(start, self._length, kind, level, heading))
        return start

    def build(self, page_starts: tuple[int, ...] = ()) -> ParsedDocument:
        """The document; without a title of its own it takes its first heading's."""
        text = "".join(self._parts)
        check_length(text)
        headings = (block.heading for block in self._blocks if block.kind is BlockKind.HEADING)
        return ParsedDocument(text, tuple(self._blocks), self.title or as_title(next(headings, None)), page_starts)

    def _append(self, text: str) -> None:
        self._parts.append(text)
        self._length += len(text)


def no_text(what: str, remedy: str) -> ParseFailure:
    """The failure of a document in which there is nothing to read."""
    return ParseFailure(FailureReason.NO_TEXT, f"The {what} holds no text that can be read; {remedy}.")
