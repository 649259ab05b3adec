"""Whether a sentence speaks of what a question asks about, or of a neighbour."""

from __future__ import annotations

import time

import pytest

from services.generation.specifics.check import Background, Finding, check
from services.generation.specifics.facts import Facts
from services.generation.specifics.question import Question


def hold(question: str, sentence: str, *above: str, passage: str = "") -> Finding:
    around = [Facts.of(text) for text in above]
    asked = Question(question)
    whole = Facts.of(" ".join((*reversed(above), passage, sentence)))
    return check(asked, Facts.of(sentence), around, Background(asked, whole), whole.length)


@pytest.mark.parametrize(
    ("question", "sentence"),
    [
        ("What was the fee in 2024?", "The fee was 40 euros in 2024."),
        ("What is the fee in 2024?", "Since 2022 the fee is 40 euros."),
        ("What is the fee on 15 April?", "From 1 March to 30 April the fee is 40 euros."),
        ("What is served on Wednesday?", "Soup is served from Monday to Friday."),
        ("Who answers at 23:00?", "Between 22:00 and 6:00 the guard answers."),
        ("What changed in version 3.3?", "Versions 3.0 to 3.4 changed the format."),
        ("What does version 3 need?", "Version 3.2 needs 8 GB."),
        ("Who is on floor four?", "The fourth floor houses the archive."),
        ("What is the fee for groups of 12?", "Groups of ten or more pay 40 euros."),
        ("What does SEV1 mean?", "SEV 1 means that customers notice."),
        ("What is oxygen 18?", "The isotope oxygen-18 is heavier."),
        ("Was kostet die Karte am 12.05.2025?", "Am 12. Mai 2025 kostet die Karte 40 Euro."),
        ("What is the fee in 2025?", "Since 1 April 2024 the fee is 40 euros."),
        ("What is the fee on 3 January 2025?", "Since 1 April 2024 the fee is 40 euros."),
        ("Was kostet die Karte im August 2026?", "Ab dem 01.07.2025 kostet die Karte 40 Euro."),
        ("Was kostet die Karte am 15.09.?", "Bis zum 30. September kostet die Karte 40 Euro."),
        ("Was kostet die Karte am 15.08.2025?", "Vom 01.07.2025 bis 30.09.2025 kostet die Karte 40 Euro."),
        ("On which weekday is the run?", "The run is on the first Sunday in May."),
        ("Was kostet die Karte?", "Die Karte kostet 1\u00a0000 Euro."),
        ("What do Germans drink?", "In Germany people drink beer."),
        ("What is the US rate?", "In the United States the rate is 4 percent."),
        ("Who works in Hannover?", "In Hanover the sales team works."),
        ("Who does not need a pass?", "Interns need no pass."),
        ("Who does not need a pass?", "Everyone except interns needs a pass."),
        ("Is smoking allowed?", "Smoking is not allowed."),
        ("How many days may be carried over?", "No days may be carried over."),
        ("When must it be paid?", "It must be paid no later than May."),
        ("What do employees get?", "Staff get a laptop."),
        ("How many seats does it have?", "It has twenty-four seats."),
        ("When was the 2023 policy replaced?", "The 2023 policy was replaced in March 2024."),
    ],
)
def test_the_same_is_recognised_in_other_words(question: str, sentence: str) -> None:
    assert hold(question, sentence) == Finding()


