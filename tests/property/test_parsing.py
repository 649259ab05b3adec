"""Parsers keep their promises for any bytes."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.corpus.document import MediaType
from services.ingestion.adapters.parsing import _wire, formats
from services.ingestion.adapters.parsing.docx import parse_docx
from services.ingestion.adapters.parsing.html import parse_html
from services.ingestion.adapters.parsing.markdown import parse_markdown
from services.ingestion.adapters.parsing.pdf import parse_pdf
from services.ingestion.adapters.parsing.text import parse_text
from services.ingestion.chunking import chunk
from services.ingestion.media_type import detect_media_type
from services.ingestion.parsed import ChunkLimits, FailureReason, ParsedDocument, ParseFailure, SplitDocument

PDF = (Path(__file__).parent.parent / "fixtures" / "parsing" / "handbook.pdf").read_bytes()
PARSERS = {
    MediaType.TEXT: parse_text,
    MediaType.MARKDOWN: parse_markdown,
    MediaType.HTML: parse_html,
    MediaType.PDF: parse_pdf,
    MediaType.DOCX: parse_docx,
}
MARKDOWN = st.lists(
    st.sampled_from(
        """# |## |\n|\n\n|- |  - |1. |> |```\n|~~~|    |--- |\n---\n|===\n|\\||a\\|b\n|-\\|-\n|*b*|[x](y)|[r]: u\n|<div>|<!--|word |\r\n|\r|\t|é""".replace(
            "\\|", "\0"
        ).split("|")
    ).map(lambda piece: piece.replace("\0", "|")),
    max_size=40,
).map("".join)
TAGS = [
    "p",
    "div",
    "table",
    "tr",
    "td",
    "th",
    "ul",
    "ol",
    "li",
    "h1",
    "h2",
    "pre",
    "nav",
    "header",
    "article",
    "form",
    "a",
]
HTML = st.lists(
    st.one_of(
        st.sampled_from([f"<{tag}>" for tag in TAGS] + [f"</{tag}>" for tag in TAGS]),
        st.sampled_from(["<br>", "&amp;", "&#0;", "<p hidden>", "<!--", "-->", "<script>", "</script>", "<title>"]),
        st.text(max_size=8),
    ),
    max_size=40,
).map("".join)


def check(parsed: ParsedDocument) -> None:
    """The promises of ParsedDocument."""
    assert parsed.text.strip()
    end = 0
    for block in parsed.blocks:
        assert end <= block.start < block.end <= len(parsed.text)
        assert parsed.text[block.start : block.end].strip()
        end = block.end
    assert list(parsed.page_starts) == sorted(parsed.page_starts)
    parsed.text.encode()  # no lone surrogates
    assert chunk(parsed, ChunkLimits())


def gaps(parsed: ParsedDocument) -> str:
    """What lies in no block."""
    pieces, end = [], 0
    for block in parsed.blocks:
        pieces.append(parsed.text[end : block.start])
        end = block.end
    return "".join([*pieces, parsed.text[end:]]).strip()


@pytest.mark.parametrize("media_type", list(MediaType))
@settings(deadline=None, max_examples=100)
@given(content=st.binary(max_size=400))
@example(content=b"")
@example(content=b"%PDF-1.7\n")
@example(content=b"PK\x05\x06" + bytes(18))
@example(content=b"\xff\xfe\x00\xd8")
def test_any_bytes_parse_or_fail_cleanly(media_type: MediaType, content: bytes) -> None:
    try:
        parsed = PARSERS[media_type](content)
    except ParseFailure as failure:
        assert failure.reason is not FailureReason.PARSER_CRASHED  # noqa: PT017 - either outcome is right
        assert failure.message.endswith(".")  # noqa: PT017
    else:
        check(parsed)
        assert not gaps(parsed)


