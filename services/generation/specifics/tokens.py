"""Tokens: a text's words, numbers and signs, and what each of them counts by itself. Pure, linear in the text."""

from __future__ import annotations

import re
from dataclasses import dataclass

from services.generation.specifics import words

Value = float | str | tuple[int, ...]
Kind = tuple[str, ...]
"""What can be compared: values of one kind are neighbours. The first word says what it is, the others which one."""

YEAR: Kind = ("year",)
MONTH: Kind = ("month",)
DAY: Kind = ("day",)
WEEKDAY: Kind = ("weekday",)
SEASON: Kind = ("season",)
QUARTER: Kind = ("quarter",)
TIME: Kind = ("time",)
VERSION: Kind = ("version",)
IDENTIFIER: Kind = ("identifier",)


_NUMBER = r"\d{1,3}(?:[.,’'\u00a0\u202f]\d{3}){1,4}(?![.,]?\d)|\d{1,15}(?:[.,]\d{1,6})?"
_TOKEN = re.compile(
    rf"""(?P<iso>\b(?:19|20)\d\d-\d\d-\d\d\b)
    | (?P<german>\b\d{{1,2}}\.[ ]?\d{{1,2}}\.[ ]?(?:19|20)\d\d\b
        | (?<=\b(?:am|ab)\ )\d{{1,2}}\.[ ]?\d{{1,2}}\. | (?<=\b(?:vom|bis|zum|dem|den)\ )\d{{1,2}}\.[ ]?\d{{1,2}}\.)
    | (?P<clock>\b(?P<ch>[01]?\d|2[0-4])(?::(?P<cm>[0-5]\d)(?!:?\d)(?:[ ]?(?P<cap>[ap]\.?m\b\.?|uhr\b|h\b))?
        | \.(?P<dm>[0-5]\d)[ ]?(?P<dap>[ap]\.?m\b\.?|uhr\b)))
    | (?P<hour>\b(?P<hh>[01]?\d|2[0-4])[ ]?(?P<hap>[ap]\.?m\b\.?|uhr\b|o['’]clock\b))
    | (?P<decade>\b(?:1[5-9]|20)\d0(?:['’]?s|e?r)\b(?:-Jahren?)?)
    | (?P<code>\b(?=[\w]{{0,24}}\d)(?=\w{{0,24}}[^\W\d_])\w{{1,40}}(?:[-_/.]\w{{1,40}}){{0,4}}
        | \b[^\W\d_]{{1,12}}[-_]\d\w{{0,20}}(?:[-_/.]\w{{1,20}}){{0,4}})
    | (?P<version>\b(?!\d{{1,3}}(?:\.\d{{3}}){{1,4}}(?![.\d]))v?\d{{1,4}}(?:\.\d{{1,4}}){{2,4}}\b)
    | (?P<number>{_NUMBER})
    | (?P<word>[^\W\d_]+(?:[-'’][^\W\d_]+)*)
    | (?P<sign>[%€$£¥§]|°\ ?[CF]\b)
    | (?P<dash>[-–—])
    | (?P<plus>\+)
    | (?P<mark>[:;,.()|/?!])""",
    re.VERBOSE | re.IGNORECASE,
)
_SUFFIXED = re.compile(r"(\d{1,3})(st|nd|rd|th)\Z", re.IGNORECASE)
_WITH_UNIT = re.compile(r"(\d{1,9}(?:[.,]\d{1,3})?)([^\W\d_]{1,3})\Z")
_QUARTER = re.compile(r"[qQ]([1-4])\Z")
_FISCAL = re.compile(r"(?:fy|gj)[ ]?(\d{4}|\d\d)\Z", re.IGNORECASE)
_TAG = re.compile(r"v(\d{1,4}(?:\.\d{1,4}){0,3})\Z", re.IGNORECASE)


@dataclass(slots=True)
class Token:
    """A word, number or sign; ``lower`` is what it is compared by, ``value`` what it counts."""

    group: str
    text: str
    lower: str
    start: int
    end: int
    kind: Kind | None = None
    value: Value = 0.0
    head: str = ""