@pytest.mark.parametrize(
    ("question", "sentence", "above"),
    [
        ("What is the fee in 2025?", "The fee was 40 euros in 2024.", ()),
        ("What is the fee in 2021?", "Since 2022 the fee is 40 euros.", ()),
        ("What is the fee in 2023?", "Since 1 April 2024 the fee is 40 euros.", ()),
        ("Was kostet die Karte 2024?", "Ab dem 01.07.2025 kostet die Karte 40 Euro.", ()),
        ("Was kostet die Karte am 2. Oktober?", "Bis zum 30. September kostet die Karte 40 Euro.", ()),
        ("Was kostet die Karte am 15.10.2025?", "Vom 01.07.2025 bis 30.09.2025 kostet die Karte 40 Euro.", ()),
        ("What is the fee in 2026?", "The fee is 40 euros.", ("Prices 2025",)),
        ("What is the fee in 2026?", "The fee is 40 euros in 2025.", ("Prices 2026",)),
        ("What is the fee on 15 May?", "From 1 March to 30 April the fee is 40 euros.", ()),
        ("What is served on Sunday?", "Soup is served from Monday to Friday.", ()),
        ("Who answers at noon?", "Between 22:00 and 6:00 the guard answers.", ()),
        ("What changed in version 3.5?", "Versions 3.0 to 3.4 changed the format.", ()),
        ("When is Pelican 8.0 out?", "It is out in May.", ("Pelican 7 release notes",)),
        ("When is Pelican 8.0 out?", "Answers from version 2 have a header.", ()),
        ("What is the rate of tier B?", "Tiers A and C pay 40 euros.", ()),
        ("What is the rate of tier B?", "Tier: C; Rate: 40 euros", ()),
        ("How long is the third break?", "The second break is ten minutes long.", ()),
        ("What does QX-419 mean?", "QX-418 means that the paper is out.", ()),
        ("What do stays of over 5 nights cost?", "Stays of over 3 nights cost less.", ()),
        ("How many desks has the Munich office?", "The Berlin office has 40 desks.", ()),
        ("How many desks are in Munich?", "There are 40 desks in Berlin.", ()),
        ("Wie viele Plätze hat der Standort Dresden?", "Am Standort Bremen gibt es 40 Plätze.", ()),
        ("What does it cost in dollars?", "It costs 40 euros.", ()),
        ("What does it cost per day?", "It costs 40 euros a month.", ()),
        ("What is the minimum load?", "The maximum load is 40 kg.", ()),
        ("Wie hoch ist die minimale Last?", "Die maximale Last beträgt 40 kg.", ()),
        ("What do contractors get?", "Employees get a laptop.", ()),
        ("Who needs a pass?", "Interns do not need a pass.", ()),
        ("Who does not need a pass?", "Visitors need a pass.", ()),
        ("How many seats does it have?", "It has seats of leather.", ()),
    ],
)
def test_a_neighbour_is_no_answer(question: str, sentence: str, above: tuple[str, ...]) -> None:
    assert hold(question, sentence, *above).neighbour


def test_what_stands_above_counts_where_the_sentence_says_nothing() -> None:
    assert hold("What is the fee in 2025?", "The fee is 40 euros.", "Prices 2025") == Finding()


def test_a_modifier_counts_where_the_passage_speaks_of_both() -> None:
    question, sentence = "Who is finance director?", "The managing director is Beatrix Solano."
    assert not hold(question, sentence).neighbour
    assert hold(question, sentence, passage="The finance director retires in May.").neighbour


def test_what_the_passage_lacks_is_named() -> None:
    finding = hold("What is the fee in tier B in 2026 for Oslo Airport?", "The fee is 40 euros.")
    assert finding.neighbour == ""
    assert finding.lacking == ("2026", "tier B", "Oslo Airport")
    assert finding.far_values == 2


def test_a_value_that_comes_later_is_lacking() -> None:
    question, sentence = Question("What is the fee in 2026?"), Facts.of("The fee is 40 euros.")
    passage = Background(question, Facts.of("The fee is 40 euros. In 2026 it rains."))
    assert check(question, sentence, (), passage, 20).lacking == ("2026",)
    assert check(question, sentence, (), passage, 38).lacking == ()


@pytest.mark.parametrize(
    "piece",
    [
        "1.",
        "of ",
        "Mo, ",
        "A",
        "9-",
        "Tier A, B ",
        "v1.",
        "1/",
        "12 May ",
        "Zürich ",
        "-",
        "x1_",
        "not ",
        "1:1",
        "'s",
        "May ",
    ],
)
def test_time_grows_no_faster_than_the_text(piece: str) -> None:
    def seconds(length: int) -> float:
        text = (piece * length)[:length]
        best = float("inf")
        for _ in range(2):
            began = time.process_time()
            Facts.of(text)
            best = min(best, time.process_time() - began)
        return best

    # Eight times the text takes about eight times as long; quadratic work would take sixty-four times.
    assert seconds(8_000) < 24 * max(seconds(1_000), 0.0005)


def test_many_names_that_begin_alike_cost_no_more_than_the_text() -> None:
    names = [f"Ab{first}{second}x" for first in "cdefghijklmnop" for second in "cdefghijklmnop"]
    question = Question("What do " + " ".join(f"Ab{letter}zy" for letter in "cdefghijklmnopqrstuvwxyz") + " say?")
    sentence = Facts.of(f"{names[0]} says it.")

    def seconds(copies: int) -> float:
        background = Background(
            question, Facts.of(" ".join(name * 2 + str(copy) for copy in range(copies) for name in names))
        )
        began = time.process_time()
        for end in range(100):
            check(question, sentence, (), background, end)
        return time.process_time() - began

    assert seconds(16) < 24 * max(seconds(2), 0.0005)