@settings(deadline=None, max_examples=150)
@given(st.integers(0, len(PDF) - 1), st.binary(min_size=0, max_size=12), st.integers(0, 40))
def test_damaged_pdfs_parse_or_fail_cleanly(position: int, replacement: bytes, removed: int) -> None:
    try:
        check(parse_pdf(PDF[:position] + replacement + PDF[position + removed :]))
    except ParseFailure as failure:
        assert failure.reason is not FailureReason.PARSER_CRASHED  # noqa: PT017


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=200), st.binary(max_size=200))
def test_archives_with_any_content_parse_or_fail_cleanly(types: bytes, document: bytes) -> None:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("[Content_Types].xml", types)
        archive.writestr("word/document.xml", document)
    with pytest.raises(ParseFailure) as failure:
        parse_docx(target.getvalue())
    assert failure.value.reason is FailureReason.MALFORMED


@settings(deadline=None, max_examples=300)
@given(MARKDOWN)
def test_markdown_blocks_cover_the_source(source: str) -> None:
    if not source.strip():
        return
    parsed = parse_markdown(source.encode())
    assert parsed.text == source
    check(parsed)
    rest = gaps(parsed)
    assert not rest or rest.startswith("---")


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=200))
def test_text_is_the_source_and_blocks_cover_it(source: str) -> None:
    try:
        parsed = parse_text(source.encode())
    except ParseFailure as failure:
        assert "\x00" in source or not source.removeprefix("\ufeff").strip(), failure.reason  # noqa: PT017
        return
    assert parsed.text == source.removeprefix("\ufeff")
    check(parsed)
    assert not gaps(parsed)


@settings(deadline=None, max_examples=300)
@given(HTML)
def test_any_markup_parses_or_has_no_text(source: str) -> None:
    try:
        parsed = parse_html(source.encode())
    except ParseFailure as failure:
        assert failure.reason in (FailureReason.NO_TEXT, FailureReason.EMPTY, FailureReason.WRONG_ENCODING)  # noqa: PT017
        return
    check(parsed)
    assert not gaps(parsed)


@settings(deadline=None, max_examples=200)
@given(
    st.one_of(st.none(), st.text(max_size=30), st.sampled_from([m.value for m in MediaType])),
    st.text(max_size=12),
    st.binary(max_size=60),
)
def test_detection_decides_or_fails_cleanly(declared: str | None, filename: str, content: bytes) -> None:
    try:
        assert detect_media_type(declared, filename, content) in MediaType
    except ParseFailure as failure:
        assert failure.reason in (FailureReason.EMPTY, FailureReason.UNSUPPORTED_MEDIA_TYPE)  # noqa: PT017


def receive(payloads: list[bytes]) -> SplitDocument | ParseFailure | None:
    answer = _wire.Answer()
    outcome = None
    for payload in payloads:
        assert outcome is None
        outcome = answer.add(payload)
    return outcome


@settings(deadline=None, max_examples=100)
@given(st.text(alphabet='ab .\n"\\é𝒳', min_size=1, max_size=3000))
def test_answers_survive_the_wire(source: str) -> None:
    if not source.strip():
        return
    document = formats.split(source.encode(), MediaType.MARKDOWN, ChunkLimits(40, 60, 10))
    assert receive(list(_wire.encode_document(document))) == document


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from(["document", "passages", "end", "failure", "empty", "x"]),
    lambda inner: st.lists(inner, max_size=5),
    max_leaves=12,
)


@settings(deadline=None, max_examples=200)
@given(st.lists(JSON, max_size=4), st.binary(max_size=20))
def test_a_lying_worker_is_found_out(answers: list[object], noise: bytes) -> None:
    import json

    answer = _wire.Answer()
    try:
        for fields in answers:
            outcome = answer.add(json.dumps(fields).encode())
            if isinstance(outcome, SplitDocument):
                assert all(len(passage.text) == passage.end - passage.start for passage in outcome.passages)
        answer.add(noise)
    except ValueError:
        return
