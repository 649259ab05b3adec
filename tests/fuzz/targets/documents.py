"""Documents of every format, and finding out which they are: a ParseFailure or a document that keeps its promises.

An archive's members are changed one by one, since a changed archive would not be one.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from itertools import pairwise
from random import Random

from services.corpus.document import MediaType
from services.ingestion.adapters.parsing import formats
from services.ingestion.media_type import detect_media_type
from services.ingestion.parsed import FailureReason, ParsedDocument, ParseFailure
from tests.fuzz import mutations
from tests.fuzz.source import Source

_FORMATS = (None, *MediaType)
_WORDS = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"


def _archive(members: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            # A time of its own would make another input of the same document.
            archive.writestr(zipfile.ZipInfo(name), content)
    return packed.getvalue()


_TYPES = b"""<?xml version="1.0"?><Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">
<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>
<Default Extension="xml" ContentType="application/xml"/><Override PartName="/word/document.xml"
ContentType="application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"/></Types>"""
_RELATIONS = b"""<?xml version="1.0"?><Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">
<Relationship Id="r1" Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument"
Target="word/document.xml"/></Relationships>"""
_DOCUMENT = f"""<?xml version="1.0"?><w:document xmlns:w="{_WORDS}"><w:body>
<w:p><w:pPr><w:pStyle w:val="Heading1"/></w:pPr><w:r><w:t>Fees</w:t></w:r></w:p>
<w:p><w:r><w:t xml:space="preserve">The fee </w:t><w:tab/><w:br/><w:t>is 42.</w:t></w:r><w:del><w:r><w:delText>x</w:delText></w:r></w:del></w:p>
<w:tbl><w:tr><w:tc><w:tcPr><w:gridSpan w:val="2"/><w:vMerge/></w:tcPr><w:p><w:r><w:t>a</w:t></w:r></w:p></w:tc></w:tr></w:tbl>
<w:sdt><w:sdtContent><w:p><w:hyperlink><w:r><w:t>link</w:t></w:r></w:hyperlink></w:p></w:sdtContent></w:sdt>
</w:body></w:document>""".encode()
_DOCX = _archive({"[Content_Types].xml": _TYPES, "_rels/.rels": _RELATIONS, "word/document.xml": _DOCUMENT})
_PDF = b"""%PDF-1.4
1 0 obj<</Type/Catalog/Pages 2 0 R/Outlines 6 0 R>>endobj
2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1/Rotate 0>>endobj
3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Resources<</Font<</F1 5 0 R>>>>/Contents 4 0 R>>endobj
4 0 obj<</Length 118>>stream
BT /F1 18 Tf 72 700 Td (Fees) Tj 0 -30 Td /F1 11 Tf [(The fee) -250 (is 42.)] TJ T* <4869> Tj 1 0 0 1 72 600 Tm (End) ' ET
endstream endobj
5 0 obj<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding<</Differences[65/a/b]>>/Widths[500 600]/FirstChar 65>>endobj
6 0 obj<</Type/Outlines/First 7 0 R/Count 1>>endobj
7 0 obj<</Title(Fees)/Parent 6 0 R/Dest[3 0 R/XYZ 0 700 0]>>endobj
xref
0 1
0000000000 65535 f
trailer<</Root 1 0 R/Size 8/Info<</Title(Fees)>>>>
startxref
0
%%EOF"""

SEEDS = (
    b"plain text\n\nof two paragraphs\xff\xff\x01",
    b"\xff\xfea\x00b\x00\n\x00\xff\xff\x01",
    b"caf\xe9 cr\xe8me\xff\xff\x01",
    b'# A *b* [c](d)\n\n- one\n  1. two\n\n> three\n\n```py\nx\n```\n\n| a | b |\n|:--|---|\n| 1 | `2` |\n\n<div>x</div>\n\n[r]: u "t"\xff\xff\x02',
    b"---\ntitle: x\n---\nSetext\n===\n\n***\n    code\n\\* &amp; ![i](u)\xff\xff\x02",
    b"<!doctype html><html><head><title>T &amp; t</title></head><body><h1>A</h1><p>b<br>c<table><tr><th colspan=2>d</th></tr><tr><td>e<td>f</table><ul><li>g<ol><li>h</ol></ul><pre> i\n j</pre></body></html>\xff\xff\x03",
    b"<nav>x</nav><article><header><h2>A</h2></header><p hidden>b<script>c</script><!-- d --><form><select><option>e</form>\xff\xff\x03",
    _PDF + b"\xff\xff\x04",
    _DOCX + b"\xff\xff\x05",
    b"<html><body>detected</body></html>\xff\xff\x00",
    b"text/markdown; charset=utf-8\xffa.b/c.md\xff# detected\x00",
)  # fmt: skip


def mutate(data: bytes, random: Random, others: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    """Change one member of an archive, or the bytes as they are."""
    if not data.startswith(b"PK") or random.random() < 0.1:
        return mutations.mutate(data, random, others, words)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()[:8]}
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError, OSError):
        return mutations.mutate(data, random, others, words)
    changed = random.choice([*members, "word/document.xml"])
    members[changed] = mutations.mutate(members.get(changed, b""), random, (_DOCUMENT, _TYPES, _RELATIONS), words)
    return _archive(members) + b"\xff\xff\x05"


def around(run: bytes) -> list[bytes]:
    """Inputs with a long run in them."""
    return [b"x\n\n| a |\n" + run + b"x\xff\xff" + kind for kind in (b"\x01", b"\x02", b"\x03")]


def fuzz(data: bytes) -> None:
    """See the module."""
    kind = data[-1] if data else 0
    media_type = _FORMATS[kind % len(_FORMATS)]
    content = data[:-3]
    try:
        if media_type is None:
            source = Source(data[:-1])
            declared, filename = source.text(), source.text()
            content = b"".join(iter(source.part, b""))
            media_type = detect_media_type(declared or None, filename, content)
        _check(formats.parse(content, media_type))
    except ParseFailure as failure:
        assert failure.reason is not FailureReason.PARSER_CRASHED, failure.__cause__
        assert failure.message


def _check(parsed: ParsedDocument) -> None:
    assert parsed.text.strip()
    parsed.text.encode()
    for block in parsed.blocks:
        assert 0 <= block.start < block.end <= len(parsed.text)
        assert parsed.text[block.start : block.end].strip()
    assert all(one.end <= two.start for one, two in pairwise(parsed.blocks))
    assert list(parsed.page_starts) == sorted(parsed.page_starts)
