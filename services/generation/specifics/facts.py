"""Facts: what a text is specific about, read once, so that a question's can be looked for in it. Pure, linear."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

from services.corpus.terms import analyze
from services.generation.specifics import words
from services.generation.specifics.tokens import Kind, Token, stem, tokens
from services.generation.specifics.values import Span, spans

_WORDS = ("word", "ordinal", "number", "code")
_PER = frozenset(["per", "pro", "je", "each", "every", "a", "an", "/", "jeden", "jede", "jedes"])
_ENDINGS = ("en", "er", "es", "em", "e")  # of German adjectives
_PREFIX = 2


@dataclass(frozen=True, slots=True)
class Facts:
    """What a text says that can be specific, up to the offset ``end``.

    ``spans`` are its values by kind; ``first`` says where each of its words (:func:`plain`) begins first, and
    ``alike`` finds those by their beginnings; ``stems`` are the stems of its words, ``pairs`` its words with the stem
    of the next. ``units`` are (dimension, unit), ``rates`` how often, ``opposites`` (group, class).
    """

    tokens: list[Token]
    spans: dict[Kind, list[Span]]
    first: dict[str, int]
    alike: dict[str, list[str]]
    stems: frozenset[str]
    pairs: frozenset[tuple[str, str]]
    units: frozenset[tuple[str, str]]
    rates: frozenset[str]
    opposites: frozenset[tuple[int, int]]
    negated: bool
    length: int
    end: int

    @classmethod
    def of(cls, text: str) -> Facts:
        """Read ``text``."""
        found = tokens(text)
        by_kind: dict[Kind, list[Span]] = {}
        for span in spans(text, found):
            by_kind.setdefault(span.kind, []).append(span)
        lowers = [token.lower for token in found if token.group in _WORDS]
        first = {plain(token.lower): token.start for token in reversed(found) if token.group in _WORDS}
        alike: dict[str, list[str]] = {}
        for word in first:
            alike.setdefault(word[:_PREFIX], []).append(word)
        return cls(
            tokens=found,
            spans=by_kind,
            first=first,
            alike=alike,
            stems=frozenset(analyze(text)),
            pairs=frozenset((plain(one.lower), stem(other.lower)) for one, other in pairwise(found)),
            units=frozenset(_units(found)),
            rates=frozenset(_rates(found)),
            opposites=frozenset(place for word in lowers for place in _opposites(word)),
            negated=not words.NEGATIONS.isdisjoint(lowers),
            length=len(text),
            end=len(text),
        )

    def until(self, end: int) -> Facts:
        """The values and words that begin before ``end``; all else stays that of the whole text."""
        return replace(self, end=end)

    def of_kind(self, *kinds: Kind) -> Iterator[Span]:
        """The spans of ``kinds``."""
        return (span for kind in kinds for span in self.spans.get(kind, ()) if span.start < self.end)

    def named(self, name: str) -> Iterator[Span]:
        """The spans whose kind begins with ``name``."""
        return self.of_kind(*(kind for kind in self.spans if kind[0] == name))

    def has_word(self, word: str) -> bool:
        """Whether ``word``, as :func:`plain` gives it, is there."""
        return self.first.get(word, self.end) < self.end

    def words_like(self, word: str) -> Iterator[str]:
        """The words that begin with the same letters as ``word``."""
        return (other for other in self.alike.get(word[:_PREFIX], ()) if self.first[other] < self.end)


def plain(word: str) -> str:
    """``word`` without accents and the genitive's ending: de Maiziere and de Maizière are one name."""
    word = word.removesuffix("'s")
    if word.isascii():
        return word
    return "".join(char for char in unicodedata.normalize("NFKD", word) if not unicodedata.combining(char))


def carries_meaning(token: Token) -> bool:
    """Whether a token is a word that means something by itself."""
    return token.group in ("word", "ordinal", "code") and token.lower not in words.STOPS and len(token.lower) > 1


def _units(found: list[Token]) -> Iterator[tuple[str, str]]:
    for token in found:
        lower = token.head or token.lower.replace(" ", "")
        # A single letter is a unit behind a number alone, and was read with it.
        if lower in words.UNITS and (len(lower) > 1 or token.head or token.group == "sign"):
            yield words.UNITS[lower]


def _rates(found: list[Token]) -> Iterator[str]:
    for index, token in enumerate(found):
        if token.lower in words.RATES:
            yield words.RATES[token.lower]
        unit = words.UNITS.get(token.lower)
        if unit is not None and unit[0] == "time" and index and found[index - 1].lower in _PER and len(token.lower) > 1:
            yield unit[1]


def _opposites(word: str) -> tuple[tuple[int, int], ...]:
    if found := words.OPPOSITES.get(word):
        return found
    bases = (word.removesuffix(ending) for ending in _ENDINGS if word.endswith(ending))
    return next((places for base in bases if (places := words.OPPOSITES.get(base))), ())
