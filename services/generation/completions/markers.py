"""Citation markers in the shapes that models write, made into ``[n]``. Pure, linear in the text.

Asked for ``[1]``, models also write ``[1, 2]``, ``[1-3]``, ``［1］``, ``【1†source】``, ``[^1]``, ``[[1]]``, ``[Source 1]``,
``(Source 1)`` or ``<source number="1">``. What a marker refers to, and does not exist, is taken out, but only where it
surely is a marker. These stay as they are, being content:

* numbers that are no source's: 100 or more (``[2024]``); in a range or list with 0 (``[0, 1]``);
* an unknown number that stands directly behind a word (``arr[9]``), or in brackets in a source as well, or in a source
  and before a word that goes on with the sentence (``[42] euros``);
* round brackets without a word such as "Source" (``(5)``). Where a text has no other marker at all,
  :func:`read_round` reads those at the ends of clauses.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_MOST = 99  # what is above cannot be a source's number: there are never more than 50
_LONGEST = 90

_DIGITS = "0-9０-９"
_NUMBER = rf"[{_DIGITS}]{{1,24}}"
_WORD = (
    r"sources?|src|docs?|documents?|ref(?:erence)?s?|citations?|cites?|cited|passages?|texts?|see|notes?|"
    r"quellen?|dokumente?|belege?|siehe|vgl|fußnote|s\.?\s?source|number|nr|no|nº|№|\#"
)
_NAMED = rf"(?:(?:{_WORD})(?![^\W\d_])[\s.:#№=\"'_-]{{0,4}}){{1,2}}"
_RANGE = r"(?:[-‐‑‒–—−~]|\.\.|\bto\b|\bbis\b)"
_SEPARATOR = rf"\s{{0,3}}(?:[,;&+/]|\band\b|\bund\b|\bor\b|{_RANGE})\s{{0,3}}(?:\^|{_NAMED})?"
_LIST = rf"{_NUMBER}(?:{_SEPARATOR}{_NUMBER}){{0,12}}"
# "[1, p. 3]", "[1, S. 3-5]": where in the source.
_PLACE = rf"(?:\s{{0,2}},?\s{{0,2}}(?:pp?|pages?|S|Seiten?|lines?|L|§)\.?\s?{_NUMBER}(?:[-–]{_NUMBER})?)?"
_MARKER = re.compile(
    rf"[ \t]?(?P<raised><sup>\s?)?(?:"
    rf"(?P<double>\[\[)?(?(double)|[\[［〔])\s{{0,4}}(?P<named>\^|{_NAMED})?(?P<numbers>{_LIST}){_PLACE}\s{{0,4}}[\"'^]?"
    rf"(?(double)\]\]|[\]］〕])"
    rf"|【\s?(?:{_NAMED})?(?P<lenticular>{_LIST})(?P<dagger>(?:[:：†‡][^】\n]{{0,40}})?)\s?】"
    rf"|\(\s?(?P<round>{_NAMED}(?P<rounded>{_LIST}))\s?\)"
    rf"|</?source\s{{1,3}}(?:(?:number|id|n)\s?=\s?)?[\"']?(?P<tagged>{_NUMBER})[\"']?\s?/?>"
    rf")(?(raised)(?:\s?</sup>)?)",
    re.IGNORECASE,
)
# What may still become a marker: never held back for longer than its length, or its line.
_BEGUN = re.compile(
    r"[ \t]?(?:<(?:s(?:u(?:p(?:>\s?)?)?)?)?)?(?:"
    r"(?:\[\[?|[［〔])[^\[\]［］〔〕\n]{0,80}[\]］〕]?|【[^】\n]{0,80}"
    rf"|\(\s?(?:[^\W\d_]{{0,9}}|(?:{_WORD})[^()\n]{{0,60}})"
    r"|</?(?:s(?:o(?:u(?:r(?:c(?:e[^<>\n]{0,24})?)?)?)?)?)?)?\Z",
    re.IGNORECASE,
)
_SOURCE = re.compile(r"\s?(?:see\s|siehe\s|vgl\.?\s)?(?:source|quelle|passage|citation)", re.IGNORECASE)
_STARTS = re.compile(r"[ \t]?[\[［〔【(<]|[ \t]\Z")
_PARTS = re.compile(rf"({_NUMBER})|({_RANGE})", re.IGNORECASE)
_OPEN_BEFORE = re.compile(r"\[[\d\s,;]{0,24}\Z", re.ASCII)
_GOES_ON = re.compile(r"[ \t][a-zß-öø-ÿ]")
_BRACKETED = re.compile(r"\[[^\[\]\n]{1,40}\]")
_SMALL_NUMBER = re.compile(r"(?<![\w.,])\d{1,2}(?![\w])", re.ASCII)
_TAIL = 26


class MarkerReader:
    """Makes markers into ``[n]``; joined, what it returns does not depend on how the text was cut.

    ``sources`` is how many sources there are, ``texts`` are theirs, as far as they are known. ``cited`` tells whether
    a marker to one of them was returned.
    """

    def __init__(self, sources: int, texts: Sequence[str] = ()) -> None:
        self.cited = False
        self._sources = sources
        self._texts = texts
        self._found: tuple[frozenset[str], frozenset[int]] | None = None
        self._buffer = ""
        self._tail = ""

    def feed(self, piece: str, *, last: bool = False) -> str:
        """Return what ``piece`` makes certain; everything that is left, when it is the ``last``."""
        text, place = self._buffer + piece, 0
        out: list[str] = []
        while True:
            found = _STARTS.search(text, place)
            if found is None:
                self._show(out, text[place:])
                break
            self._show(out, text[place : found.start()])
            place = found.start()
            marker = _MARKER.match(text, place)
            if not last and self._undecided(text, place, marker):
                self._buffer = text[place:]
                return "".join(out)
            if marker is None:
                # Not more than its first character: the next one may begin a marker.
                self._show(out, text[place])
                place += 1
                continue
            self._show(out, self._read(marker, text))
            place = marker.end()
        self._buffer = ""
        return "".join(out)

    def _show(self, out: list[str], text: str) -> None:
        if text:
            out.append(text)
            self._tail = (self._tail + text[-_TAIL:])[-_TAIL:]

    def _undecided(self, text: str, place: int, marker: re.Match[str] | None) -> bool:
        """Whether more text may change what the marker at ``place`` is, or whether it is one."""
        if marker is None:
            return len(text) - place <= _LONGEST and _BEGUN.match(text, place) is not None
        following = text[marker.end() : marker.end() + 7]
        if marker["raised"]:
            return len(following) < 7 and "</sup>".startswith(following.lstrip())
        return len(following) < 2 and not self._valid(marker)

    def _valid(self, marker: re.Match[str]) -> list[int]:
        """The sources that the marker refers to."""
        if (marker["dagger"] or "")[:1] in (":", "："):
            return []  # in OpenAI's 【4:0†source】 the first number is that of a message
        return [number for number in self._numbers(marker) if 1 <= number <= self._sources]

    def _numbers(self, marker: re.Match[str]) -> list[int]:
        return _listed(
            marker["numbers"] or marker["lenticular"] or marker["rounded"] or marker["tagged"], self._sources
        )

    def _read(self, marker: re.Match[str], text: str) -> str:
        """What stands in the marker's place."""
        blank = marker[0][0] if marker[0][0] in " \t" else ""
        whole = marker[0][len(blank) :]
        glued = not blank and self._tail != "" and (self._tail[-1].isalpha() or self._tail[-1] == "_")
        plain = marker["numbers"] is not None and marker["named"] is None
        numbers = self._numbers(marker)
        if plain and (max(numbers) > _MOST or (0 in numbers and len(numbers) > 1)):
            return marker[0]
        valid = self._valid(marker)
        if valid:
            self.cited = True
            return blank + "".join(f"[{number}]" for number in dict.fromkeys(valid))
        if marker["rounded"]:
            content = _SOURCE.match(marker["round"]) is None
        elif plain:
            content = glued or self._is_content(whole, numbers, text[marker.end() : marker.end() + 2])
        else:
            content = whole in self._known()[0]
        if content:
            return marker[0]
        # Taken out of "[7[9]]", an unknown marker would leave another one behind.
        return f"{blank}({numbers[0]})" if _OPEN_BEFORE.search(self._tail) else ""

    def _is_content(self, whole: str, numbers: Sequence[int], following: str) -> bool:
        bracketed, counted = self._known()
        return whole in bracketed or (counted.issuperset(numbers) and _GOES_ON.match(following) is not None)

    def _known(self) -> tuple[frozenset[str], frozenset[int]]:
        """What stands in square brackets in the sources, and the small numbers in them."""
        if self._found is None:
            bracketed = frozenset(found for text in self._texts for found in _BRACKETED.findall(text))
            small = frozenset(int(found) for text in self._texts for found in _SMALL_NUMBER.findall(text))
            self._found = bracketed, small
        return self._found


