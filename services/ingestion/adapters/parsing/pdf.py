"""PDF: the text layer, page by page, without running heads and page numbers."""

from __future__ import annotations

import io
import logging
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from pypdf import PasswordType, PdfReader
from pypdf.errors import LimitReachedError

from services.ingestion.adapters.parsing._builder import as_title, no_text
from services.ingestion.adapters.parsing._pdf_layout import Fragment, Line, compose, is_large, lines_of, usual_size
from services.ingestion.parsed import FailureReason, ParsedDocument, ParseFailure

# Its warnings quote the file, whose content must not reach a log.
logging.getLogger("pypdf").setLevel(logging.CRITICAL)

_FILE_NAME_TITLE = re.compile(
    r"untitled|microsoft (?:word|powerpoint|excel) - .*|.*\.(?:docx?|indd|tex|dvi|qxd|rtf|pptx?)", re.IGNORECASE
)
_NUMBER = re.compile(r"\d{1,5}")
_EDGE_LINES = 2
_MIN_PAGES = 3
# Left and right pages often carry different heads, so one head shows on a little less than half of the pages.
_REPEAT_SHARE = 0.4


def parse_pdf(content: bytes) -> ParsedDocument:
    """Parse a PDF.

    Lines are joined into paragraphs and words divided at line ends repaired; a paragraph may run over a page's
    end. Larger type makes headings. Raises ParseFailure: MALFORMED, ENCRYPTED, NO_TEXT (a scan), RESOURCE_LIMIT
    or TOO_LARGE.
    """
    page: int | None = None
    pages: list[list[Line]] = []
    try:
        reader = PdfReader(io.BytesIO(content), strict=False)
        _unlock(reader)
        title = reader.metadata.title if reader.metadata is not None else None
        for page, sheet in enumerate(reader.pages):
            pages.append(_read_page(sheet, page))
        builder_title = as_title(title if isinstance(title, str) else None)
    except (ParseFailure, MemoryError):
        raise
    except LimitReachedError:
        raise ParseFailure(
            FailureReason.RESOURCE_LIMIT, "The PDF unpacks to far more data than can be read; save it again, smaller."
        ) from None
    except Exception as error:  # noqa: BLE001 - pypdf raises nearly anything on broken files
        where = "The file is not a complete PDF" if page is None else f"The PDF is damaged near page {page + 1}"
        raise ParseFailure(
            FailureReason.MALFORMED,
            f"{where}; open it in a PDF viewer, print it to a new PDF and send that.",
            detail=type(error).__name__,
        ) from None
    parsed = compose(_without_furniture(pages), len(pages))
    if not parsed.text:
        raise no_text("PDF", "if it is a scan, run text recognition (OCR) on it and send it again")
    if builder_title is None or _FILE_NAME_TITLE.fullmatch(builder_title):
        return parsed
    return ParsedDocument(parsed.text, parsed.blocks, builder_title, parsed.page_starts)


def _unlock(reader: PdfReader) -> None:
    """Open a PDF that only restricts printing or copying; refuse one that needs a password to be read."""
    if not reader.is_encrypted:
        return
    try:
        opened = reader.decrypt("") is not PasswordType.NOT_DECRYPTED
    except Exception:  # noqa: BLE001 - an unknown or broken scheme of encryption
        opened = False
    if not opened:
        raise ParseFailure(
            FailureReason.ENCRYPTED, "The PDF is protected by a password; remove the password and send it again."
        )


def _read_page(sheet: Any, page: int) -> list[Line]:
    fragments: list[Fragment] = []

    def visit(text: str, matrix: Sequence[float], text_matrix: Sequence[float], font: Any, size: float) -> None:
        if text.strip():
            fragments.append(_fragment(text, matrix, text_matrix, font, size))

    whole = sheet.extract_text(visitor_text=visit) or ""
    if len("".join(whole.split())) != sum(len("".join(fragment.text.split())) for fragment in fragments):
        # Positions are a bonus: never lose text over them.
        fragments = [Fragment(whole, 0.0, None, 0.0, False)]
    return lines_of(fragments, page)


def _fragment(text: str, matrix: Sequence[float], text_matrix: Sequence[float], font: Any, size: float) -> Fragment:
    x, y = float(text_matrix[4]), float(text_matrix[5])
    scale = math.hypot(text_matrix[2], text_matrix[3]) * math.hypot(matrix[2], matrix[3])
    name = str(font.get("/BaseFont", "")) if isinstance(font, dict) else ""
    return Fragment(
        text,
        x * matrix[0] + y * matrix[2] + matrix[4],
        x * matrix[1] + y * matrix[3] + matrix[5],
        float(size) * scale,
        "bold" in name.lower(),
    )


def _without_furniture(pages: list[list[Line]]) -> list[Line]:
    """All lines, but for those at the top or bottom of a page that repeat over the pages."""
    everything = [line for lines in pages for line in lines]
    if len(pages) < _MIN_PAGES:
        return everything
    body = usual_size(everything)
    counts: Counter[tuple[str, int | None]] = Counter()
    edges = [
        # Large type is a chapter's own heading, even where the chapters count along with the pages.
        {id(line): list(_signs(line)) for line in _edge_lines(lines) if not is_large(line, body)}
        for lines in pages
    ]
    for edge in edges:
        counts.update({sign for signs in edge.values() for sign in signs})
    needed = max(_MIN_PAGES, math.ceil(len(pages) * _REPEAT_SHARE))
    dropped = {line for edge in edges for line, signs in edge.items() if any(counts[sign] >= needed for sign in signs)}
    # Where nothing else is left, the repeated lines are the document.
    return [line for line in everything if id(line) not in dropped] or everything


def _edge_lines(lines: list[Line]) -> list[Line]:
    """The lines at a page's top and bottom: by position, as they may come in any order in the file."""
    ordered = lines if any(line.y is None for line in lines) else sorted(lines, key=lambda line: -(line.y or 0.0))
    return [*ordered[:_EDGE_LINES], *ordered[_EDGE_LINES:][-_EDGE_LINES:]]


def _signs(line: Line) -> Iterator[tuple[str, int | None]]:
    """What makes a line the same on another page: its text, or its text around a number that counts the pages."""
    yield line.text, None
    for match in list(_NUMBER.finditer(line.text))[:4]:
        yield f"{line.text[: match.start()]}\0{line.text[match.end() :]}", int(match.group()) - line.page
