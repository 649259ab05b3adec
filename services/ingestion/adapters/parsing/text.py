"""Plain text: decoding, and paragraphs between empty lines."""

from __future__ import annotations

import codecs
import re

from services.ingestion.adapters.parsing._builder import check_length
from services.ingestion.parsed import Block, BlockKind, FailureReason, ParsedDocument, ParseFailure

# Longest first: the mark of UTF-32-LE begins with that of UTF-16-LE.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f-\x9f]")
_MAX_WINDOWS_SHARE = 0.25


def parse_text(content: bytes) -> ParsedDocument:
    """Parse plain text. Raises ParseFailure: EMPTY, WRONG_ENCODING or TOO_LARGE."""
    text = decode(content)
    return ParsedDocument(text, tuple(paragraphs(text, 0, len(text))))


def paragraphs(text: str, start: int, end: int) -> list[Block]:
    """The paragraphs of ``text[start:end]``: runs of lines that are not blank."""
    blocks: list[Block] = []
    first: int | None = None
    last = start
    for line_start, line_end in lines(text, start, end):
        if text[line_start:line_end].isspace() or line_start == line_end:
            if first is not None:
                blocks.append(Block(first, last, BlockKind.PARAGRAPH))
            first = None
        else:
            first = line_start if first is None else first
            last = line_end
    if first is not None:
        blocks.append(Block(first, last, BlockKind.PARAGRAPH))
    return blocks


_NEWLINE = re.compile(r"\r\n|\n|\r")


def lines(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """The spans of the lines of ``text[start:end]``, without their newlines."""
    spans = []
    for match in _NEWLINE.finditer(text, start, end):
        spans.append((start, match.start()))
        start = match.end()
    spans.append((start, end))
    return spans


def decode(content: bytes) -> str:
    """Decode a text file: by its byte order mark, else as UTF-8, else (cautiously) as Windows-1252.

    Raises ParseFailure: EMPTY when there is nothing but whitespace, WRONG_ENCODING when the bytes are not text in
    one of these encodings, TOO_LARGE for too much text.
    """
    text = _decode(content)
    if "\x00" in text:
        raise _wrong_encoding()
    if not text.strip():
        raise ParseFailure(FailureReason.EMPTY, "The document is empty; send a file that has content.")
    check_length(text)
    return text


def _decode(content: bytes) -> str:
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            try:
                return content[len(mark) :].decode(encoding)
            except UnicodeDecodeError:
                raise _wrong_encoding() from None
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return decode_windows(content)


def decode_windows(content: bytes) -> str:
    """Decode as Windows-1252, the legacy encoding of Western European files, if that is plausible.

    Any bytes at all can be read as Windows-1252, so binary data, damaged UTF-8 and text in other alphabets
    are refused (WRONG_ENCODING) rather than indexed as gibberish: control characters, valid UTF-8 sequences
    beside the invalid ones, or more than a quarter of characters outside ASCII.
    """
    try:
        text = content.decode("cp1252")
    except UnicodeDecodeError:
        raise _wrong_encoding() from None
    if _CONTROLS.search(text) or not all(
        ord(character) < 128 or character == "\ufffd" for character in set(content.decode("utf-8", "replace"))
    ):
        raise _wrong_encoding()
    visible = len(text) - sum(text.count(space) for space in " \t\r\n")
    foreign = len(text) - len(text.encode("ascii", "ignore"))
    if foreign > _MAX_WINDOWS_SHARE * visible:
        raise _wrong_encoding()
    return text


def _wrong_encoding() -> ParseFailure:
    return ParseFailure(
        FailureReason.WRONG_ENCODING, "The document is not text in UTF-8 or UTF-16; save it as UTF-8 and send it again."
    )
