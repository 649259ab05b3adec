"""Classifying: what a token is among its neighbours, such as a year, a day of a month, or a version. Pure, linear."""

from __future__ import annotations

import re

from services.generation.specifics import words
from services.generation.specifics.tokens import (
    DAY,
    MONTH,
    QUARTER,
    SEASON,
    TIME,
    VERSION,
    WEEKDAY,
    YEAR,
    Token,
    stem,
)

VERSION_HEADS = words.listed("version versions release releases v build firmware versionen")
RANGE_WORDS = words.listed("to through until till bis and und")
_ALSO_VERBS = frozenset(["may", "march", "mar"])
_BEFORE_MONTHS = words.listed(
    """. in of by until since from to before after and every im ab bis seit late early mid anfang mitte ende – - through vor
    nach und during each"""
)
_LONGEST_SHORT = 4  # "sats" is no Saturday
_BEFORE_SPRING = frozenset(["in", "the", "this", "next", "every", "each"])
_CALENDAR = frozenset(words.SHORT_WEEKDAYS | words.WEEKDAYS)


class Neighbours:
    """The tokens of a text, asked by their place."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens

    def at(self, index: int) -> Token | None:
        """The token at ``index``; None outside."""
        return self.tokens[index] if 0 <= index < len(self.tokens) else None

    def word(self, index: int) -> str:
        """The token at ``index`` in small letters; empty outside."""
        token = self.at(index)
        return token.lower if token is not None else ""


class Classifier(Neighbours):
    """Gives tokens that have none a kind and a value."""

    def classify(self) -> None:
        """Look at every token."""
        for index, token in enumerate(self.tokens):
            self._classify(index, token)

    def _classify(self, index: int, token: Token) -> None:
        match token.group:
            case "word":
                self._word_of_calendar(index, token)
            case "number" if token.kind is None:
                self._number(index, token)
            case _:
                pass
        if token.group == "ordinal":
            self._ordinal(index, token)

    def _word_of_calendar(self, index: int, token: Token) -> None:
        lower, capital = token.lower, token.text[0].isupper()
        if lower in words.MONTHS and self._is_month(index, token):
            token.kind, token.value = MONTH, float(words.MONTHS[lower])
        elif lower in words.WEEKDAYS and (capital or (lower.endswith("s") and len(lower) > _LONGEST_SHORT)):
            token.kind, token.value = WEEKDAY, float(words.WEEKDAYS[lower])
        elif lower in words.SHORT_WEEKDAYS and token.text.istitle() and self._in_short_range(index):
            token.kind, token.value = WEEKDAY, float(words.SHORT_WEEKDAYS[lower])
        elif lower in words.SEASONS and (lower != "spring" or self.word(index - 1) in _BEFORE_SPRING):
            token.kind, token.value = SEASON, float(words.SEASONS[lower])
        elif lower in words.ORDINALS:
            token.group, token.value = "ordinal", float(words.ORDINALS[lower])

    def _number(self, index: int, token: Token) -> None:
        if self._is_year(index, token):
            token.kind = YEAR
        elif self._is_hour(index, token):
            token.kind, token.value = TIME, 60.0 * float(token.text)
        elif month := self._month_of_day(index):
            token.kind, token.value = DAY, 100.0 * month + float(token.text)
        elif self._is_german_ordinal(index):
            token.group = "ordinal"
        elif self._is_version(index, token):
            token.kind = VERSION
            token.value = tuple(int(part) for part in token.text.split("."))

    def _ordinal(self, index: int, token: Token) -> None:
        after = self.word(index + 1) if self.word(index + 1) != "." else self.word(index + 2)
        if (month := self._month_of_day(index)) and isinstance(token.value, float):
            token.kind, token.value = DAY, 100.0 * month + token.value
        else:
            token.kind = QUARTER if after in ("quarter", "quartal") else ("ordinal", stem(after))

    def _is_month(self, index: int, token: Token) -> bool:
        if not token.text[0].isupper():
            return token.lower not in _ALSO_VERBS and len(token.text) > _LONGEST_SHORT
        if token.lower not in _ALSO_VERBS:
            return True
        before, after = self.at(index - 1), self.at(index + 1)
        if before is not None and before.group == "word" and before.text[0].isupper() and token.lower == "march":
            return True  # in a title: "Production report March"
        dated = any(other is not None and other.group == "number" for other in (before, after))
        return dated or (before is not None and before.lower in _BEFORE_MONTHS)

    def _in_short_range(self, index: int) -> bool:
        for step in (1, -1):
            at = index + step
            while (other := self.at(at)) is not None and other.lower in (".", "-", "–", "—", "bis", "und", ",", "/"):
                at += step
            joined = at != index + step
            if joined and other is not None and other.lower in _CALENDAR:
                return True
        return False

    def _is_year(self, index: int, token: Token) -> bool:
        if len(token.text) != 4 or not token.text.isdigit() or not 1900 <= token.value < 2100:  # type: ignore[operator]
            return False
        before, after = self.at(index - 1), self.at(index + 1)
        if before is not None and before.lower in words.UNITS and before.group == "sign":
            return False
        return after is None or after.lower not in words.UNITS or after.start - token.end > 1

    def _month_of_day(self, index: int) -> int:
        """The month of which the number at ``index`` is a day ("12 May", "May 12", "12. Mai"); 0 if it is no day."""
        token = self.tokens[index]
        digits = token.text.rstrip("stndrhSTNDRH")
        if not digits.isdigit() or not 1 <= float(digits) <= 31:
            return 0
        after = index + 1
        while self.word(after) in (".", "of"):
            after += 1
        for at, nearest in ((after, token.end), (index - 1, token.start)):
            other = self.at(at)
            if other is None or other.lower not in words.MONTHS or not other.text[0].isupper():
                continue
            if abs((other.start if at > index else other.end) - nearest) <= 4:
                return words.MONTHS[other.lower]
        return 0

    def _is_hour(self, index: int, token: Token) -> bool:
        """Whether the number at ``index`` begins a range of times: the 8 of "8 to 17 Uhr"."""
        joint, far = self.at(index + 1), self.at(index + 2)
        if joint is None or far is None or not token.text.isdigit() or float(token.text) > 24:
            return False
        return far.kind == TIME and (joint.group == "dash" or joint.lower in RANGE_WORDS)

    def _is_german_ordinal(self, index: int) -> bool:
        """Whether the number at ``index`` is written like "im 3. Quartal"."""
        token, dot, after = self.tokens[index], self.at(index + 1), self.at(index + 2)
        if dot is None or after is None or dot.lower != "." or dot.start != token.end or not token.text.isdigit():
            return False
        article = self.word(index - 1) in ("im", "am", "der", "die", "das", "den", "dem", "zum", "zur", "jeder", "ab")
        return len(token.text) <= 2 and after.text[0].isupper() and (article or after.lower == "quartal")

    def _is_version(self, index: int, token: Token) -> bool:
        before, after = self.at(index - 1), self.at(index + 1)
        if not re.fullmatch(r"\d{1,4}(?:\.\d{1,4})?", token.text) or before is None or before.group != "word":
            return False
        if before.lower in VERSION_HEADS:
            return True
        dotted = "." in token.text
        has_unit = after is not None and (after.lower in words.UNITS or after.lower in ("million", "billion", "times"))
        named = before.text[0].isupper() and before.lower not in words.NOT_LABEL_HEADS | words.LABEL_HEADS
        return dotted and named and not has_unit and token.start - before.end <= 1
