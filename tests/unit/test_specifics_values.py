"""What texts are specific about: numbers, dates, versions, labels, in English and German."""

from __future__ import annotations

import math

import pytest

from services.generation.specifics.facts import Facts
from services.generation.specifics.tokens import read_number, tokens
from services.generation.specifics.values import spans


def read(text: str) -> set[tuple[str, object, object]]:
    """(kind, low, high) of everything in ``text``; the kind's words joined by a slash."""
    return {("/".join(span.kind), span.low, span.high) for span in spans(text, tokens(text))}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # years
        ("the policy of 2025", ("year", 2025, 2025)),
        ("under the 2025 policy", ("year", 2025, 2025)),
        ("under 2025 rules", ("year", 2025, 2025)),
        ("since the 2025 policy", ("year", 2025, 2025)),
        ("since 1 April 2024", ("year", 2024, math.inf)),
        ("ab dem 01.07.2025", ("year", 2025, math.inf)),
        ("bis zum 30. September", ("day", -math.inf, 930)),
        ("since 2023 it holds", ("year", 2023, math.inf)),
        ("seit 2023 gilt das", ("year", 2023, math.inf)),
        ("until 2023 it held", ("year", -math.inf, 2023)),
        ("before 2023 it held", ("year", -math.inf, 2022)),
        ("from 2019 to 2022", ("year", 2019, 2022)),
        ("2019–2022", ("year", 2019, 2022)),
        ("the season 2023/24", ("year", 2023, 2024)),
        ("in the 1980s", ("year", 1980, 1989)),
        ("in the 1980's", ("year", 1980, 1989)),
        ("in den 1970er-Jahren", ("year", 1970, 1979)),
        ("in FY2025", ("year", 2025, 2025)),
        ("in FY25", ("year", 2025, 2025)),
        # dates
        ("on 12 May 2025", ("day", 512, 512)),
        ("on May 12th, 2025", ("day", 512, 512)),
        ("am 12. Mai 2025", ("day", 512, 512)),
        ("am 12.05.2025", ("day", 512, 512)),
        ("am 12.5. beginnt es", ("day", 512, 512)),
        ("on 2025-05-12", ("day", 512, 512)),
        ("on 2025-05-12", ("year", 2025, 2025)),
        ("from 1 March to 30 April", ("day", 301, 430)),
        ("from 1 March to 30 April", ("month", 3, 4)),
        ("vom 1. März bis 30. April", ("day", 301, 430)),
        ("in May", ("month", 5, 5)),
        ("Report March", ("month", 3, 3)),
        ("from November to March", ("month", 11, 3)),
        ("im Oktober", ("month", 10, 10)),
        # days of the week
        ("on Tuesdays", ("weekday", 1, 1)),
        ("montags", ("weekday", 0, 0)),
        ("Monday to Friday", ("weekday", 0, 4)),
        ("Mon-Fri", ("weekday", 0, 4)),
        ("Mo–Fr", ("weekday", 0, 4)),
        ("Mo. bis Fr.", ("weekday", 0, 4)),
        ("on weekdays", ("weekday", 0, 4)),
        ("every day", ("weekday", 0, 6)),
        ("täglich", ("weekday", 0, 6)),
        # times
        ("at 3 pm", ("time", 900, 900)),
        ("at 15:00", ("time", 900, 900)),
        ("um 15 Uhr", ("time", 900, 900)),
        ("um 9.30 Uhr", ("time", 570, 570)),
        ("at 12 a.m.", ("time", 0, 0)),
        ("at noon", ("time", 720, 720)),
        ("8:00–17:00", ("time", 480, 1020)),
        ("from 8 to 17 Uhr", ("time", 480, 1020)),
        ("von 8 bis 16 Uhr", ("time", 480, 960)),
        # quarters, seasons
        ("in Q3", ("quarter", 3, 3)),
        ("in the third quarter", ("quarter", 3, 3)),
        ("im 3. Quartal", ("quarter", 3, 3)),
        ("in winter", ("season", 3, 3)),
        # versions
        ("version 3.2", ("version", (3, 2), (3, 2))),
        ("Pelican 3.2", ("version", (3, 2), (3, 2))),
        ("v3.2", ("version", (3, 2), (3, 2))),
        ("3.2.1", ("version", (3, 2, 1), (3, 2, 1))),
        ("versions 3.0 to 3.4", ("version", (3, 0), (3, 4))),
        ("version 7 or later", ("version", (7,), (10**9,))),
        ("from version 7 onwards", ("version", (7,), (10**9,))),
        ("ab Version 6.2", ("version", (6, 2), (10**9,))),
        # numbers
        ("7.000.000 Quadratkilometer", ("number/count/quadratkilometer", 7_000_000, 7_000_000)),
        ("1,000 people", ("number/count/people", 1000, 1000)),
        ("2.5 hours", ("number/time/hour", 2.5, 2.5)),
        ("2,5 Stunden", ("number/time/hour", 2.5, 2.5)),
        ("twelve people", ("number/count/people", 12, 12)),
        ("twenty-five nights", ("number/time/night", 25, 25)),
        ("fünfundzwanzig Nächte", ("number/time/night", 25, 25)),
        ("10km", ("number/length/km", 10, 10)),
        ("€50", ("number/currency/eur", 50, 50)),
        ("50 €", ("number/currency/eur", 50, 50)),
        ("more than 3 days", ("number/time/day", math.nextafter(3, 4), math.inf)),
        ("mehr als 3 Tage", ("number/time/day", math.nextafter(3, 4), math.inf)),
        ("at least 3 days", ("number/time/day", 3, math.inf)),
        ("up to 3 days", ("number/time/day", -math.inf, 3)),
        ("groups of ten or more", ("number", 10, math.inf)),
        ("3 to 5 days", ("number/time/day", 3, 5)),
        # labels, ordinals, identifiers
        ("Tier A", ("label/tier", "A", "A")),
        ("Tiers A and B", ("label/tier", "B", "B")),
        ("levels 2 to 4", ("label/level", 2, 4)),
        ("Phase II", ("label/phase", 2, 2)),
        ("Grade: 5; Rate: 10", ("label/grade", 5, 5)),
        ("in Gebäude C", ("label/gebäude", "C", "C")),
        ("Super Bowl 50", ("label/bowl", 50, 50)),
        ("the second reminder", ("ordinal/reminder", 2, 2)),
        ("the 2nd reminder", ("ordinal/reminder", 2, 2)),
        ("die zweite Mahnung", ("ordinal/mahnung", 2, 2)),
        ("im 4. Stock", ("ordinal/stock", 4, 4)),
        ("error QX-418", ("identifier", "qx418", "qx418")),
        ("form T12", ("identifier", "t12", "t12")),
    ],
)
def test_a_value_is_read(text: str, expected: tuple[str, object, object]) -> None:
    assert expected in read(text)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("you may go", "month"),
        ("they march on", "month"),
        ("the sun is bright", "weekday"),
        ("2000 euros", "year"),
        ("1500 visitors", "year"),
        ("it costs 50", "label"),
        ("in 5 days", "label"),
        ("Level 2 hours", "label"),
        ("it costs 2.50 euros", "version"),
        ("it costs 2.50 euros", "time"),
        ("a spring of steel", "season"),
        ("Mi casa", "weekday"),
    ],
)
def test_what_looks_like_a_value_is_none(text: str, kind: str) -> None:
    assert kind not in {found.split("/")[0] for found, _, _ in read(text)}


