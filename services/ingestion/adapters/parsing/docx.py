"""Word documents (.docx): paragraphs, lists and tables in document order."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator
from typing import Any

import docx
from docx.oxml.ns import qn

from services.ingestion.adapters.parsing._builder import TextBuilder, as_title, fold_lines, no_text, one_line
from services.ingestion.parsed import BlockKind, FailureReason, ParsedDocument, ParseFailure

MAX_UNPACKED_BYTES = 200 * 1024 * 1024
MAX_MEMBERS = 10_000
_SUSPICIOUS_RATIO = 200
_SUSPICIOUS_BYTES = 20 * 1024 * 1024
_HEADING_STYLE = re.compile(r"heading (\d)")
_MAX_STYLE_DEPTH = 12

_PARAGRAPH, _TABLE, _ROW, _CELL = qn("w:p"), qn("w:tbl"), qn("w:tr"), qn("w:tc")
_TEXT, _TAB, _PROPERTIES, _VALUE = qn("w:t"), qn("w:tab"), qn("w:pPr"), qn("w:val")
_BREAKS = frozenset({qn("w:br"), qn("w:cr")})
_HYPHEN = qn("w:noBreakHyphen")
# Deleted text, fields' codes, and the second copy of what newer versions of Word draw otherwise.
_SKIPPED = frozenset(
    {
        qn("w:del"),
        qn("w:moveFrom"),
        qn("w:instrText"),
        qn("w:rPr"),
        qn("w:sdtPr"),
        "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback",
    }
)


def parse_docx(content: bytes) -> ParsedDocument:
    """Parse a Word document; tables become one line per row, cells joined by `` | ``.

    Headers, footers, notes and comments are left out. Raises ParseFailure: RESOURCE_LIMIT for an archive that
    unpacks to more than any document would, MALFORMED, NO_TEXT or TOO_LARGE.
    """
    _check_archive(content)
    try:
        document = docx.Document(io.BytesIO(content))
        builder = _extract(document)
        builder.title = as_title(document.core_properties.title) or builder.title
    except (ParseFailure, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - python-docx and lxml raise nearly anything on broken files
        raise _malformed(type(error).__name__) from None
    if builder.empty:
        raise no_text("document", "if it consists of pictures, send a version with text")
    return builder.build()


def _check_archive(content: bytes) -> None:
    """Refuse archive bombs by the sizes in their directory, before anything is unpacked."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
    except Exception as error:  # noqa: BLE001 - zipfile too: BadZipFile, struct.error, ValueError ...
        raise _malformed(type(error).__name__) from None
    if any(member.flag_bits & 1 for member in members):
        raise ParseFailure(FailureReason.ENCRYPTED, "The document is protected by a password; remove it and try again.")
    unpacked = sum(member.file_size for member in members)
    bomb = any(
        member.file_size > _SUSPICIOUS_BYTES and member.file_size > _SUSPICIOUS_RATIO * max(1, member.compress_size)
        for member in members
    )
    if bomb or unpacked > MAX_UNPACKED_BYTES or len(members) > MAX_MEMBERS:
        raise ParseFailure(
            FailureReason.RESOURCE_LIMIT,
            "The document unpacks to far more data than can be read; save it again without large pictures or objects.",
        )


def _malformed(detail: str) -> ParseFailure:
    return ParseFailure(
        FailureReason.MALFORMED,
        "The document is not a complete Word document; open it in Word, save it as .docx and send it again.",
        detail=detail,
    )


def _extract(document: Any) -> TextBuilder:
    builder = TextBuilder()
    styles = _Styles(document)
    for element in _content(document.element.body):
        if element.tag == _PARAGRAPH:
            text = fold_lines("".join(_words(element)))
            kind, level = styles.kind_of(element)
            if kind is BlockKind.HEADING:
                text = one_line(text)
                if level == 0:
                    builder.title = builder.title or as_title(text)
                builder.add(text, kind, max(1, level))
            else:
                builder.add(f"- {text}" if text and kind is BlockKind.LIST_ITEM else text, kind)
        else:
            cells = (one_line("".join(_words(cell))) for cell in element.iterchildren(_CELL))
            builder.add(" | ".join(cell for cell in cells if cell), BlockKind.TABLE_ROW)
    return builder


