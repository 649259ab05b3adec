"""What each parser makes of its format."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import docx
import pytest
from docx.enum.style import WD_STYLE_TYPE
from docx.oxml import OxmlElement
from docx.oxml.ns import qn

from services.corpus.document import MediaType
from services.ingestion.adapters.parsing import formats
from services.ingestion.adapters.parsing import text as text_module
from services.ingestion.adapters.parsing.docx import parse_docx
from services.ingestion.adapters.parsing.html import parse_html
from services.ingestion.adapters.parsing.markdown import parse_markdown
from services.ingestion.adapters.parsing.pdf import parse_pdf
from services.ingestion.adapters.parsing.text import parse_text
from services.ingestion.parsed import BlockKind, ChunkLimits, FailureReason, ParsedDocument, ParseFailure

FIXTURES = Path(__file__).parent.parent / "fixtures" / "parsing"
H, P, L, R, C = BlockKind.HEADING, BlockKind.PARAGRAPH, BlockKind.LIST_ITEM, BlockKind.TABLE_ROW, BlockKind.CODE


def outline(parsed: ParsedDocument) -> list[tuple[BlockKind, str]]:
    return [(block.kind, parsed.text[block.start : block.end]) for block in parsed.blocks]


def headings(parsed: ParsedDocument) -> list[tuple[int, str]]:
    return [(block.level, block.heading) for block in parsed.blocks if block.kind is H]


def reason(parse: Any, content: bytes) -> FailureReason:
    with pytest.raises(ParseFailure) as failure:
        parse(content)
    assert failure.value.message[0].isupper()
    assert failure.value.message.endswith(".")
    return failure.value.reason


# --- text -------------------------------------------------------------------------------------------------------------


def test_text_keeps_its_newlines_and_loses_only_its_byte_order_mark() -> None:
    parsed = parse_text("\ufeffone\r\ntwo\r\n\r\n \t\r\nthree\rfour\n".encode())
    assert parsed.text == "one\r\ntwo\r\n\r\n \t\r\nthree\rfour\n"
    assert outline(parsed) == [(P, "one\r\ntwo"), (P, "three\rfour")]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("order", ["", "-be"])
def test_text_is_decoded_by_its_mark(encoding: str, order: str) -> None:
    source = "Grüße aus Zürich, 𝒳"
    content = (
        source.encode(encoding)
        if not order
        else ("\ufeff" + source).encode(encoding.replace("-sig", "") + order if "8" not in encoding else "utf-8")
    )
    assert parse_text(content).text == source


def test_windows_text_is_read_when_it_is_plausible() -> None:
    source = "Der “Übersichts”-Plan für das Café kostet 5 € – nicht mehr."
    assert parse_text(source.encode("cp1252")).text == source


@pytest.mark.parametrize(
    "content",
    [
        b"text with a \x00 in it",
        "без метки".encode("utf-16-le"),
        "Это обычный русский текст".encode("cp1251"),
        "日本語の文章です".encode("shift-jis"),
        "Grüße und".encode() + b" a damaged \xff byte",
        b"control \x01\x02 and \xe9",
        b"\xff\xfe\x00\xd8",
        b"\x81 undefined in Windows-1252",
        b"\xe9\xe8\xe0",
    ],
)
def test_what_is_not_text_is_refused_rather_than_indexed_as_gibberish(content: bytes) -> None:
    assert reason(parse_text, content) is FailureReason.WRONG_ENCODING


@pytest.mark.parametrize("content", [b"", b" \r\n\t ", b"\xef\xbb\xbf", "\ufeff \n".encode("utf-16-le")])
def test_nothing_but_whitespace_is_empty(content: bytes) -> None:
    assert reason(parse_text, content) is FailureReason.EMPTY
    assert reason(parse_markdown, content) is FailureReason.EMPTY


def test_more_text_than_a_document_may_have_is_too_large() -> None:
    assert reason(parse_text, b"a" * 10_000_001) is FailureReason.TOO_LARGE
    assert (
        reason(lambda content: formats.parse(content, MediaType.HTML), b"<p>" + b"a" * 10_000_001)
        is FailureReason.TOO_LARGE
    )


# --- Markdown ---------------------------------------------------------------------------------------------------------


def test_markdown_structure() -> None:
    source = (
        "Title *one*\n===\n\nPara\nline two\n\n## [Link](u) and `code` ##\n\n- a\n  - b\n\n    more\n1. c\n\n"
        "| x | y |\n|---|---|\n| 1 | 2 |\n\n```py\n# no heading\n\nx\n```\n\n    indented\n\n> # quoted\n\n[ref]: http://x\n"
    )
    parsed = parse_markdown(source.encode())
    assert parsed.text == source
    assert parsed.title == "Title one"
    assert headings(parsed) == [(1, "Title one"), (2, "Link and code")]
    assert outline(parsed) == [
        (H, "Title *one*\n==="),
        (P, "Para\nline two"),
        (H, "## [Link](u) and `code` ##"),
        (L, "- a"),
        (L, "  - b"),
        (L, "    more"),
        (L, "1. c"),
        (R, "| x | y |"),
        (P, "|---|---|"),
        (R, "| 1 | 2 |"),
        (C, "```py\n# no heading\n\nx\n```"),
        (C, "    indented"),
        (P, "> # quoted"),
        (P, "[ref]: http://x"),
    ]


def test_markdown_offsets_hold_with_windows_newlines() -> None:
    parsed = parse_markdown(b"# A\r\n\r\ntext\r\nmore\r\n\r\n- item\r\n")
    assert outline(parsed) == [(H, "# A"), (P, "text\r\nmore"), (L, "- item")]


def test_front_matter_gives_the_title_and_is_no_block() -> None:
    parsed = parse_markdown(b"---\ntitle: 'The rules'\ntags:\n  - a\n# note\n---\n# Head\n\nText\n")
    assert parsed.title == "The rules"
    assert outline(parsed) == [(H, "# Head"), (P, "Text")]
    assert parsed.text.startswith("---")


@pytest.mark.parametrize(
    "source",
    [
        "---\nA rule first, then text.\n\n---\nand more\n",
        "---\n\ntitle: x\n---\ntext\n",
        "---\ntitle: x\ntext without end\n",
    ],
)
def test_a_rule_at_the_beginning_is_no_front_matter(source: str) -> None:
    parsed = parse_markdown(source.encode())
    covered = "".join(text for _, text in outline(parsed))
    assert "".join(covered.split()) == "".join(source.split())


def test_a_document_of_front_matter_alone_is_read() -> None:
    assert outline(parse_markdown(b"---\ntitle: x\n---\n")) == [(P, "---\ntitle: x\n---")]


def test_a_heading_without_words_is_a_paragraph() -> None:
    assert headings(parse_markdown(b"#\n\ntext")) == []


# --- HTML -------------------------------------------------------------------------------------------------------------

PAGE = """<!doctype html><html><head><title>The
 &amp; page</title><style>p {}</style></head><body>
