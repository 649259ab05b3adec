"""Lexical analysis: both sides of a search must see the same terms."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.corpus.terms import STOP_WORDS, analyze


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("", []),
        ("  \t\n", []),
        ("?!... --", []),
        ("The travel policies of the company", ["travel", "polici", "compani"]),
        ("running runs ran", ["run", "run", "ran"]),
        ("What is the policy?", ["polici"]),
        ("Who may NOT travel?", ["travel"]),
        ("policy policy policy", ["polici"] * 3),
        ("the company's rules", ["compani", "rule"]),
        ("the company’s rules", ["compani", "rule"]),
        ("don't", ["don't"]),
        ("ISO-27001 and GDPR", ["iso", "27001", "gdpr"]),
        ("error_code E4711", ["error", "code", "e4711"]),
        ("Größe überall", ["größe", "überal"]),
        ("東京 タワー", ["東京", "タワー"]),
        ("a.b@example.org", ["b", "exampl", "org"]),
    ],
)
def test_terms(text: str, terms: list[str]) -> None:
    assert analyze(text) == terms


def test_a_question_finds_the_words_of_its_answer() -> None:
    assert set(analyze("How are flights booked?")) <= set(analyze("All employees book their flight by themselves."))


def test_terms_are_bounded() -> None:
    (term,) = analyze("x" * 10_000)
    assert len(term) == 64
    assert analyze("x" * 10_000) == analyze("x" * 9_000)


@settings(deadline=None, max_examples=150)
@given(st.text(max_size=200))
def test_any_text_can_be_analysed(text: str) -> None:
    terms = analyze(text)
    assert terms == analyze(text)
    assert all(0 < len(term) <= 64 and not any(c.isspace() for c in term) for term in terms)
    assert terms == analyze(text + " ... ")


@settings(deadline=None, max_examples=100)
@given(st.lists(st.sampled_from(["policy", "The", "flights", "is", "company's", "E4711", "Größe"]), max_size=20))
def test_words_are_analysed_one_by_one(words: list[str]) -> None:
    assert analyze(" ".join(words)) == [term for word in words for term in analyze(word)]


@settings(deadline=None, max_examples=50)
@given(st.sampled_from(sorted(STOP_WORDS)))
def test_stop_words_leave_nothing(word: str) -> None:
    assert analyze(word) == analyze(word.upper()) == []


def test_threads_agree() -> None:
    texts = [f"companies{i} running{i} policies{i} relational nationally" for i in range(200)]
    alone = [analyze(text) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(analyze, texts)) == alone