def _listed(text: str, sources: int) -> list[int]:
    """The numbers of a list such as "1, 3-5"; of a range those of sources, and its ends."""
    numbers: list[int] = []
    ranged = False
    for number, dash in _PARTS.findall(text):
        if dash:
            ranged = True
            continue
        value = int(number)
        if ranged and numbers:
            numbers += range(max(1, numbers[-1] + 1), min(value, sources + 1))
        numbers.append(value)
        ranged = False
    return numbers


# --- round brackets and superscripts --------------------------------------------------------------------------------

_ROUND = re.compile(rf"[ \t]?\(({_LIST})\)(?=\s?(?:[.,;:!?)]|\(\d|\Z|\n))", re.IGNORECASE)
_SPELT = re.compile(
    r"(?:\A|\W)(?:one|two|three|four|five|six|seven|eight|nine|ten|eine?[mnrs]?|zwei|drei|vier|fünf|sechs|sieben|acht|neun|zehn)\Z",
    re.IGNORECASE,
)
_RAISED = re.compile(r"(?:(?<=[.!?,;:\"”])|(?<=[^\W\d_]{4}))([¹²³⁴-⁹][⁰¹²³⁴-⁹]?)(?=[\s.,;:!?)]|\Z)")
_UNIT = re.compile(r"met(?:er|re)s?\Z", re.IGNORECASE)


def read_round(text: str, sources: int) -> str:
    """Make ``(1)`` and ``¹`` at the ends of clauses into ``[1]``, for a text that has no other marker.

    Only where each number is a source's. "five (5)" stays, and so does "square metres²".
    """

    def read(match: re.Match[str]) -> str:
        before = text[max(0, match.start() - 16) : match.start()]
        numbers = _listed(match[1], sources) if match.re is _ROUND else [int(match[1].translate(_LOWERED))]
        if not all(1 <= number <= sources for number in numbers) or _SPELT.search(before) or _UNIT.search(before):
            return match[0]
        return (" " if match[0][0] in " \t" else "") + "".join(f"[{number}]" for number in numbers)

    text = _ROUND.sub(read, text)
    return _RAISED.sub(read, text)


_LOWERED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")
