"""Text that can be sent: surrogates are joined to characters or replaced. Pure.

JSON may hold half a surrogate pair (RFC 8259, section 8.2), alone or because a server cut a character in two; UTF-8
cannot, and neither can a protobuf string.
"""

from __future__ import annotations

_HIGH = ("\ud800", "\udbff")


def well_formed(text: str) -> str:
    """Return ``text`` with surrogate pairs joined and every lone surrogate replaced by U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


class SurrogateJoiner:
    """Makes a text that comes in pieces well-formed: two halves in neighbouring pieces become their character."""

    def __init__(self) -> None:
        self._half = ""

    def feed(self, piece: str) -> str:
        """Return what ``piece`` makes certain; a first half at its end waits for the next piece."""
        if not piece:
            return ""
        text = self._half + piece
        self._half = text[-1] if _HIGH[0] <= text[-1] <= _HIGH[1] else ""
        return well_formed(text[: len(text) - len(self._half)])

    def finish(self) -> str:
        """Return what is left at the end of the text."""
        half, self._half = self._half, ""
        return well_formed(half)
