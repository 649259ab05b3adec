"""Markdown: the block structure of CommonMark (with tables), as offsets into the source."""

from __future__ import annotations

import re

from markdown_it import MarkdownIt
from markdown_it.token import Token

from services.ingestion.adapters.parsing._builder import as_title, one_line
from services.ingestion.adapters.parsing.text import decode, lines, paragraphs
from services.ingestion.parsed import Block, BlockKind, ParsedDocument

_LEAVES = {
    "paragraph_open": BlockKind.PARAGRAPH,
    "heading_open": BlockKind.HEADING,
    "tr_open": BlockKind.TABLE_ROW,
    "fence": BlockKind.CODE,
    "code_block": BlockKind.CODE,
    "html_block": BlockKind.PARAGRAPH,
}
_FRONT_LINE = re.compile(r"[A-Za-z_][\w .\-]*:(?:\s.*)?$|\s*-\s.*$|\s+\S.*$|#.*$|\s*$")
_FRONT_TITLE = re.compile(r"title:\s*(['\"]?)(.+?)\1\s*$")
_MAX_FRONT_LINES = 200
_MAX_INLINE_CHARS = 1000

# Inline markup matters in headings alone: skipping it elsewhere makes parsing several times faster.
_blocks_only = MarkdownIt("commonmark").enable("table")
_blocks_only.core.ruler.enableOnly(["normalize", "block"])
_inline = MarkdownIt("commonmark")


def parse_markdown(content: bytes) -> ParsedDocument:
    """Parse Markdown; ``text`` is the decoded source.

    YAML front matter stays in the text but is no block; its title becomes the document's.
    Raises ParseFailure: EMPTY, WRONG_ENCODING or TOO_LARGE.
    """
    text = decode(content)
    spans = lines(text, 0, len(text))
    skipped, title = _front_matter(text, spans)
    body = spans[skipped][0] if skipped < len(spans) else len(text)
    blocks = _fill(text, body, _structure(text, spans, skipped))
    if not blocks:
        # Nothing but front matter: then that is the document.
        blocks = paragraphs(text, 0, len(text))
    headings = (block.heading for block in blocks if block.kind is BlockKind.HEADING and block.heading)
    return ParsedDocument(text, tuple(blocks), title or as_title(next(headings, None)))


def _structure(text: str, spans: list[tuple[int, int]], skipped: int) -> list[Block]:
    """The leaf blocks, each made of whole lines; what CommonMark gives no block is left out."""
    if skipped >= len(spans):
        return []
    blocks: list[Block] = []
    taken = skipped
    items = 0
    tokens = _blocks_only.parse(text[spans[skipped][0] :])
    for i, token in enumerate(tokens):
        if token.type in ("list_item_open", "list_item_close"):
            items += token.nesting
        kind = _LEAVES.get(token.type)
        if kind is None or token.map is None:
            continue
        first, last = max(taken, token.map[0] + skipped), min(token.map[1] + skipped, len(spans))
        if first >= last:
            continue
        taken = last
        start, end = spans[first][0], spans[last - 1][1]
        heading = _heading(tokens[i + 1]) if kind is BlockKind.HEADING and token.level == 0 else ""
        if heading:
            blocks.append(Block(start, end, kind, int(token.tag[1:]), heading))
        elif items and kind is not BlockKind.CODE:
            blocks.append(Block(start, end, BlockKind.LIST_ITEM))
        else:
            blocks.append(Block(start, end, BlockKind.PARAGRAPH if kind is BlockKind.HEADING else kind))
    return blocks


def _heading(inline: Token) -> str:
    """A heading's words without emphasis, links and code marks."""
    children = _inline.parseInline(inline.content[:_MAX_INLINE_CHARS])[0].children or []
    return one_line("".join(" " if child.type in ("softbreak", "hardbreak") else child.content for child in children))


def _fill(text: str, start: int, found: list[Block]) -> list[Block]:
    """The same blocks, with paragraphs for whatever lies between them (link definitions, empty list items)."""
    blocks: list[Block] = []
    for block in found:
        blocks += paragraphs(text, start, block.start)
        blocks.append(block)
        start = block.end
    return blocks + paragraphs(text, start, len(text))


def _front_matter(text: str, spans: list[tuple[int, int]]) -> tuple[int, str | None]:
    """How many lines the front matter takes (0: there is none), and the title in it.

    A document may also begin with a rule (``---``) and have another one later: only lines that look like YAML,
    the first of them a key, count as front matter.
    """
    if text[slice(*spans[0])].rstrip() != "---":
        return 0, None
    title = None
    for i, (start, end) in enumerate(spans[1:_MAX_FRONT_LINES], start=1):
        line = text[start:end]
        if line.rstrip() in ("---", "..."):
            return (i + 1, title) if i > 1 else (0, None)
        if not _FRONT_LINE.match(line) or (i == 1 and not line[:1].isalpha()):
            return 0, None
        if title is None and (match := _FRONT_TITLE.match(line)):
            title = as_title(match.group(2))
    return 0, None
