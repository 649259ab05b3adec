"""HTML: the readable text of a page, without navigation, scripts and what is hidden."""

from __future__ import annotations

import codecs
import contextlib
import re

from selectolax.lexbor import LexborHTMLParser, LexborNode

from services.ingestion.adapters.parsing._builder import TextBuilder, as_title, clean, fold_lines, no_text, one_line
from services.ingestion.adapters.parsing.text import decode, decode_windows
from services.ingestion.parsed import BlockKind, FailureReason, ParsedDocument, ParseFailure

_NEVER = frozenset(
    [
        "script",
        "style",
        "template",
        "noscript",
        "iframe",
        "object",
        "embed",
        "canvas",
        "svg",
        "audio",
        "video",
        "map",
        "head",
        "input",
        "select",
        "button",
        "textarea",
        "datalist",
        "option",
        "optgroup",
        "progress",
        "meter",
        "dialog",
        "menu-item",
        "frame",
        "frameset",
    ]
)
_BOILERPLATE = frozenset({"nav", "aside", "header", "footer", "form"})
_BOILERPLATE_ROLES = frozenset({"navigation", "banner", "contentinfo", "search", "complementary", "menu", "menubar"})
# Inside these, a header or a footer belongs to the text (a title, an author), not to the site.
_SECTIONING = frozenset({"article", "main", "section", "blockquote"})
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_BLOCKS = frozenset(
    [
        "address",
        "article",
        "aside",
        "blockquote",
        "body",
        "caption",
        "center",
        "dd",
        "details",
        "dialog",
        "dir",
        "div",
        "dl",
        "dt",
        "fieldset",
        "figcaption",
        "figure",
        "footer",
        "form",
        "header",
        "hgroup",
        "hr",
        "html",
        "legend",
        "li",
        "main",
        "menu",
        "nav",
        "ol",
        "p",
        "pre",
        "search",
        "section",
        "summary",
        "table",
        "tbody",
        "tfoot",
        "thead",
        "ul",
    ]
) | frozenset(_HEADINGS)
_HIDDEN_STYLE = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
_SPACE = re.compile(r"\s+")
_CHARSET = re.compile(rb"<meta\s[^>]{0,200}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_\-:]{2,40})", re.IGNORECASE)
_XML_ENCODING = re.compile(rb"\s*<\?xml\s[^>]{0,100}?encoding\s*=\s*[\"']([A-Za-z0-9_\-:]{2,40})")
# Python knows codecs that are no encodings of text, and some that are dangerous to trust (UTF-7): name those of the web.
_WEB_ENCODINGS = re.compile(
    r"utf-?8|us-ascii|ascii|(?:iso-?8859|iso_8859)-\d{1,2}(?::\d{4})?|latin-?1|windows-(?:125[0-8]|874)|cp125[0-8]|koi8-[ru]"
    r"|macintosh|ibm866|gb2312|gbk|gb18030|big5(?:-hkscs)?|euc-(?:jp|kr)|iso-2022-jp|shift[_-]jis|sjis|x-sjis",
    re.IGNORECASE,
)


def parse_html(content: bytes) -> ParsedDocument:
    """Parse HTML; ``text`` is what a reader of the page would read.

    Raises ParseFailure: EMPTY, WRONG_ENCODING, TOO_LARGE, or NO_TEXT for a page that only scripts would fill.
    """
    tree = LexborHTMLParser(_decode(content))
    builder = _Walk(keep_boilerplate=False).run(tree)
    if builder.empty:
        # Some pages have everything in a form or an aside; a little noise is better than nothing.
        builder = _Walk(keep_boilerplate=True).run(tree)
    if builder.empty:
        raise no_text("page", "save the page as your browser shows it, or send it as PDF")
    title = tree.css_first("head > title")
    builder.title = as_title(title.text() if title is not None else None)
    return builder.build()


def _decode(content: bytes) -> str:
    """As browsers do: byte order mark, declared charset, UTF-8, Windows-1252."""
    marked = content.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    found = None if marked else _CHARSET.search(content[:4096]) or _XML_ENCODING.match(content[:256])
    name = found.group(1).decode("ascii") if found else ""
    if not found or not _WEB_ENCODINGS.fullmatch(name):
        return decode(content)
    # The web reads these two as Windows-1252.
    latin = name.lower() in ("iso-8859-1", "us-ascii", "ascii", "latin1", "latin-1", "windows-1252", "cp1252")
    try:
        text = content.decode("cp1252" if latin else name)
    except (UnicodeError, LookupError):
        try:
            text = decode(content)
        except ParseFailure as failure:
            if failure.reason is not FailureReason.WRONG_ENCODING:
                raise
            text = decode_windows(content)
    if latin:
        # Servers often declare Latin-1 for what is UTF-8; valid UTF-8 is hardly ever anything else.
        with contextlib.suppress(UnicodeDecodeError):
            text = content.decode("utf-8")
    return decode(text.encode("utf-8", "replace"))


