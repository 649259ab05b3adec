"""The pure decisions of retrieval: kinds of query, reranking, deepening."""

from __future__ import annotations

import pytest

from services.corpus.terms import analyze
from services.retrieval.deepening import too_shallow
from services.retrieval.federation import Half, HitList
from services.retrieval.query_kind import QueryKind, classify
from services.retrieval.request import RerankMode
from services.retrieval.rerank import RerankPolicy, best_window, combine
from services.retrieval.result import ChunkKey


@pytest.mark.parametrize(
    "query",
    [
        "Who pays for the train?",
        "how do I reset my password",
        "what's the travel budget",
        "is parking free",
        "Wie heißt die Hauptstadt von Peru?",
        "¿Cuándo empieza el curso?",
        'What does "grounded" mean?"',
        "vacation days?",
        "Do intrahepatic lymphocytes change in patients with chronic hepatitis?",
    ],
)
def test_natural_questions(query: str) -> None:
    assert classify(query) is QueryKind.QUESTION


@pytest.mark.parametrize(
    "query",
    [
        "",
        "   ",
        "?",
        "vacation policy",
        "what",
        "can openers",
        "A deficiency of vitamin B12 increases blood levels of homocysteine.",
        "what are the structural problems associated with flight of high speed aircraft .",
        "what " + "very " * 20 + "long description",
        "What " + "very " * 40 + "long description?",
        "Parallel languages; languages for parallel computation",
    ],
)
def test_topics_and_claims(query: str) -> None:
    expected = QueryKind.QUESTION if query == "?" else QueryKind.TOPIC
    assert classify(query) is expected


@pytest.mark.parametrize(
    ("mode", "kind", "applies"),
    [
        (RerankMode.AUTO, QueryKind.QUESTION, True),
        (RerankMode.AUTO, QueryKind.TOPIC, False),
        (RerankMode.ON, QueryKind.TOPIC, True),
        (RerankMode.OFF, QueryKind.QUESTION, False),
    ],
)
def test_when_to_rerank(mode: RerankMode, kind: QueryKind, applies: bool) -> None:
    assert RerankPolicy().applies(mode, kind) is applies


def test_at_full_weight_the_cross_encoder_decides_the_order_within_the_range_of_the_fused_scores() -> None:
    assert combine([0.9, 0.7, 0.5], [-3.0, 8.0, 2.5], 1.0) == pytest.approx([0.5, 0.9, 0.7])


def test_without_weight_the_fused_scores_stay() -> None:
    assert combine([0.9, 0.7, 0.5], [-3.0, 8.0, 2.0], 0.0) == pytest.approx([0.9, 0.7, 0.5])


def test_passages_without_a_score_keep_their_place() -> None:
    assert combine([0.9, 0.7, 0.5, 0.3], [1.0, None, 2.0, float("nan")], 1.0) == pytest.approx([0.5, 0.7, 0.9, 0.3])


@pytest.mark.parametrize("logits", [[None, None], [1.0, None], [2.0, 2.0]])
def test_scores_that_do_not_order_anything_change_nothing(logits: list[float | None]) -> None:
    assert combine([0.8, 0.4], logits, 1.0) == [0.8, 0.4]


def test_a_short_passage_is_its_own_window() -> None:
    assert best_window("short text", ["text"], 100) == "short text"


def test_the_window_is_where_the_most_of_the_query_is() -> None:
    filler = "lorem ipsum dolor sit amet " * 40
    text = f"{filler}travel {filler}The travel policies reimburse train tickets. {filler}"
    window = best_window(text, analyze("travel policy train reimbursement"), 200)
    assert "The travel policies reimburse train tickets." in window
    assert len(window) <= 200
    assert window in text


def test_a_window_without_any_match_is_the_beginning() -> None:
    text = "word " * 100
    assert text.startswith(best_window(text, ["absent"], 50))


def test_a_window_cuts_at_spaces_unless_there_are_none() -> None:
    text = "alpha beta gamma delta epsilon zeta eta theta iota kappa"
    window = best_window(text, ["epsilon"], 20)
    assert "epsilon" in window
    assert set(window.split()) <= set(text.split())
    assert len(best_window("x" * 500, ["y"], 100)) == 100


def _list(half: Half, scores: list[float], *, exhausted: bool = False, store: str = "s") -> HitList:
    hits = [(ChunkKey(f"{store}{i}", "default", f"{store}{i}", 1), score) for i, score in enumerate(scores)]
    return HitList(store, "default", half, hits, exhausted, answered=True)


def test_a_list_is_deep_enough_when_its_admitted_hits_are_or_when_it_is_exhausted() -> None:
    hits = _list(Half.DENSE, [0.9, 0.8, 0.7])
    everything = {key for key, _ in hits.hits}
    assert too_shallow([hits], everything, 3, {}) == []
    assert too_shallow([hits], everything, 4, {}) == [hits]
    assert too_shallow([hits], set(), 1, {}) == [hits]
    hits.exhausted = True
    assert too_shallow([hits], set(), 1, {}) == []


def test_a_list_that_has_all_that_can_be_admitted_is_complete() -> None:
    hits = _list(Half.DENSE, [0.9, 0.8, 0.7])
    one = {hits.hits[0][0]}
    assert too_shallow([hits], one, 3, {"default": 1}) == []
    assert too_shallow([hits], one, 3, {"default": 2}) == [hits]
    assert too_shallow([hits], one, 3, {"default": None}) == [hits]


def test_cosines_of_another_store_count_but_its_bm25_does_not() -> None:
    weak, strong = _list(Half.DENSE, [0.5, 0.4], store="a"), _list(Half.DENSE, [0.9, 0.8], store="b")
    admitted = {key for key, _ in strong.hits}
    assert too_shallow([weak, strong], admitted, 2, {}) == []
    weak.half = strong.half = Half.LEXICAL
    assert too_shallow([weak, strong], admitted, 2, {}) == [weak]


def test_scores_that_are_not_numbers_are_counted_instead() -> None:
    hits = _list(Half.DENSE, [float("nan"), float("nan")])
    everything = {key for key, _ in hits.hits}
    assert too_shallow([hits], everything, 2, {}) == []
    assert too_shallow([hits], everything, 3, {}) == [hits]