def _content(body: Any) -> Iterator[Any]:
    """The paragraphs and table rows in order, also inside content controls; without recursion."""
    pending = list(reversed(body))
    while pending:
        element = pending.pop()
        if element.tag in (_PARAGRAPH, _ROW):
            yield element
            # Tables inside a cell follow the row that they stand in, row by row; text boxes stay in their paragraph.
            if element.tag == _ROW:
                pending.extend(
                    reversed([table for cell in element.iterchildren(_CELL) for table in _inner_tables(cell)])
                )
        elif element.tag not in _SKIPPED:
            pending.extend(reversed(element))


def _inner_tables(cell: Any) -> list[Any]:
    return list(cell.iterchildren(_TABLE))


def _words(root: Any) -> Iterator[str]:
    """The text of a paragraph or a cell, in order; nested tables of a cell are left to their own rows."""
    pending = list(reversed(root))
    while pending:
        element = pending.pop()
        if element is None:
            yield "\n"
            continue
        tag = element.tag
        if tag == _TEXT:
            yield element.text or ""
        elif tag == _TAB:
            yield "\t"
        elif tag in _BREAKS:
            yield "\n"
        elif tag == _HYPHEN:
            yield "-"
        elif tag in _SKIPPED or tag in (_PROPERTIES, _TABLE):
            continue
        else:
            if tag == _PARAGRAPH:
                yield "\n"
                pending.append(None)
            pending.extend(reversed(element))


class _Styles:
    """What a paragraph is, by its style (and the styles that one is based on) and its own properties."""

    def __init__(self, document: Any) -> None:
        self._styles = {
            style.get(qn("w:styleId")): style for style in document.styles.element.iterchildren(qn("w:style"))
        }
        self._known: dict[str, tuple[BlockKind, int]] = {}

    def kind_of(self, paragraph: Any) -> tuple[BlockKind, int]:
        """The kind of a paragraph, and the level of a heading (0: the document's title)."""
        properties = paragraph.find(_PROPERTIES)
        if properties is None:
            return BlockKind.PARAGRAPH, 0
        named = properties.find(qn("w:pStyle"))
        style_id = named.get(_VALUE) if named is not None else None
        kind, level = self._of_style(style_id) if style_id else (BlockKind.PARAGRAPH, 0)
        if kind is BlockKind.HEADING:
            return kind, level
        own = self._of_properties(properties)
        return own if own is not None else (kind, level)

    def _of_style(self, style_id: str) -> tuple[BlockKind, int]:
        if style_id not in self._known:
            self._known[style_id] = self._look_up(style_id)
        return self._known[style_id]

    def _look_up(self, style_id: str) -> tuple[BlockKind, int]:
        current: str | None = style_id
        for _ in range(_MAX_STYLE_DEPTH):
            style = self._styles.get(current)
            if style is None:
                break
            # Built-in styles have the same (English) name in every language of Word; their ids differ.
            named = style.find(qn("w:name"))
            name = (named.get(_VALUE) or "").lower() if named is not None else ""
            if match := _HEADING_STYLE.fullmatch(name):
                return BlockKind.HEADING, min(6, max(1, int(match.group(1))))
            if name == "title":
                return BlockKind.HEADING, 0
            if name.startswith("list"):
                return BlockKind.LIST_ITEM, 0
            properties = style.find(_PROPERTIES)
            own = self._of_properties(properties) if properties is not None else None
            if own is not None:
                return own
            based = style.find(qn("w:basedOn"))
            current = based.get(_VALUE) if based is not None else None
        return BlockKind.PARAGRAPH, 0

    @staticmethod
    def _of_properties(properties: Any) -> tuple[BlockKind, int] | None:
        outline = properties.find(qn("w:outlineLvl"))
        level = (outline.get(_VALUE) or "") if outline is not None else ""
        if level in ("0", "1", "2", "3", "4", "5"):
            return BlockKind.HEADING, int(level) + 1
        if properties.find(qn("w:numPr")) is not None:
            return BlockKind.LIST_ITEM, 0
        return None
