"""Values: the numbers, dates, times, versions and labels that a text speaks of, each as a span. Pure, linear in the text.

A span says "from low to high", both included, so that "Monday to Friday" holds Wednesday and "since 2023" holds 2026. A
plain value is a span of itself alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from services.generation.specifics import words
from services.generation.specifics.classify import RANGE_WORDS, VERSION_HEADS, Classifier, Neighbours
from services.generation.specifics.tokens import (
    DAY,
    MONTH,
    TIME,
    VERSION,
    WEEKDAY,
    YEAR,
    Kind,
    Token,
    Value,
    stem,
)


@dataclass(frozen=True, slots=True)
class Span:
    """``low`` to ``high`` of a kind, as a text says it at ``start`` to ``end``; ``owner`` is what a version is one of."""

    kind: Kind
    low: Value
    high: Value
    start: int
    end: int
    owner: str = ""

    @property
    def is_open(self) -> bool:
        """Whether a comparison made it ("since 2023"), so that it has one bound alone."""
        return self.low in (-math.inf, ()) or self.high in (math.inf, _LAST)

    def holds(self, other: Span) -> bool:
        """Whether all of ``other`` is inside; of different types never."""
        try:
            if self.kind == VERSION and _extends(self.low, other.low):
                return True
            if self.kind in (TIME, WEEKDAY, MONTH, DAY) and self.high < self.low:  # type: ignore[operator]
                # From 22:00 to 6:00, Friday to Monday, November to March: around the end.
                return self.low <= other.low or other.high <= self.high  # type: ignore[operator]
            return self.low <= other.low and other.high <= self.high  # type: ignore[operator]
        except TypeError:
            return False


_LAST = (10**9,)  # above every version


def _extends(version: Value, asked: Value) -> bool:
    """Whether ``version`` (3.2) is one of those that ``asked`` (3) means."""
    return isinstance(version, tuple) and isinstance(asked, tuple) and version[: len(asked)] == asked


_FROM = words.listed("since starting ab seit mindestens")
_ABOVE = words.listed("above over exceeding über after nach beyond")
_OF_AMOUNTS = words.listed("above over exceeding über beyond below under unter")
_UNTIL = words.listed("until till through bis höchstens maximal")
_BELOW = words.listed("below under unter before vor")
_ONWARDS = words.listed(
    "onwards onward later newer higher above upwards more older longer neuer höher später mehr aufwärts länger an"
)
_DOWNWARDS = words.listed("earlier lower less fewer below older früher weniger niedriger")
_ARTICLES = frozenset(["dem", "den", "zum"])
_LONGEST_DATE = 5  # tokens before a year
_COMPARED = {
    "more": "over", "mehr": "over", "longer": "over", "länger": "over", "less": "under", "fewer": "under",
    "weniger": "under", "later": "until", "später": "until",
}  # fmt: skip
_PHRASES = {
    ("at", "least"): "mindestens",
    ("at", "most"): "höchstens",
    ("up", "to"): "höchstens",
    ("bis", "zu"): "bis",
    ("as", "of"): "since",
}
_ROMAN = re.compile(r"(?:X{0,2}(?:IX|IV|V?I{1,3}|V)|X{1,2})\Z")
_SHORTEST_NOUN = 3
_ROMANS = {"I": 1, "V": 5, "X": 10}


def spans(text: str, found: list[Token]) -> list[Span]:
    """Everything in ``text``, whose tokens are ``found``, that has a value."""
    Classifier(found).classify()
    return list(_Reader(text, found).read())


class _Reader(Neighbours):
    """Reads spans off the tokens of a text, from left to right."""

    def __init__(self, text: str, found: list[Token]) -> None:
        super().__init__(found)
        self._text = text
        self._far_ends: set[int] = set()  # where tokens begin that were read as the end of a range

    def read(self) -> Iterator[Span]:
        for index, token in enumerate(self.tokens):
            if token.start in self._far_ends:
                continue
            if token.group in ("iso", "german"):
                yield from self._date(index)
            elif token.kind is not None:
                yield self._spanned(token.kind, index)
            elif token.group == "number":
                yield self._spanned(("number", *self._unit(index)), index)
            if token.lower in words.WEEKDAY_SPANS and token.group == "word":
                low, high = words.WEEKDAY_SPANS[token.lower]
                yield Span(WEEKDAY, float(low), float(high), token.start, token.end)
            if token.lower in ("every", "each", "jeden") and self.word(index + 1) in ("day", "tag"):
                yield Span(WEEKDAY, 0.0, 6.0, token.start, token.end)
            if token.group == "decade":
                yield Span(YEAR, float(token.text[:4]), float(token.text[:4]) + 9, token.start, token.end)
        yield from self._labels()

    # --- ranges and bounds --------------------------------------------------------------------------------------------

    def _unit(self, index: int) -> tuple[str, ...]:
        """The unit of the number at ``index``: (dimension, unit), ("count", noun) for what it counts, or nothing."""
        token = self.tokens[index]
        if token.head:
            return words.UNITS[token.head]
        before, after = self.at(index - 1), self.at(index + 1)
        if after is not None and self._text[token.end : token.end + 1] not in ("'", "’"):  # "1980's" has none
            unit = words.UNITS.get(after.lower.replace(" ", ""))
            if unit is not None:
                return unit
        unit = words.UNITS.get(before.lower) if before is not None else None
        if unit is not None and unit[0] == "currency":
            return unit
        if after is None or after.group != "word" or after.lower in words.STOPS or len(after.text) < _SHORTEST_NOUN:
            return ()
        return ("count", stem(after.lower))

    def _spanned(self, kind: Kind, index: int) -> Span:
        """The value at ``index`` with what is said before and behind it: a range, or a bound on one side."""
        token = self.tokens[index]
        behind = self._behind(kind, index)
        if (ranged := self._range(kind, index, behind)) is not None:
            return ranged
        low, high = token.value, token.value
        before, onwards = self._bound_before(index), self._bound_behind(behind)
        opens = before in ("from", "von") and onwards == 0 and kind == YEAR
        dated = kind in (MONTH, DAY) and self._has_year(behind)
        if dated and (before in _FROM | _ABOVE | _UNTIL | _BELOW):
            return Span(kind, -math.inf, math.inf, token.start, token.end)  # in one of the years any
        if before in _FROM or onwards > 0 or opens:
            high = _infinite(low)
        elif before in _UNTIL or onwards < 0:
            low = _infinite(high, negative=True)
        elif before in _ABOVE:
            low, high = _beside(kind, low, 1), _infinite(low)
        elif before in _BELOW:
            low, high = _infinite(low, negative=True), _beside(kind, high, -1)
        owner = stem(self.word(index - 1)) if kind == VERSION else ""
        return Span(kind, low, high, token.start, token.end, owner)

    def _behind(self, kind: Kind, index: int) -> int:
        """Where what follows the value at ``index`` begins: behind its unit, or the month of its day."""
        behind = index + 1
        if self.word(behind) in words.UNITS:
            behind += 1
        if kind == DAY:
            while self.word(behind) in (".", "of") or self.word(behind) in words.MONTHS:
                behind += 1
        elif kind in (WEEKDAY, MONTH) and self.word(behind) == ".":
            behind += 1
        return behind

    def _has_year(self, at: int) -> bool:
        """Whether a year stands at ``at``, behind the rest of a date."""
        while self.word(at) in (".", ",", "of") or self.word(at) in words.MONTHS:
            at += 1
        token = self.at(at)
        return token is not None and token.kind == YEAR

    def _range(self, kind: Kind, index: int, behind: int) -> Span | None:
        """The range that the value at ``index`` begins, if a second value follows: "3 to 5", "2023/24"."""
        joint, token = self.at(behind), self.tokens[index]
        if joint is None or not (_joins(joint) or joint.lower == "/"):
            return None
        if joint.lower in ("and", "und") and self.word(index - 1) not in ("between", "zwischen"):
            return None
        if joint.lower == "/" and kind != YEAR:
            return None
        at = behind + 2 if self.word(behind + 1) == "including" else behind + 1
        far = self.at(at)
        if far is None:
            return None
        if kind == MONTH and far.kind == DAY and isinstance(far.value, float):
            return Span(kind, token.value, far.value // 100, token.start, far.end)
        value = _far_value(kind, token, far)
        if value is None:
            return None
        self._far_ends.add(far.start)
        if kind == ("number",):
            kind = ("number", *self._unit(at))
        return Span(kind, token.value, value, token.start, far.end)

    def _before_date(self, at: int) -> int:
        """Where what stands before a date in words is: "since" in "since 1 April 2024"."""
        for _ in range(_LONGEST_DATE):
            token = self.at(at)
            if token is None or not (token.kind in (MONTH, DAY) or token.lower in (".", ",", "of")):
                break
            at -= 1
        return at

    def _bound_before(self, index: int) -> str:
        """The word before the value at ``index`` that bounds it, in the shape that the sets of such words have."""
        at = index - 1
        if self.tokens[index].kind in (YEAR, MONTH, DAY):
            at = self._before_date(at)
        if self.word(at) in _ARTICLES:
            at -= 1
        if self.word(at) in VERSION_HEADS or self.word(at) in words.LABEL_HEADS or self.word(at) in words.UNITS:
            at -= 1
        word, earlier = self.word(at), self.word(at - 1)
        if word in ("than", "als"):
            return _COMPARED.get(earlier, "")
        if word in _OF_AMOUNTS and self.tokens[index].kind is not None:
            return ""  # "under the 2025 policy", "over Christmas 2025"
        return _PHRASES.get((earlier, word), word)

    def _bound_behind(self, at: int) -> int:
        """1 for "or more", "and later", "+"; -1 for "or less"; else 0."""
        token = self.at(at)
        if token is None:
            return 0
        if token.group == "plus":
            return 1
        if token.lower in ("onwards", "onward"):
            return 1
        if token.lower in ("or", "and", "oder", "und"):
            word = self.word(at + 1)
            return 1 if word in _ONWARDS else -1 if word in _DOWNWARDS else 0
        return 0

    # --- dates and labels -------------------------------------------------------------------------------------------

    def _date(self, index: int) -> Iterator[Span]:
        """The year, month and day of a date in numbers, or of the range that it begins."""
        token, far = self.tokens[index], self.at(index + 2)
        first = last = _date_parts(token)
        end = token.end
        joint = self.at(index + 1)
        if far is not None and joint is not None and far.group in ("iso", "german") and _joins(joint):
            last, end = _date_parts(far), far.end
            self._far_ends.add(far.start)
        before = self._bound_before(index)
        since, until = before in _FROM | _ABOVE | {"from", "von"}, before in _UNTIL | _BELOW
        for kind, low, high in zip((YEAR, MONTH, DAY), first, last, strict=True):
            if not low or not high:
                continue
            if kind != YEAR and (since or until or (first is not last and first[0] != last[0])):
                yield Span(kind, -math.inf, math.inf, token.start, end)  # in one of the years any
                continue
            bounds = (-math.inf if until and last is first else low, math.inf if since and last is first else high)
            yield Span(kind, *bounds, token.start, end)

    def _labels(self) -> Iterator[Span]:
        found = self.tokens
        index = 0
        while index + 1 < len(found):
            head = found[index]
            at = index + 1
            if found[at].lower == ":" and at + 1 < len(found):
                at += 1
            excluded = head.lower in words.NOT_LABEL_HEADS or head.lower in VERSION_HEADS
            if head.group == "word" and not excluded and _may_head(head):
                value = _label_value(head, found[at])
                if value is not None and self._ends_label(at):
                    yield from self._label_run(head, at, value)
            index += 1

    def _ends_label(self, at: int) -> bool:
        """Whether the value at ``at`` stands for itself: "Tier 2", but not "Level 2 hours"."""
        after = self.at(at + 1)
        return self.tokens[at].group != "number" or after is None or after.lower not in words.UNITS

    def _label_run(self, head: Token, at: int, value: Value) -> Iterator[Span]:
        """A label, and those that are joined to it: "Tiers A and B", "levels 2 to 4"."""
        kind: Kind = ("label", stem(head.lower))
        token = self.tokens[at]
        yield Span(kind, value, value, token.start, token.end)
        while True:
            joint, other = self.at(at + 1), self.at(at + 2)
            if joint is None or other is None or joint.lower not in (
                ",", "and", "or", "/", "to", "–", "-", "—", "through", "und", "oder", "bis",
            ):  # fmt: skip
                return
            far = _label_value(head, other)
            if far is None or isinstance(far, str) is not isinstance(value, str):
                return
            ranged = joint.lower in ("to", "–", "-", "—", "through", "bis")
            yield Span(kind, value if ranged else far, far, other.start, other.end)
            value, at = far, at + 2


def _far_value(kind: Kind, token: Token, far: Token) -> Value | None:
    """The other end of a range whose one end is ``token``, if ``far`` may be that."""
    if isinstance(token.value, str):
        return None
    if kind == YEAR and far.group == "number" and len(far.text) == 2 and isinstance(token.value, float):
        return token.value - token.value % 100 + float(far.text)
    if kind[0] == "number":
        return far.value if far.group == "number" and far.kind is None else None
    if far.kind is not None and far.kind[0] == kind[0]:
        return far.value
    if kind == VERSION and far.group == "number" and re.fullmatch(r"\d+(?:\.\d+)?", far.text):
        return tuple(int(part) for part in far.text.split("."))
    return None


def _joins(joint: Token) -> bool:
    return joint.group == "dash" or joint.lower in RANGE_WORDS


def _date_parts(token: Token) -> tuple[float, float, float]:
    """Year, month, and a day with its month (512 is 12 May); 0 for what is not said, or cannot be."""
    parts = [int(part) for part in re.findall(r"\d+", token.text)]
    if token.group == "iso":
        year, month, day = parts
    else:
        day, month, year = (*parts, 0)[:3]
    month = month if 1 <= month <= 12 else 0
    return float(year), float(month), float(100 * month + day if month and 1 <= day <= 31 else 0)


def _may_head(head: Token) -> bool:
    return head.lower in words.LABEL_HEADS or stem(head.lower) in words.LABEL_HEADS or head.text[0].isupper()


def _label_value(head: Token, token: Token) -> Value | None:
    """What a label may be: a number, a single capital letter, a Roman number."""
    known = head.lower in words.LABEL_HEADS or stem(head.lower) in words.LABEL_HEADS
    if (
        token.group == "number"
        and token.kind in (None, VERSION)
        and token.text[:1].isdigit()
        and (token.kind is None or known)
    ):
        return token.value if isinstance(token.value, float) else ".".join(map(str, token.value))
    if token.group == "word" and len(token.text) == 1 and token.text.isupper():
        return token.text if known or token.text not in "AI" else None
    if token.group == "number" and known and token.lower in words.CARDINALS:
        return token.value
    if token.group == "word" and known and _ROMAN.match(token.text):
        return float(_roman(token.text))
    return None


def _roman(text: str) -> int:
    values = [_ROMANS[letter] for letter in text]
    return sum(-value if value < max(values[at:]) else value for at, value in enumerate(values))


def _infinite(value: Value, *, negative: bool = False) -> Value:
    if isinstance(value, tuple):
        return () if negative else _LAST
    if isinstance(value, str):
        return value
    return -math.inf if negative else math.inf


def _beside(kind: Kind, value: Value, step: int) -> Value:
    """The next value after ``value`` (``step`` 1) or before it (-1); what cannot be stepped stays."""
    if not isinstance(value, float):
        return value
    if kind in (YEAR, MONTH, DAY, WEEKDAY):
        return value + step
    return math.nextafter(value, step * math.inf)
