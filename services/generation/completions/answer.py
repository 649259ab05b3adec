"""What of a model's text may be shown. Pure, linear in the text.

Three rules hold in every prefix of the stream: the sentinel is never shown, a marker to a source that does not exist is
never shown, and nothing is shown before the first valid marker, because an answer without any citation is no grounded
answer and becomes an abstention.
"""

from __future__ import annotations

from collections.abc import Sequence

from services.generation.completions.markers import MarkerReader, read_round
from services.generation.grounding import SENTINEL


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
        *parts, raw = (self._raw + piece).split(SENTINEL)
        self._sentinel = self._sentinel or bool(parts)
        keep = _prefix_at_end(raw, SENTINEL)
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


def _prefix_at_end(text: str, word: str) -> int:
    """The length of the longest proper prefix of ``word`` that ``text`` ends with."""
    return next((size for size in range(min(len(word) - 1, len(text)), 0, -1) if text.endswith(word[:size])), 0)
