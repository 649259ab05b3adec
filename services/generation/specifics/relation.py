"""Relations: whether a text has a value of a question, another of its kind, or none. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from enum import Enum

from services.generation.specifics.facts import Facts
from services.generation.specifics.tokens import DAY, IDENTIFIER, VERSION, YEAR
from services.generation.specifics.values import Span


class Relation(Enum):
    """What a text says of a value."""

    SAME = "same"
    OTHER = "other"
    NOTHING = "nothing"


def relation(value: Span, facts: Facts) -> Relation:
    """What the text behind ``facts`` says of ``value``."""
    match value.kind:
        case ("number", *unit):
            return _number(value, tuple(unit), facts)
        case ("label", head):
            return _label(value, head, facts)
        case ("ordinal", head):
            return _among(value, (*facts.of_kind(value.kind), *(facts.of_kind(("label", head)) if head else ())))
        case ("identifier",):
            return _identifier(value, facts)
        case ("version",):
            return _version(value, facts)
        case _:
            return _among(value, facts.of_kind(value.kind))


def _among(value: Span, others: Iterable[Span]) -> Relation:
    found = list(others)
    if any(other.holds(value) for other in found):
        return Relation.SAME
    return Relation.OTHER if found else Relation.NOTHING


def _number(value: Span, unit: tuple[str, ...], facts: Facts) -> Relation:
    """A number of another unit says nothing, one without may be the same; what is counted may be named in two ways."""
    other = False
    for span in facts.named("number"):
        theirs = span.kind[1:]
        if unit != theirs and _is_unit(unit) and _is_unit(theirs):
            continue
        if _same_number(value, span, same_unit=unit == theirs or not (_is_unit(unit) or _is_unit(theirs))):
            return Relation.SAME
        other = other or (bool(unit) and theirs == unit)
    if other:
        return Relation.OTHER
    if not _is_unit(unit) and _counted_elsewhere(value, facts):
        return Relation.SAME
    return Relation.NOTHING


def _is_unit(unit: tuple[str, ...]) -> bool:
    return bool(unit) and unit[0] != "count"


def _same_number(value: Span, span: Span, *, same_unit: bool) -> bool:
    if value.is_open:  # "over 3 days": the same bound, or the bare number
        return (span.low, span.high) == (value.low, value.high) or (
            not span.is_open and span.low in (value.low, value.high)
        )
    if span.is_open:
        return same_unit and span.holds(value)
    return span.holds(value)


def _counted_elsewhere(value: Span, facts: Facts) -> bool:
    """Whether a bare number stands in another kind of value: a year, a label, the end of an identifier."""
    kinds = [kind for kind in facts.spans if kind[0] in ("label", "ordinal")]
    if any(span.low == value.low for span in facts.of_kind(YEAR, DAY, *kinds)):
        return True
    end = re.compile(rf"(?<!\d){value.low:g}\Z") if isinstance(value.low, float) else None
    return end is not None and any(end.search(str(span.low)) for span in facts.of_kind(IDENTIFIER))


def _label(value: Span, head: str, facts: Facts) -> Relation:
    # "Floor four" is "the fourth floor".
    found = _among(value, (*facts.of_kind(value.kind), *facts.of_kind(("ordinal", head))))
    if found is Relation.SAME:
        return found
    if any(span.low == _joined(head, value) for span in facts.of_kind(IDENTIFIER)):
        return Relation.SAME
    if found is Relation.OTHER:
        return found
    if isinstance(value.low, str):
        letters = [index for index, token in enumerate(facts.tokens) if token.text == value.low]
        # At the beginning "A" is an article, and "I" the speaker.
        return Relation.SAME if letters and (value.low not in ("A", "I") or letters != [0]) else Relation.NOTHING
    return Relation.SAME if any(span.holds(value) for span in facts.named("number")) else Relation.NOTHING


def _version(value: Span, facts: Facts) -> Relation:
    text = ".".join(str(part) for part in value.low) if isinstance(value.low, tuple) else ""
    if any(token.text == text and token.start < facts.end for token in facts.tokens):
        return Relation.SAME
    # "Pelican 7" is read as a label, since many names have numbers.
    labels = facts.of_kind(("label", value.owner))
    majors = (
        replace(span, kind=VERSION, low=(int(span.low),), high=(int(span.low),))
        for span in labels
        if isinstance(span.low, float)
    )
    return _among(value, (*facts.of_kind(VERSION), *majors))


def _identifier(value: Span, facts: Facts) -> Relation:
    found = list(facts.of_kind(IDENTIFIER))
    if any(span.low == value.low for span in found):
        return Relation.SAME
    if any(_joined(span.kind[1], span) == value.low for span in facts.named("label")):
        return Relation.SAME
    letters = _letters(value)
    return Relation.OTHER if letters and any(_letters(span) == letters for span in found) else Relation.NOTHING


def _joined(head: str, label: Span) -> str:
    """A label as an identifier: SEV 1 is sev1."""
    return f"{head}{label.low:g}" if isinstance(label.low, float) else f"{head}{label.low}".lower()


def _letters(identifier: Span) -> str:
    return str(identifier.low).rstrip("0123456789")