class _Walk:
    """One pass over the tree, without recursion: a page may be nested deeper than Python's stack."""

    def __init__(self, *, keep_boilerplate: bool) -> None:
        self._keep_boilerplate = keep_boilerplate
        self._builder = TextBuilder()
        self._buffer: list[str] = []
        self._sections = 0
        self._pre = 0
        self._heading = 0
        self._lists: list[int | None] = []  # the number of the next item; None where items are not numbered
        self._items: list[str] = []  # the marker of each open item; empty once written
        self._tables: list[bool] = []  # whether rows of this table are given out as rows

    def run(self, tree: LexborHTMLParser) -> TextBuilder:
        """Collect the blocks of a page."""
        pending: list[tuple[LexborNode, bool]] = [(tree.root, False)] if tree.root is not None else []
        while pending:
            node, leaving = pending.pop()
            if leaving:
                self._leave(node.tag or "")
                continue
            # Siblings before children: the stack then holds a path, not a whole level of the tree.
            if node.next is not None and node.tag != "html":
                pending.append((node.next, False))
            if node.is_text_node:
                self._text(node.text_content or "")
            elif node.is_element_node and self._wanted(node):
                pending.append((node, True))
                self._enter(node.tag or "", node)
                if node.child is not None:
                    pending.append((node.child, False))
        self._flush()
        return self._builder

    def _wanted(self, node: LexborNode) -> bool:
        tag, attributes = node.tag or "", node.attrs
        if tag in _NEVER:
            return False
        if tag in ("html", "body"):
            return True
        if "hidden" in attributes or attributes.get("aria-hidden") == "true":
            return False
        if _HIDDEN_STYLE.search(attributes.get("style") or ""):
            return False
        if self._keep_boilerplate:
            return True
        if (attributes.get("role") or "").lower() in _BOILERPLATE_ROLES:
            return False
        if tag in ("header", "footer"):
            return self._sections > 0
        if tag == "form":
            # Some frameworks put the whole page into a form.
            return node.css_first("main, article, h1, h2, h3, p") is not None
        return tag not in _BOILERPLATE

    def _enter(self, tag: str, node: LexborNode) -> None:
        if tag == "br":
            self._buffer.append("\n")
        elif tag in ("td", "th"):
            if self._row_mode:
                self._buffer.append(" | " if "".join(self._buffer).strip() else "")
            else:
                self._flush()
        elif tag == "tr":
            self._flush()
        elif tag in _BLOCKS:
            self._enter_block(tag, node)

    def _enter_block(self, tag: str, node: LexborNode) -> None:
        if (tag == "table" or tag in _HEADINGS) and self._row_mode:
            # A table that holds headings or tables lays out a page: its cells are no row.
            self._flush()
            self._tables[-1] = False
        self._boundary()
        if tag in _SECTIONING:
            self._sections += 1
        elif tag == "table":
            self._tables.append(True)
        elif tag in _HEADINGS:
            self._heading = _HEADINGS[tag]
        elif tag == "pre":
            self._pre += 1
        elif tag in ("ul", "ol", "menu", "dir"):
            start = node.attrs.get("start") or ""
            first = int(start) if start.isascii() and start.isdigit() and len(start) < 10 else 1
            self._lists.append(first if tag == "ol" else None)
        elif tag == "li":
            self._items.append(self._marker())

    def _leave(self, tag: str) -> None:
        if tag == "tr":
            self._flush()
            return
        if tag not in _BLOCKS:
            return
        self._boundary()
        if tag in _SECTIONING:
            self._sections -= 1
        elif tag == "table":
            self._flush()
            self._tables.pop()
        elif tag in _HEADINGS:
            self._heading = 0
        elif tag == "pre":
            self._pre -= 1
        elif tag in ("ul", "ol", "menu", "dir"):
            self._lists.pop()
        elif tag == "li":
            self._items.pop()

    def _marker(self) -> str:
        if not self._lists or self._lists[-1] is None:
            return "- "
        number = self._lists[-1]
        self._lists[-1] = number + 1
        return f"{number}. "

    @property
    def _row_mode(self) -> bool:
        return bool(self._tables) and self._tables[-1]

    def _text(self, text: str) -> None:
        self._buffer.append(text if self._pre else _SPACE.sub(" ", text))

    def _boundary(self) -> None:
        """Between two blocks; inside a row they are only words apart."""
        if self._row_mode:
            self._buffer.append("\n")
        else:
            self._flush()

    def _flush(self) -> None:
        raw = "".join(self._buffer)
        self._buffer.clear()
        if not raw.strip():
            return
        if self._row_mode:
            self._builder.add(one_line(raw).strip("| "), BlockKind.TABLE_ROW)
        elif self._heading:
            self._builder.add(one_line(raw), BlockKind.HEADING, self._heading)
        elif self._pre:
            self._builder.add(clean(raw), BlockKind.CODE)
        elif self._items:
            self._builder.add(self._items[-1] + fold_lines(raw), BlockKind.LIST_ITEM)
            self._items[-1] = ""
        else:
            self._builder.add(fold_lines(raw), BlockKind.PARAGRAPH)
