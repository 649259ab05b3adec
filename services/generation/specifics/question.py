"""Question: what a question is specific about, and what kind of answer it wants. Pure, linear in its text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from services.generation.specifics import words
from services.generation.specifics.facts import Facts
from services.generation.specifics.tokens import WEEKDAY, Token
from services.generation.specifics.values import Span

_MOST = 12  # values and names that are looked at; the time that a check takes grows with them
_FEW = 4
_ASKING = words.listed("""who whom whose what which when where why how wer wen wem wessen was welche welcher welches welchen welchem wann wo
    woher wohin warum weshalb wieso wozu wie""")
_AUXILIARIES = words.listed("""is are was were do does did can could may might must shall should will would has have had
    ist sind war waren kann können darf dürfen muss müssen soll sollen wird werden hat haben gibt""")
_SELECTING = words.listed("which what welcher welchem welches welchen welche")
_TIMES = words.listed("year date day month time quarter weekday jahr tag monat datum uhrzeit")
_COUNTING = frozenset([("how", "many"), ("wie", "viele"), ("wie", "vielen")])
_MEASURING = _COUNTING | {("how", "much"), ("wie", "viel"), ("how", "long"), ("wie", "lange")}


class Question:
    """A question, read once and held against many sentences.

    ``values`` are its numbers, dates, labels and the like, ``names`` its words that begin with a capital inside it, and
    ``name_groups`` those of them that follow each other, together; none in German, where every noun has a capital.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.facts = Facts.of(text)
        found = self.facts.tokens
        lowers = [token.lower for token in found]
        pairs = set(pairwise(lowers))
        german = sum(word in words.GERMAN_MARKS for word in lowers)
        self.german = german > 1 or not set("äöüß").isdisjoint(text.lower())
        values = (span for spans in self.facts.spans.values() for span in spans)
        self.values = [_point(span) for span in values if not self._is_vague(span) and not self._is_asked(span)][:_MOST]
        self.asks_time = not {"when", "wann", "since", "date", "datum"}.isdisjoint(lowers) or any(
            one in _SELECTING and other in _TIMES for one, other in pairs
        )
        self.asks_how_many = not _COUNTING.isdisjoint(pairs)
        self.asks_number = not _MEASURING.isdisjoint(pairs)
        self.closed = _ASKING.isdisjoint(lowers) and not _AUXILIARIES.isdisjoint(lowers)
        self.negated = not words.NEGATIONS.isdisjoint(lowers[1:])
        self.names = self._names(found)
        self.name_groups = [] if self.german else _groups(self.names)

    def words_of(self, span: Span) -> str:
        """How the question writes a value, with its label or what it counts: "Tier A", "3 nights"."""
        start = span.start
        if span.kind[0] in ("label", "version"):
            heads = [token for token in self.facts.tokens if token.end <= start and token.group == "word"]
            start = heads[-1].start if heads else start
        end = span.end
        if span.kind[0] == "number" and len(span.kind) > 1:
            behind = [token for token in self.facts.tokens if token.start >= end][:1]
            end = behind[0].end if behind and behind[0].start == end + 1 else end
        return self.text[start:end]

    def _names(self, found: Sequence[Token]) -> list[Token]:
        taken = {(span.start, span.end) for span in self.values}
        labels = {span.start for span in self.facts.named("label")}
        return [
            token
            for token in found[1:]
            if token.group == "word"
            and token.text[0].isupper()
            and len(token.text) > 1
            and token.lower not in words.STOPS
            and token.lower not in words.UNITS
            and (token.start, token.end) not in taken
            and token.end + 1 not in labels
        ][:_MOST]

    def _is_vague(self, span: Span) -> bool:
        """Whether a number is a small one in words that counts no unit: "two of his advisers"."""
        if (
            span.kind[0] != "number"
            or (len(span.kind) > 1 and span.kind[1] != "count")
            or span.low != span.high
            or not isinstance(span.low, float)
            or span.low > _FEW
        ):
            return False
        return self.text[span.start : span.end].isalpha()

    def _is_asked(self, span: Span) -> bool:
        """Whether a span is the word for what is asked for: "on which weekday"."""
        return span.kind == WEEKDAY and self.text[span.start : span.end].lower() in ("weekday", "workday", "day")


def _point(span: Span) -> Span:
    """``span`` without the bound of a comparison: "by 1991" asks about 1991; a number keeps it ("over 3 days")."""
    if not span.is_open or span.kind[0] == "number":
        return span
    value = max(span.low, span.high) if span.low in (-float("inf"), ()) else span.low
    return replace(span, low=value, high=value)


def _groups(names: Sequence[Token]) -> list[list[Token]]:
    groups: list[list[Token]] = []
    for name in names:
        if groups and name.start - groups[-1][-1].end == 1:
            groups[-1].append(name)
        else:
            groups.append([name])
    return groups
