"""What of a model's text may be shown. Pure, linear in the text.

Three rules hold in every prefix of the stream: the sentinel is never shown, a marker to a source that does not exist is
never shown, and nothing is shown before the first valid marker, because an answer without any citation is no grounded
answer and becomes an abstention.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from services.generation.completions.markers import MarkerReader, read_round
from services.generation.grounding import SENTINEL

_SEPARATED = SENTINEL.split("_")
# With "_" escaped, as models do in Markdown, or another separator; that only in capitals, as it may be content.
_SENTINEL = re.compile("|".join(["(?i:" + r"\\?_".join(_SEPARATED) + ")", r"(?:\\_|[_ -])".join(_SEPARATED)]))
_LONGEST_SENTINEL = len(SENTINEL) + len(_SEPARATED) - 1


def _begun(word: str) -> str:
    """A pattern of every beginning of ``word``, however its words are separated."""
    pattern = r"\Z"
    for character in reversed(word[1:]):
        pattern = rf"(?:\Z|\\(?:\Z|_{pattern})|[_ -]{pattern})" if character == "_" else rf"(?:\Z|{character}{pattern})"
    return word[0] + pattern


_SENTINEL_BEGUN = re.compile(_begun(SENTINEL), re.IGNORECASE)


class AnswerFilter:
    """Lets a model's text through as the rules above say; the result does not depend on how the text was cut.

    ``sources`` is how many sources there are, ``texts`` are theirs: what stands in them is content and no marker. All
    pieces returned, joined, are the answer; an empty answer means that the model abstained or cited nothing.
    """

    def __init__(self, sources: int, texts: Sequence[str] = ()) -> None:
        self._sources = sources
        self._markers = MarkerReader(sources, texts)
        self._raw = ""  # may still become the sentinel
        self._held: list[str] | None = []  # waits for the first valid marker
        self._wrote = False
        self._sentinel = False

    @property
    def declined(self) -> bool:
        """Whether the model wrote the sentinel."""
        return self._sentinel

    @property
    def disclaimed(self) -> bool:
        """Whether the model wrote an answer and the sentinel too."""
        return self._sentinel and self._wrote

    def feed(self, piece: str) -> str:
        """Return what ``piece`` makes safe to show."""
        *parts, raw = _SENTINEL.split(self._raw + piece)
        self._sentinel = self._sentinel or bool(parts)
        keep = _sentinel_begun(raw)
        free, self._raw = raw[: len(raw) - keep], raw[len(raw) - keep :]
        return self._decide("".join(parts) + free, last=False)

    def finish(self) -> str:
        """Return what the end of the text makes safe to show."""
        raw, self._raw = self._raw, ""
        shown = self._decide(raw, last=True)
        if self._held is None or self._sentinel:
            return shown
        held, self._held = "".join(self._held), None
        read = read_round(held, self._sources)
        return read if read != held else ""

    def _decide(self, text: str, *, last: bool) -> str:
        ready = self._markers.feed(text, last=last)
        self._wrote = self._wrote or any(character.isalnum() for character in ready)
        if self._held is None:
            return ready
        self._held.append(ready)
        if not self._markers.cited:
            return ""
        shown, self._held = "".join(self._held), None
        return shown


def _sentinel_begun(text: str) -> int:
    """How many characters at the end of ``text`` may be the beginning of the sentinel."""
    end = text[-_LONGEST_SENTINEL:]
    found = _SENTINEL_BEGUN.search(end)
    return len(end) - found.start() if found else 0
