"""Which format a document is taken for."""

from __future__ import annotations

import pytest

from services.corpus.document import MediaType
from services.ingestion.media_type import detect_media_type
from services.ingestion.parsed import FailureReason, ParseFailure

DOCX = b"PK\x03\x04....word/document.xml...."
PDF = b"%PDF-1.7\n..."
OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"


@pytest.mark.parametrize(
    ("declared", "filename", "content", "expected"),
    [
        ("text/plain", "", b"# x", MediaType.TEXT),
        ("Text/Markdown; charset=utf-8", "x.txt", b"# x", MediaType.MARKDOWN),
        ("text/x-markdown", "", b"# x", MediaType.MARKDOWN),
        ("application/xhtml+xml", "", b"x", MediaType.HTML),
        ("text/plain", "page.html", b"<html>", MediaType.TEXT),
        (None, "a.md", b"<html>", MediaType.MARKDOWN),
        ("", "A.HTM", b"x", MediaType.HTML),
        ("application/octet-stream", "notes.markdown", b"x", MediaType.MARKDOWN),
        (None, "", b"  <!-- c -->\n<!DOCTYPE html><p>", MediaType.HTML),
        (None, "page.php", b"<?xml version='1.0'?><html>", MediaType.HTML),
        (None, "README", b"plain words", MediaType.TEXT),
        (None, "x", "wörter".encode("utf-16"), MediaType.TEXT),
        (None, "x.txt", PDF, MediaType.PDF),
        ("application/pdf", "x", b"\xef\xbb\xbf\n" + PDF, MediaType.PDF),
        (None, "C:\\docs\\x.docx", DOCX, MediaType.DOCX),
        (MediaType.DOCX.value, "", DOCX, MediaType.DOCX),
    ],
)
def test_a_format_is_found(declared: str | None, filename: str, content: bytes, expected: MediaType) -> None:
    assert detect_media_type(declared, filename, content) is expected


@pytest.mark.parametrize(
    ("declared", "filename", "content", "expected", "words"),
    [
        (None, "x", b"", FailureReason.EMPTY, "empty"),
        ("image/png", "x", b"x", FailureReason.UNSUPPORTED_MEDIA_TYPE, "cannot be read"),
        (
            "text/plain",
            "x",
            PDF,
            FailureReason.UNSUPPORTED_MEDIA_TYPE,
            "declared as plain text, but its content is a PDF",
        ),
        (
            "application/pdf",
            "x",
            DOCX,
            FailureReason.UNSUPPORTED_MEDIA_TYPE,
            "declared as a PDF, but its content is a Word",
        ),
        ("application/pdf", "x", b"words", FailureReason.UNSUPPORTED_MEDIA_TYPE, "complete"),
        (None, "x.docx", b"words", FailureReason.UNSUPPORTED_MEDIA_TYPE, "complete"),
        (None, "x.xlsx", b"PK\x03\x04xl/workbook", FailureReason.UNSUPPORTED_MEDIA_TYPE, "archive"),
        (None, "x.doc", OLE, FailureReason.UNSUPPORTED_MEDIA_TYPE, "old Office format"),
        (None, "x.docx", OLE + "EncryptedPackage".encode("utf-16-le"), FailureReason.ENCRYPTED, "password"),
        (None, "x.txt", b"\x89PNG\r\n\x1a\n", FailureReason.UNSUPPORTED_MEDIA_TYPE, "PNG"),
        (None, "x.bin", b"ab\x00cd", FailureReason.UNSUPPORTED_MEDIA_TYPE, "binary"),
    ],
)
def test_a_format_is_refused_with_a_reason(
    declared: str | None, filename: str, content: bytes, expected: FailureReason, words: str
) -> None:
    with pytest.raises(ParseFailure, match=words) as failure:
        detect_media_type(declared, filename, content)
    assert failure.value.reason is expected
    assert not expected.transient
