"""Which format a document is in, from what its sender says and from what its bytes show. Pure."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from services.corpus.document import MediaType
from services.ingestion.parsed import FailureReason, ParseFailure

_ALIASES = {
    "text/x-markdown": MediaType.MARKDOWN,
    "text/x-web-markdown": MediaType.MARKDOWN,
    "application/xhtml+xml": MediaType.HTML,
    "application/x-pdf": MediaType.PDF,
}
# What clients send when they do not know.
_UNKNOWN = frozenset({"", "application/octet-stream", "binary/octet-stream", "application/unknown"})
_EXTENSIONS = {
    ".txt": MediaType.TEXT,
    ".text": MediaType.TEXT,
    ".log": MediaType.TEXT,
    ".md": MediaType.MARKDOWN,
    ".markdown": MediaType.MARKDOWN,
    ".mdown": MediaType.MARKDOWN,
    ".html": MediaType.HTML,
    ".htm": MediaType.HTML,
    ".xhtml": MediaType.HTML,
    ".pdf": MediaType.PDF,
    ".docx": MediaType.DOCX,
}
_NAMES = {
    MediaType.TEXT: "plain text",
    MediaType.MARKDOWN: "Markdown",
    MediaType.HTML: "HTML",
    MediaType.PDF: "a PDF",
    MediaType.DOCX: "a Word document (.docx)",
}
_SUPPORTED = "plain text, Markdown, HTML, PDF and Word (.docx)"
_HTML_START = re.compile(
    rb"\s*(?:<\?xml[^>]{0,200}>\s*)?(?:<!--.{0,500}?-->\s*)*<(?:!doctype\s+html|html|head|body)\b",
    re.IGNORECASE | re.DOTALL,
)
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_FOREIGN = (
    (b"\x89PNG\r\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"II*\x00", "a TIFF image"),
    (b"MM\x00*", "a TIFF image"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"{\\rtf", "a rich text (RTF) file"),
    (b"\x7fELF", "a program"),
)


def detect_media_type(declared: str | None, filename: str, content: bytes) -> MediaType:
    """Decide the format of ``content``.

    The bytes' own signature comes first, then the declared type (parameters such as charset are ignored), then the
    file name's extension, then a look at the text. Raises ParseFailure: EMPTY for no bytes, ENCRYPTED for a Word
    document with a password, and UNSUPPORTED_MEDIA_TYPE for a format that cannot be read, or when the declared
    type (or a name that ends in .pdf or .docx) contradicts the signature.
    """
    if not content:
        raise ParseFailure(FailureReason.EMPTY, "The document is empty; send a file that has content.")
    wanted = _declared(declared)
    named = _EXTENSIONS.get(PurePosixPath(filename.replace("\\", "/")).suffix.lower())
    shown = _signature(content)
    if wanted is None and shown is None:
        wanted = named or (MediaType.HTML if _HTML_START.match(content[:4096]) else None)
    if shown is not None:
        if wanted not in (None, shown):
            raise _unsupported(
                f"The document was declared as {_NAMES[wanted]}, but its content is {_NAMES[shown]};"
                " declare the right media type or none."
            )
        return shown
    if wanted in (MediaType.PDF, MediaType.DOCX):
        raise _unsupported(
            f"The document was declared or named as {_NAMES[wanted]}, but its content is not; "
            "check that the file is complete and opens in its own program."
        )
    if wanted is None:
        if b"\x00" in content[:4096] and not content.startswith(_UTF16_MARKS):
            raise _unsupported(f"The document is in a binary format that cannot be read; send {_SUPPORTED}.")
        return MediaType.TEXT
    return wanted


def _declared(declared: str | None) -> MediaType | None:
    name = (declared or "").partition(";")[0].strip().lower()
    if name in _UNKNOWN:
        return None
    for media_type in MediaType:
        if name == media_type.value:
            return media_type
    if name in _ALIASES:
        return _ALIASES[name]
    raise _unsupported(f"Documents of the declared media type cannot be read; send {_SUPPORTED}.")


def _signature(content: bytes) -> MediaType | None:
    # Readers of PDF accept a few stray bytes (a mark, a newline) before the signature.
    if content[:16].removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"%PDF-"):
        return MediaType.PDF
    if content.startswith(_ZIP):
        # The directory of an untrusted archive is the worker's business; a plain search is enough to choose it.
        if b"word/document" in content:
            return MediaType.DOCX
        raise _unsupported(f"The document is an archive or another office format; send {_SUPPORTED}.")
    if content.startswith(_OLE):
        if "EncryptedPackage".encode("utf-16-le") in content:
            raise ParseFailure(
                FailureReason.ENCRYPTED, "The document is protected by a password; remove it and send it again."
            )
        raise _unsupported("The document is in an old Office format; save it as .docx or PDF and send it again.")
    for signature, name in _FOREIGN:
        if content.startswith(signature):
            raise _unsupported(f"The document is {name}, which cannot be read; send {_SUPPORTED}.")
    return None


def _unsupported(message: str) -> ParseFailure:
    return ParseFailure(FailureReason.UNSUPPORTED_MEDIA_TYPE, message)
