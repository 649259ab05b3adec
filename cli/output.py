"""Where a command writes: data on stdout, in the form that was asked for; everything else on stderr."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from typing import Any

from rich.console import Console, RenderableType

from cli.text import wrapped


class Format(StrEnum):
    """How data is shown."""

    AUTO = "auto"
    TABLE = "table"
    JSON = "json"
    TEXT = "text"


class Screen:
    """One command's output. ``format`` is TABLE, TEXT or JSON: AUTO is a table on a terminal and text elsewhere.

    Text of documents and services is printed as it is: no markup of rich's is read in it.
    """

    def __init__(self, wanted: Format) -> None:
        self.terminal = sys.stdout.isatty()
        self.format = wanted
        if wanted is Format.AUTO:
            self.format = Format.TABLE if self.terminal else Format.TEXT
        self.out = Console(highlight=False, markup=False, emoji=False)
        self.err = Console(stderr=True, highlight=False, markup=False, emoji=False)

    @property
    def pretty(self) -> bool:
        """Whether people look at a terminal."""
        return self.format is Format.TABLE

    def json(self, document: Any) -> None:
        """One JSON document on stdout."""
        # Built first: half a document followed by an error would be worse than none.
        text = json.dumps(document, ensure_ascii=False, indent=2 if self.terminal else None)
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    def text(self, *lines: str) -> None:
        """Lines on stdout, never wrapped."""
        for line in lines:
            sys.stdout.write(line + "\n")
        sys.stdout.flush()

    def table(self, renderable: RenderableType) -> None:
        """Something of rich's on stdout."""
        self.out.print(renderable)

    def note(self, message: str, style: str | None = None) -> None:
        """A remark on stderr; on a terminal it is broken between words."""
        if self.err.is_terminal:
            message = "\n".join(wrapped([message], self.err.width))
        self.err.print(message, style=style, soft_wrap=True)
