"""Choosing sentences: prefilter, calibrated confidence, composition."""

from __future__ import annotations

import pytest

from services.generation.extraction import Candidate, Judged, candidates, choose, compose, difference
from services.generation.ports import Passage

POLICY = Passage(
    "policy#1",
    "Travel Policy 2025",
    "## Hotels\n\nIn Lyon the limit is €140 per night. It includes breakfast.\n\nYou bring:\n\n- a passport;\n- a card.\n\n"
    "```\nbook hotel\n```\n\nIs parking paid?\n\nParking is paid.",
    0.9,
)


def judged(shown: str, logit: float, *, source: int = 0, start: int = 0, doubt: float = 0.0) -> Judged:
    return Judged(Candidate(source, start, start + 5, shown, "", doubt), logit, logit)


def test_candidates_are_ordered_by_what_they_share_with_the_question() -> None:
    found = candidates("What is the limit per night in Lyon?", [POLICY], 10)
    assert found[0].shown == "In Lyon the limit is €140 per night."
    assert found[0].context == "Travel Policy 2025. Hotels."
    assert POLICY.text[found[0].start : found[0].end] == "In Lyon the limit is €140 per night."
    assert len(candidates("What is the limit per night in Lyon?", [POLICY], 2)) == 2


def test_a_sentence_has_its_predecessor_as_context() -> None:
    found = {candidate.shown: candidate for candidate in candidates("breakfast", [POLICY], 10)}
    assert found["It includes breakfast."].context.endswith("In Lyon the limit is €140 per night.")


def test_headings_and_questions_are_no_answers() -> None:
    shown = {candidate.shown for candidate in candidates("Is parking paid? Hotels?", [POLICY], 20)}
    assert "Parking is paid." in shown
    assert not shown & {"Hotels.", "Hotels", "Is parking paid?"}


def test_a_list_and_what_introduces_it_answer_together() -> None:
    found = {candidate.shown: candidate for candidate in candidates("What do I bring?", [POLICY], 20)}
    whole = found["You bring: a passport; a card."]
    assert POLICY.text[whole.start : whole.end] == "You bring:\n\n- a passport;\n- a card."
    item = found["You bring: a card."]
    assert POLICY.text[item.start : item.end] == "- a card."
    assert "book hotel" in found


@pytest.mark.parametrize(
    ("question", "doubts"),
    [
        ("what is the limit in Lyon?", 0.0),
        ("what is the limit in Oslo?", 0.27),
        ("what is the limit in Lyon for 3 nights?", 0.95),
    ],
)
def test_missing_names_and_numbers_raise_doubt(question: str, doubts: float) -> None:
    assert candidates(question, [POLICY], 1)[0].doubt == pytest.approx(doubts)


def test_sentences_about_a_neighbour_are_left_out() -> None:
    assert candidates("what is the limit in Lyon under the 2023 policy?", [POLICY], 10) == []
    shown = [candidate.shown for candidate in candidates("Is parking not paid?", [POLICY], 10)]
    assert "Parking is paid." not in shown


def test_the_answer_says_what_its_sources_lack() -> None:
    found = candidates("what is the limit in Lyon for 3 nights in Oslo?", [POLICY], 1)
    assert found[0].lacking == ("3 nights", "Oslo")
    statements = compose(found, [POLICY], 1000)
    assert statements[0].text == (
        "The given sources do not answer this for 3 nights and Oslo. They say: In Lyon the limit is €140 per night. [1]"
    )
    # One that has it all answers beside one that does not.
    assert difference([found[0], Candidate(0, 0, 5, "All.", "")]) == ""


def test_without_passages_or_terms_there_is_no_failure() -> None:
    assert candidates("what is it?", [], 10) == []
    assert len(candidates("what is it?", [POLICY], 3)) == 3
    assert candidates("x", [Passage("p", "", "", 0.0), Passage("q", "t", "***\n\n---", 0.0)], 3) == []


def test_confidence_rises_with_the_logits_and_falls_with_doubt() -> None:
    assert judged("a", -11).confidence < 0.05
    assert judged("a", 9).confidence > 0.9
    assert judged("a", 5, doubt=0.95).confidence < judged("a", 5).confidence


def test_one_sentence_is_enough_when_the_others_are_much_worse() -> None:
    assert [c.shown for c in choose([judged("Worse.", 5), judged("Best.", 9)], 0.35)] == ["Best."]


def test_sentences_nearly_as_good_join_in_reading_order() -> None:
    chosen = choose(
        [
            judged("Second source.", 8.6, source=1),
            judged("It comes later.", 9.0, source=2, start=40),
            judged("First words here.", 8.8, source=2, start=10),
            judged("Fourth best.", 8.5, source=3),
        ],
        0.35,
    )
    assert [c.shown for c in chosen] == ["First words here.", "It comes later.", "Second source."]


@pytest.mark.parametrize(
    ("other", "kept"),
    [
        ("The garage of the office has 38 parking spaces.", 1),  # the same again
        ("The garage of the office has 39 parking spaces.", 2),  # another number
        ("Lunch is served at noon.", 2),
    ],
)
def test_repetitions_are_left_out(other: str, kept: int) -> None:
    best = judged("The office garage has 38 parking spaces.", 9.0)
    assert len(choose([best, judged(other, 8.9, source=1)], 0.35)) == kept


def test_what_misses_more_of_the_question_does_not_join() -> None:
    chosen = choose([judged("The 2025 limit is 30.", 9.0), judged("The limit is 10.", 9.4, source=1, doubt=0.95)], 0.35)
    assert [c.shown for c in chosen] == ["The limit is 10.", "The 2025 limit is 30."]
    chosen = choose([judged("The 2025 limit is 30.", 9.5), judged("The limit is 10.", 9.4, source=1, doubt=0.95)], 0.35)
    assert [c.shown for c in chosen] == ["The 2025 limit is 30."]


def test_overlapping_pieces_are_not_both_shown() -> None:
    chosen = choose([judged("You bring: a; b.", 9.0, start=0), judged("You bring: b.", 8.9, start=3)], 0.35)
    assert len(chosen) == 1


def test_the_answer_carries_markers_and_stays_within_its_length() -> None:
    passages = [POLICY, Passage("q", "", "Other text.", 0.1)]
    chosen = [Candidate(0, 0, 5, "One two three four.", ""), Candidate(1, 0, 5, "Five six.", "")]
    statements = compose(chosen, passages, 1000)
    assert "".join(s.text for s in statements) == "One two three four. [1] Five six. [2]"
    assert [s.citation.passage_id for s in statements] == ["policy#1", "q"]
    assert [s.text for s in compose(chosen, passages, 30)] == ["One two three four. [1]"]
    assert [s.text for s in compose(chosen, passages, 16)] == ["One two… [1]"]
    assert len(compose([Candidate(0, 0, 5, "x" * 50, "")], passages, 4)) == 1
