"""Text that appears on a terminal piece by piece, and can be taken back. Pure: it returns what to write."""

from __future__ import annotations

import re

from rich.cells import cell_len, chop_cells

from services.corpus.cleaning import cleaned

_MARKER = re.compile(r"\[\d+\]")
_PIECE = re.compile(r"\n|[^\S\n]+|\S+")


class Typewriter:
    """Wraps words at ``width`` columns and knows how many rows of a terminal of ``height`` it has used.

    The terminal would break words anywhere; wrapped here, what was shown can be erased exactly.
    """

    def __init__(self, *, width: int, height: int, colour: bool) -> None:
        self._width = max(width, 20)
        self._height = height
        self._colour = colour
        self.text = ""
        self._pending = ""
        self._column = 0
        self._rows = 0
        self._gap = ""

    def feed(self, text: str) -> str:
        """What to write for more ``text``. The last word is kept back until it is known to be complete."""
        self.text += text
        self._pending += text
        cut = max(self._pending.rfind(" "), self._pending.rfind("\n")) + 1
        ready, self._pending = self._pending[:cut], self._pending[cut:]
        # Whole words: what may stay depends on what it stands beside.
        return self._write(cleaned(ready))

    def finish(self) -> str:
        """What to write at the end: what was kept back, and a newline."""
        ready, self._pending = self._pending, ""
        end = self._write(cleaned(ready))
        return end + ("\n" if self._column else "")

    def reset(self) -> str:
        """What to write to take everything back."""
        rows, shown = self._rows, self._rows > 0 or self._column > 0
        self.text = self._pending = self._gap = ""
        self._column = self._rows = 0
        if not shown:
            return ""
        if rows >= self._height - 1:
            # It has scrolled out of reach: leave it, and say where the new text begins.
            return "\n\n--- the answer starts over ---\n\n"
        return "\r" + (f"\x1b[{rows}A" if rows else "") + "\x1b[J"

    def _write(self, text: str) -> str:
        written = []
        for piece in _PIECE.findall(text):
            if piece == "\n":
                written.append(self._break())
                self._gap = ""
            elif piece.isspace():
                self._gap = " " if self._column else ""
            else:
                written.append(self._word(piece))
        return "".join(written)

    def _word(self, word: str) -> str:
        written = ""
        if self._column and self._column + len(self._gap) + cell_len(word) > self._width:
            written, self._gap = self._break(), ""
        for n, part in enumerate(chop_cells(word, self._width)):
            if n:
                written += self._break()
            written += self._gap + (_MARKER.sub("\x1b[36m\\g<0>\x1b[0m", part) if self._colour else part)
            self._column += len(self._gap) + cell_len(part)
            self._gap = ""
        return written

    def _break(self) -> str:
        self._column = 0
        self._rows += 1
        return "\n"