@pytest.mark.parametrize(
    ("text", "number"),
    [("1,000", 1000), ("1.000", 1000), ("2,5", 2.5), ("2.5", 2.5), ("12", 12), ("1.234.567", 1_234_567)],
)
def test_numbers_are_read_in_both_ways_of_writing(text: str, number: float) -> None:
    assert read_number(text) == number


@pytest.mark.parametrize(
    ("text", "asked", "held"),
    [
        ("from 22:00 to 6:00", "23:00", True),
        ("from 22:00 to 6:00", "12:00", False),
        ("Friday to Monday", "Sunday", True),
        ("Friday to Monday", "Wednesday", False),
        ("version 3.2", "version 3", True),
        ("version 3.2", "version 3.3", False),
    ],
)
def test_a_range_holds_what_lies_in_it(text: str, asked: str, held: bool) -> None:
    value = spans(asked, tokens(asked))[0]
    assert any(span.holds(value) for span in spans(text, tokens(text)) if span.kind == value.kind) is held


def test_units_rates_and_opposites_are_read() -> None:
    facts = Facts.of("The monthly fee is 5 euros per kilometre, with a maximum of 40, and not for interns.")
    assert ("currency", "eur") in facts.units
    assert ("length", "km") in facts.units
    assert facts.rates == {"month"}
    assert facts.negated
    assert Facts.of("die maximale Höhe").opposites == Facts.of("the highest").opposites
