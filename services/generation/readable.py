"""The readable form of a piece of Markdown or plain text: on one line, without decoration. Pure."""

from __future__ import annotations

import re

BULLET = re.compile(r"(?:>\s*+)*+(?:[-*+•‣▪◦–]|\(?\d{1,3}[.)]|\(?[a-z][.)])\s++(?=\S)")

# Repetition is possessive or bounded: time is linear in the text.
_HEADING = re.compile(r"\s{0,3}(#{1,6})\s++")
_QUOTE = re.compile(r"\A\s*+(?:>\s?)++")
_CELL_GAP = re.compile(r"(?<!\\)\||\t")
_LINK = re.compile(r"!?\[([^\[\]]*)\]\((?:[^()\s]|\([^()\s]*\))*(?:\s+\"[^\"]*\")?\)")
_FOOTNOTE = re.compile(r"\s?\[\^?\d{1,3}\](?!\()")
_EMPHASIS = re.compile(r"(\*{1,3}|(?<!\w)_{1,3}(?=\S))(?=\S)(.{1,480}?)(?<=\S)\1(?!\w)")
_STRAY = re.compile(r"\*{2,}|(?<!\w)_{2,}(?!\w)")
_CODE_SPAN = re.compile(r"`+([^`]*)`+")
_LINE_QUOTE = re.compile(r"\n[ \t]*(?:>[ \t]?)+")


def readable(source: str) -> str:
    """``source`` on one line without Markdown's decoration; plain text stays as it is.

    Numbers in square brackets are dropped because a reader would take them for the answer's own markers.
    """
    shown = _QUOTE.sub("", _LINE_QUOTE.sub("\n", source), count=1) if ">" in source else source
    shown = shown.strip()
    if (found := heading(shown)) is not None:
        shown = found[1]
    if match := BULLET.match(shown):
        shown = shown[match.end() :]
    shown = _LINK.sub(r"\1", shown)
    shown = _FOOTNOTE.sub("", shown)
    for _ in range(2):
        shown = _EMPHASIS.sub(r"\2", shown)
    shown = _STRAY.sub("", _CODE_SPAN.sub(r"\1", shown))
    return " ".join(shown.replace("\\|", "|").split())


def heading(line: str) -> tuple[int, str] | None:
    """The level (1 to 6) and the words of a Markdown heading ("## Words ##"); None if ``line`` is none."""
    match = _HEADING.match(line)
    if match is None:
        return None
    words = line[match.end() :].rstrip().rstrip("#").rstrip()
    return None if "\n" in words else (len(match[1]), words)


def cells(row: str) -> list[str]:
    """The readable cells of a table row that is written with pipes or tabs."""
    row = row.strip(" ")
    if row.startswith("|"):
        row = row[1:].removesuffix("|")
    return [readable(cell) for cell in _CELL_GAP.split(row)]


def row_with_header(row: str, header: list[str]) -> str:
    """A table row as "Header: value; Header: value"; without a header that fits, two cells as "cell: cell"."""
    values = cells(row)
    if len(header) == len(values) and any(header):
        named = zip(header, values, strict=True)
        return "; ".join(f"{name}: {value}" if name else value for name, value in named if value)
    values = [value for value in values if value]
    return (": " if len(values) == 2 else "; ").join(values)