<header><a href=/>Site</a></header><nav><ul><li>Menu</li></ul></nav><div role="navigation">Crumbs</div>
<main><article><header><h1>Main <em>title</em></h1></header>
<p>First&nbsp;para<br>second   line</p><script>bad()</script><p hidden>hidden</p><p style="display: none">unseen</p>
<div aria-hidden="true">icon</div>loose text
<ul><li>One<ul><li>Inner</li></ul></li><li><p>Two</p><p>still two</p></li></ul><ol start=3><li>Three</li></ol>
<table><caption>Limits</caption><tr><th>City<th>Limit</tr><tr><td>Paris<td><p>180</p><p>EUR</p></tr></table>
<pre>  code
    more</pre><template><p>template</p></template><noscript>no script</noscript>
<form><label>Search</label><input value=x><button>Go</button></form></article></main>
<aside>Related</aside><footer>Imprint</footer></body></html>"""


def test_html_gives_what_a_reader_reads() -> None:
    parsed = parse_html(PAGE.encode())
    assert parsed.title == "The & page"
    assert headings(parsed) == [(1, "Main title")]
    assert outline(parsed) == [
        (H, "Main title"),
        (P, "First para\nsecond line"),
        (P, "loose text"),
        (L, "- One"),
        (L, "- Inner"),
        (L, "- Two"),
        (L, "still two"),
        (L, "3. Three"),
        (R, "Limits"),
        (R, "City | Limit"),
        (R, "Paris | 180 EUR"),
        (C, "  code\n    more"),
    ]


def test_tables_in_tables_lose_nothing() -> None:
    parsed = parse_html(
        b"<table><tr><td>Outer A<td>Outer B<table><tr><td>in 1<td>in 2</tr><tr><td>in 3</tr></table>tail</tr>"
        b"<tr><td>last</td></tr></table>"
    )
    assert " ".join(text for _, text in outline(parsed)).replace(" |", "") == "Outer A Outer B in 1 in 2 in 3 tail last"
    assert (R, "in 1 | in 2") in outline(parsed)


def test_a_layout_table_keeps_the_headings_in_it() -> None:
    parsed = parse_html(b"<table><tr><td><h2>Head</h2><p>One.</p><p>Two.</p></table>")
    assert outline(parsed) == [(H, "Head"), (P, "One."), (P, "Two.")]


def test_a_page_inside_a_form_or_of_boilerplate_alone_is_read() -> None:
    assert parse_html(b"<form><h1>Page</h1><p>Text</p></form>").text == "Page\n\nText"
    assert parse_html(b"<nav>Only this</nav>").text == "Only this"
    assert reason(parse_html, b"<script>x</script><p hidden>y") is FailureReason.NO_TEXT


@pytest.mark.parametrize(
    "content",
    [
        "<p>Grüße</p>".encode(),
        "<p>Grüße</p>".encode("cp1252"),
        "<p>Grüße</p>".encode("utf-16"),
        "<meta charset=iso-8859-1><p>Grüße</p>".encode("cp1252"),
        "<meta charset=latin1><p>Grüße</p>".encode(),
        "<meta http-equiv=x content='text/html; charset=iso-8859-15'><p>Grüße</p>".encode("iso-8859-15"),
        "<meta charset=utf-7><p>Grüße</p>".encode(),
        "<meta charset=utf-8><p>Grüße</p>".encode("cp1252"),
    ],
)
def test_html_is_decoded_as_browsers_do(content: bytes) -> None:
    assert parse_html(content).text == "Grüße"


def test_xhtml_names_its_encoding_in_the_declaration() -> None:
    assert parse_html("<?xml version='1.0' encoding='koi8-r'?><p>Привет</p>".encode("koi8-r")).text == "Привет"


def test_html_nested_deeper_than_the_stack_is_read() -> None:
    assert parse_html(b"<div>" * 5000 + b"deep").text == "deep"


# --- PDF --------------------------------------------------------------------------------------------------------------


def test_pdf_paragraphs_pages_and_headings_without_running_heads() -> None:
    parsed = parse_pdf((FIXTURES / "handbook.pdf").read_bytes())
    assert parsed.title == "Travel handbook"
    assert headings(parsed) == [(1, "Booking"), (1, "Hotels"), (1, "Trains")]
    assert "ACME" not in parsed.text
    assert "Page" not in parsed.text
    assert outline(parsed)[1] == (
        P,
        (
            "Every employee may book travel after the management team has approved it. Approval takes five days, "
            "as the well-known rules say. The rules are well-known to all."
        ),
    )
    assert outline(parsed)[-4:] == [
        (L, "- Second class is the rule."),
        (L, "- First class needs approval."),
        (R, "City | Limit"),
        (R, "Paris | 180 EUR"),
    ]


def test_a_paragraph_may_run_over_a_page_and_offsets_know_theirs() -> None:
    parsed = parse_pdf((FIXTURES / "handbook.pdf").read_bytes())
    assert "Breakfast is included and the receipt goes to accounting" in parsed.text
    pages = {word: parsed.page_of(parsed.text.index(word)) for word in ("Booking", "Breakfast", "receipt", "Trains")}
    assert pages == {"Booking": 1, "Breakfast": 2, "receipt": 3, "Trains": 4}
    assert len(parsed.page_starts) == 4


def test_pdf_failures() -> None:
    assert reason(parse_pdf, (FIXTURES / "password.pdf").read_bytes()) is FailureReason.ENCRYPTED
    assert reason(parse_pdf, (FIXTURES / "scan.pdf").read_bytes()) is FailureReason.NO_TEXT
    assert reason(parse_pdf, b"%PDF-1.7 and nothing else") is FailureReason.MALFORMED
    assert reason(parse_pdf, (FIXTURES / "handbook.pdf").read_bytes()[:400]) is FailureReason.MALFORMED


def test_a_pdf_that_only_restricts_printing_is_read() -> None:
    assert parse_pdf((FIXTURES / "restricted.pdf").read_bytes()).text == "Free to read, not to print."


# --- DOCX -------------------------------------------------------------------------------------------------------------


def saved(document: Any) -> bytes:
    target = io.BytesIO()
    document.save(target)
    return target.getvalue()


def test_docx_in_document_order() -> None:
    document = docx.Document()
    document.add_heading("The handbook", 0)
    document.add_heading("Travel", 1)
    document.add_paragraph("Some\ttext\nhere.")
    document.add_paragraph("Item", style="List Bullet")
    table = document.add_table(2, 3)
    for row, texts in zip(table.rows, (("City", "Limit", ""), ("Paris", "180", "EUR")), strict=True):
        for cell, text in zip(row.cells, texts, strict=True):
            cell.text = text
    inner = table.rows[1].cells[2].add_table(1, 2)
    inner.rows[0].cells[0].text, inner.rows[0].cells[1].text = "inner", "table"
    table.rows[1].cells[0].add_paragraph("second")
    document.add_heading("Details", 3)
    document.add_paragraph("End.")
    parsed = parse_docx(saved(document))
    assert parsed.title == "The handbook"
    assert headings(parsed) == [(1, "The handbook"), (1, "Travel"), (3, "Details")]
    assert outline(parsed) == [
        (H, "The handbook"),
        (H, "Travel"),
        (P, "Some text\nhere."),
        (L, "- Item"),
        (R, "City | Limit"),
        (R, "Paris second | 180 | EUR"),
        (R, "inner | table"),
        (H, "Details"),
        (P, "End."),
    ]


def test_docx_styles_of_ones_own_inherit_and_deleted_text_is_gone() -> None:
    document = docx.Document()
    style = document.styles.add_style("House heading", WD_STYLE_TYPE.PARAGRAPH)
    style.base_style = document.styles["Heading 2"]
    document.add_paragraph("Inherited", style="House heading")
    outlined = document.add_paragraph("Outlined")
    level = OxmlElement("w:outlineLvl")
    level.set(qn("w:val"), "3")
    outlined._p.get_or_add_pPr().append(level)
    changed = document.add_paragraph("kept ")
    deleted = OxmlElement("w:del")
    deleted.append(document.add_paragraph("deleted").runs[0]._r)
    changed._p.append(deleted)
    control = OxmlElement("w:sdt")
    content = OxmlElement("w:sdtContent")
    content.append(document.add_paragraph("in a content control")._p)
    control.append(content)
    document.element.body.insert(0, control)
    document.core_properties.title = "From the properties"
    parsed = parse_docx(saved(document))
    assert parsed.title == "From the properties"
    assert headings(parsed) == [(2, "Inherited"), (4, "Outlined")]
    assert [text for _, text in outline(parsed)] == ["in a content control", "Inherited", "Outlined", "kept"]


def archive(**members: bytes) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as written:
        for name, content in members.items():
            written.writestr(name, content)
    return target.getvalue()


def test_docx_failures() -> None:
    assert reason(parse_docx, saved(docx.Document())) is FailureReason.NO_TEXT
    assert reason(parse_docx, saved(docx.Document())[:-200]) is FailureReason.MALFORMED
    assert reason(parse_docx, archive(other=b"x")) is FailureReason.MALFORMED


def test_archive_bombs_are_refused_before_they_unpack() -> None:
    bomb = archive(**{"word/document.xml": bytes(30 * 1024**2)})
    assert len(bomb) < 100_000
    assert reason(parse_docx, bomb) is FailureReason.RESOURCE_LIMIT
    many = archive(**{f"word/{i}": b"" for i in range(10_001)})
    assert reason(parse_docx, many) is FailureReason.RESOURCE_LIMIT


def test_entities_in_a_docx_are_not_expanded() -> None:
    source = saved(docx.Document())
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(source)) as original, zipfile.ZipFile(target, "w") as written:
        for name in original.namelist():
            content = original.read(name)
            if name == "word/document.xml":
                namespace = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
                content = (
                    '<!DOCTYPE d [<!ENTITY f SYSTEM "file:///etc/hostname"><!ENTITY a "expanded">]>'
                    f"<w:document {namespace}><w:body><w:p><w:r><w:t>kept</w:t><w:t>&f;&a;</w:t></w:r></w:p></w:body>"
                    "</w:document>"
                ).encode()
            written.writestr(name, content)
    assert parse_docx(target.getvalue()).text == "kept"


# --- all --------------------------------------------------------------------------------------------------------------


def test_a_parsers_own_bug_or_want_of_memory_fails_the_document_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def raising(error: Exception) -> Any:
        def parse(content: bytes) -> ParsedDocument:
            raise error

        return parse

    for error, expected in (
        (ZeroDivisionError("secret"), FailureReason.PARSER_CRASHED),
        (MemoryError(), FailureReason.RESOURCE_LIMIT),
    ):
        monkeypatch.setattr(text_module, "parse_text", raising(error))
        with pytest.raises(ParseFailure) as failure:
            formats.split(b"x", MediaType.TEXT, ChunkLimits())
        assert failure.value.reason is expected
        assert "secret" not in failure.value.message + failure.value.detail