def tokens(text: str) -> list[Token]:
    """The tokens of ``text`` in order; white space and other signs are left out."""
    found = []
    for match in _TOKEN.finditer(text):
        group = match.lastgroup or ""
        group = next(name for name in _GROUPS if match[name] is not None)
        found.append(Token(group, match[0], match[0].lower().replace("’", "'"), match.start(), match.end()))
        _evaluate(found[-1], match)
        if group == "word" and "-" in match[0]:
            found[-1:] = _parts(found[-1])
    return found


def _parts(token: Token) -> list[Token]:
    """``token`` as it is, or "Mon-Fri" as its parts."""
    parts = re.split(r"(-)", token.text)
    calendar = words.WEEKDAYS | words.SHORT_WEEKDAYS | words.MONTHS
    if not all(part == "-" or part.lower() in calendar for part in parts):
        return [token]
    found, start = [], token.start
    for part in parts:
        found.append(Token("dash" if part == "-" else "word", part, part.lower(), start, start + len(part)))
        start += len(part)
    return found


_GROUPS = (
    "iso",
    "german",
    "clock",
    "hour",
    "decade",
    "code",
    "version",
    "number",
    "word",
    "sign",
    "dash",
    "plus",
    "mark",
)


def _evaluate(token: Token, match: re.Match[str]) -> None:
    """Give a token its kind and value where they can be read off it alone."""
    match token.group:
        case "clock":
            minute, half = (match["cm"], match["cap"]) if match["cm"] else (match["dm"], match["dap"])
            token.kind, token.value = TIME, _minutes(int(match["ch"]), int(minute), half)
        case "hour":
            token.kind, token.value = TIME, _minutes(int(match["hh"]), 0, match["hap"])
        case "version":
            token.kind, token.value = VERSION, tuple(int(part) for part in token.lower.lstrip("v").split("."))
        case "number":
            token.value = read_number(token.text)
        case "word" if token.lower in words.CARDINALS:
            token.group, token.value = "number", float(words.CARDINALS[token.lower])
        case "word" if token.lower in ("noon", "midday", "mittags"):
            token.kind, token.value = TIME, 720.0
        case "word" if token.lower in ("midnight", "mitternacht"):
            token.kind, token.value = TIME, 0.0
        case "code":
            _evaluate_code(token)
        case _:
            pass


def _evaluate_code(token: Token) -> None:
    if match := _SUFFIXED.match(token.text):
        token.group, token.kind, token.value = "ordinal", ("ordinal",), float(match[1])
    elif match := _QUARTER.match(token.text):
        token.kind, token.value = QUARTER, float(match[1])
    elif match := _FISCAL.match(token.text):
        token.kind, token.value = YEAR, float(match[1] if len(match[1]) == 4 else f"20{match[1]}")
    elif match := _TAG.match(token.text):
        token.kind, token.value = VERSION, tuple(int(part) for part in match[1].split("."))
    elif (match := _WITH_UNIT.match(token.text)) and match[2].lower() in words.UNITS:
        token.group, token.value, token.head = "number", read_number(match[1]), match[2].lower()
    else:
        token.kind, token.value = IDENTIFIER, re.sub(r"[-_/. ]", "", token.lower)


def _minutes(hour: int, minute: int, half: str | None) -> float:
    half = (half or "").lower().replace(".", "")
    if half == "pm" and hour < 12:
        hour += 12
    elif half == "am" and hour == 12:
        hour = 0
    return float(60 * hour + minute)


def read_number(text: str) -> float:
    """The number that ``text`` writes in the English or German way: 1,000 and 1.000 are a thousand, 2,5 is 2.5."""
    text = re.sub(r"[\s’']", "", text)
    if re.fullmatch(r"\d{1,3}(?:[.,]\d{3})+", text):
        return float(re.sub(r"[.,]", "", text))
    return float(text.replace(",", "."))


def stem(word: str) -> str:
    """A word without the ending of its plural."""
    return word[:-1] if word.endswith("s") and len(word) > 3 and not word.endswith("ss") else word
