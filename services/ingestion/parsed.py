"""Parsed documents: what parsing takes and gives, how it fails, and the port that does it. Pure."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from services.corpus.chunk import Passage
from services.corpus.document import MediaType

MAX_CONTENT_BYTES = 64 * 1024 * 1024
MAX_TEXT_CHARS = 10_000_000


class BlockKind(Enum):
    """What a block is, as far as chunking cares."""

    HEADING = "heading"
    PARAGRAPH = "paragraph"
    LIST_ITEM = "list_item"
    TABLE_ROW = "table_row"
    CODE = "code"


@dataclass(frozen=True, slots=True)
class Block:
    """A stretch of a document's text that belongs together: ``text[start:end]``, offsets in code points.

    ``level`` is a heading's level (1 is the outermost) and 0 for other kinds. ``heading`` is what a heading says
    without its markup, and empty for other kinds.
    """

    start: int
    end: int
    kind: BlockKind
    level: int = 0
    heading: str = ""


@dataclass(frozen=True, slots=True)
class ParsedDocument:
    """A document's text and its structure.

    ``text`` is, for plain text and Markdown, the decoded source itself (without a byte order mark; newlines stay
    as they are), so that offsets point into the source; for HTML, PDF and DOCX it is the extracted text.
    ``blocks`` are in order and do not overlap, and every character that is not whitespace lies in one of them;
    the one exception is Markdown front matter, which is data about the document and not part of it.
    ``page_starts[i]`` is the offset where page ``i + 1`` begins; it is empty where a format has no pages.
    """

    text: str
    blocks: tuple[Block, ...]
    title: str | None = None
    page_starts: tuple[int, ...] = ()

    def page_of(self, offset: int) -> int:
        """The page, counted from 1, that ``offset`` lies on; 0 where a format has no pages."""
        if not self.page_starts:
            return 0
        return max(1, bisect_right(self.page_starts, offset))


class FailureReason(Enum):
    """Why a document could not be read."""

    EMPTY = "empty"
    TOO_LARGE = "too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    WRONG_ENCODING = "wrong_encoding"
    MALFORMED = "malformed"
    ENCRYPTED = "encrypted"
    NO_TEXT = "no_text"
    TIMED_OUT = "timed_out"
    RESOURCE_LIMIT = "resource_limit"
    PARSER_CRASHED = "parser_crashed"

    @property
    def transient(self) -> bool:
        """Whether the same document may pass on another try: these depend on the machine, the others do not."""
        return self in _TRANSIENT


_TRANSIENT = frozenset({FailureReason.TIMED_OUT, FailureReason.PARSER_CRASHED})


class ParseFailure(Exception):
    """A document could not be read.

    ``message`` is a sentence for the person who sent the document and names a remedy. ``detail`` is for
    operators' logs alone (an exception's class, a signal's number); it never holds text of the document.
    """

    def __init__(self, reason: FailureReason, message: str, *, detail: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.detail = detail


@dataclass(frozen=True, slots=True)
class ChunkLimits:
    """How long passages are, in code points.

    Neighbouring blocks are merged, and long ones split, near ``target_chars``; no passage is longer than
    ``max_chars``. Where a long block is split, the next part repeats up to ``overlap_chars`` of whole sentences.
    Raises ValueError unless 16 <= target <= max and 0 <= overlap <= target / 4 (splitting must make progress).
    """

    target_chars: int = 900
    max_chars: int = 1500
    overlap_chars: int = 120

    def __post_init__(self) -> None:
        if not 16 <= self.target_chars <= self.max_chars:
            raise ValueError("target_chars must be at least 16 and at most max_chars")
        if not 0 <= self.overlap_chars <= self.target_chars // 4:
            raise ValueError("overlap_chars must be between 0 and a quarter of target_chars")


@dataclass(frozen=True, slots=True)
class SplitDocument:
    """A document that was parsed and chunked: passages in order, offsets into a text of ``text_length`` code points."""

    title: str | None
    text_length: int
    passages: tuple[Passage, ...]


class DocumentParser(Protocol):
    """Turns a document's bytes into passages, off the event loop. Safe to call concurrently."""

    async def split(self, content: bytes, media_type: MediaType, limits: ChunkLimits) -> SplitDocument:
        """Parse and chunk one document; the result has at least one passage.

        Raises ParseFailure, and nothing else, when the document cannot be read. A failure, however bad, concerns
        this document alone.
        """

    async def close(self) -> None:
        """End everything that runs; calls under way fail with ParseFailure. Closing twice is fine."""
