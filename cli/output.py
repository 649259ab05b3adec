"""Where a command writes: data on stdout, in the form that was asked for; everything else on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from enum import StrEnum
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.status import Status

from cli.streams import fitted, is_unicode
from services.corpus.cleaning import cleaned, escaped


class Format(StrEnum):
    """How data is shown."""

    AUTO = "auto"
    TABLE = "table"
    JSON = "json"
    TEXT = "text"


class _Console(Console):
    """Cleans whatever is shown: also what a command forgot to."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """The segments of ``renderable``; those that move the cursor are rich's own."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(cleaned(segment.text), segment.style)


class Screen:
    """One command's output. ``format`` is TABLE, TEXT or JSON: AUTO is a table on a terminal and text elsewhere.

    Text of documents and services is printed as it is: no markup of rich's is read in it.
    """

    def __init__(self, wanted: Format) -> None:
        self.terminal = sys.stdout.isatty()
        self.format = wanted
        if wanted is Format.AUTO:
            self.format = Format.TABLE if self.terminal else Format.TEXT
        self.out: Console = _Console(highlight=False, markup=False, emoji=False)
        self.err: Console = _Console(stderr=True, highlight=False, markup=False, emoji=False)

    @property
    def pretty(self) -> bool:
        """Whether people look at a terminal."""
        return self.format is Format.TABLE

    def json(self, document: Any) -> None:
        """One JSON document on stdout."""
        self._dump(document, indent=2 if self.terminal else None)

    def json_line(self, document: Any) -> None:
        """One of many JSON documents on stdout: one line each, on a terminal too."""
        self._dump(document, indent=None)

    def _dump(self, document: Any, indent: int | None) -> None:
        # Built first: half a document followed by an error would be worse than none.
        # Escaped where the encoding lacks characters: a program reads the same then.
        text = escaped(json.dumps(document, ensure_ascii=not is_unicode(sys.stdout), indent=indent))
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    def text(self, *lines: str) -> None:
        """Lines on stdout, never wrapped."""
        for line in lines:
            sys.stdout.write(cleaned(line) + "\n")
        sys.stdout.flush()

    def say(self, *sentences: str) -> None:
        """Sentences on stdout: in lines that fit where people look at a terminal, one line each elsewhere."""
        self.text(*(fitted(said, self.out.width) if self.pretty and self.terminal else said for said in sentences))

    def table(self, renderable: RenderableType) -> None:
        """Something of rich's on stdout."""
        self.out.print(renderable)

    def busy(self, message: str) -> Status:
        """That something takes a while, on a terminal's stderr, while the context lasts or until it is stopped."""
        return self.err.status(message, spinner="dots" if is_unicode(sys.stderr) else "line")

    def note(self, message: str, style: str | None = None) -> None:
        """A remark on stderr: in lines that fit on a terminal, one line elsewhere."""
        message = cleaned(message)
        said = fitted(message, self.err.width) if self.err.is_terminal else message
        self.err.print(said, style=style, soft_wrap=True)
