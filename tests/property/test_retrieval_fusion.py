"""What every fusion keeps: bounds, dominance, and independence of order."""

from __future__ import annotations

import math
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from services.retrieval.fusion import (
    RRF_K,
    Normalisation,
    dense_weight,
    distribution_based,
    fuse,
    min_max,
    reciprocal_rank,
)
from services.retrieval.query_kind import QueryKind
from services.retrieval.rerank import combine

Scores = dict[str, float]

KEYS = st.sampled_from([f"chunk{number}" for number in range(12)])
SCORES = st.dictionaries(KEYS, st.floats(-1e3, 1e3), max_size=12)
LISTS = st.lists(SCORES, max_size=3)
WEIGHTS = st.floats(0, 1)
SCALES = st.sampled_from([Normalisation.MIN_MAX, Normalisation.DBSF])
EVERY = st.sampled_from(Normalisation)


def ranked(scores: Scores) -> list[tuple[str, float]]:
    return sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))


@settings(deadline=None, max_examples=150)
@given(dense=LISTS, lexical=LISTS, weight=WEIGHTS, normalisation=EVERY)
def test_every_key_gets_a_score_between_0_and_1(
    dense: list[Scores], lexical: list[Scores], weight: float, normalisation: Normalisation
) -> None:
    fused = fuse(list(map(ranked, dense)), list(map(ranked, lexical)), weight=weight, normalisation=normalisation)
    assert fused.keys() == {key for scores in (*dense, *lexical) for key in scores}
    assert all(0.0 <= score <= 1.0 for score in fused.values())


@settings(deadline=None, max_examples=150)
@given(dense=LISTS, lexical=LISTS, weight=WEIGHTS, normalisation=SCALES, seed=st.integers())
def test_the_order_of_hits_and_lists_does_not_matter_where_scores_count(
    dense: list[Scores], lexical: list[Scores], weight: float, normalisation: Normalisation, seed: int
) -> None:
    chance = random.Random(seed)

    def shuffled(lists: list[Scores]) -> list[list[tuple[str, float]]]:
        mixed = [chance.sample(list(scores.items()), len(scores)) for scores in lists]
        return chance.sample(mixed, len(mixed))

    straight = fuse(list(map(ranked, dense)), list(map(ranked, lexical)), weight=weight, normalisation=normalisation)
    assert fuse(shuffled(dense), shuffled(lexical), weight=weight, normalisation=normalisation) == straight


@settings(deadline=None, max_examples=150)
@given(dense=SCORES, lexical=SCORES, weight=WEIGHTS, normalisation=EVERY)
def test_who_is_no_worse_in_both_halves_is_no_worse_in_the_end(
    dense: Scores, lexical: Scores, weight: float, normalisation: Normalisation
) -> None:
    lists = ranked(dense), ranked(lexical)
    fused = fuse([lists[0]], [lists[1]], weight=weight, normalisation=normalisation)

    def standing(half: int, key: str) -> float:
        if normalisation is Normalisation.RECIPROCAL_RANK:
            order = [name for name, _ in lists[half]]
            return -order.index(key) if key in order else -math.inf
        return dict(lists[half]).get(key, -math.inf)

    for one in fused:
        for other in fused:
            if all(standing(half, one) >= standing(half, other) for half in (0, 1)):
                assert fused[one] >= fused[other]


@settings(deadline=None, max_examples=150)
@given(scores=SCORES.filter(bool), data=st.data(), more=st.floats(0, 1e3), normalisation=SCALES)
def test_a_better_score_never_makes_a_chunk_worse(
    scores: Scores, data: st.DataObject, more: float, normalisation: Normalisation
) -> None:
    key = data.draw(st.sampled_from(sorted(scores)))
    before = fuse([ranked(scores)], [], weight=0.5, normalisation=normalisation)[key]
    after = fuse([ranked({**scores, key: scores[key] + more})], [], weight=0.5, normalisation=normalisation)[key]
    # A spread that vanishes (all scores the same) means "all are best"; leaving it may cost others, not this one.
    assert after >= before - 1e-9 or len(set(scores.values())) == 1


@settings(deadline=None, max_examples=100)
@given(dense=SCORES, lexical=SCORES, weight=WEIGHTS, odd=st.sampled_from([math.nan, math.inf, -math.inf]))
def test_scores_that_are_not_finite_turn_everything_to_ranks(
    dense: Scores, lexical: Scores, weight: float, odd: float
) -> None:
    strange = [*ranked(dense), ("strange", odd)]
    by_rank = Normalisation.RECIPROCAL_RANK
    expected = fuse([strange], [ranked(lexical)], weight=weight, normalisation=by_rank)
    assert fuse([strange], [ranked(lexical)], weight=weight) == expected


def test_a_half_that_found_nothing_leaves_its_weight_to_the_other() -> None:
    assert fuse([[("a", 0.9), ("b", 0.1)]], [[]], weight=0.3) == {"a": 1.0, "b": 0.0}
    assert fuse([], [[("a", 7.0), ("b", 3.0)]], weight=0.3) == {"a": 1.0, "b": 0.0}
    assert fuse([], [], weight=0.3) == {}


def test_cosines_are_compared_across_stores_and_bm25_within_each() -> None:
    one, two = [("a", 0.9), ("b", 0.5)], [("c", 0.4), ("d", 0.1)]
    assert fuse([one, two], [], weight=0.5)["c"] < 0.5
    assert fuse([], [one, two], weight=0.5)["c"] == 1.0


def test_a_chunk_that_several_stores_found_has_its_best_score() -> None:
    assert fuse([[("a", 0.2), ("b", 0.1)], [("b", 0.6), ("a", 0.2)]], [], weight=0.5) == {"a": 0.0, "b": 1.0}


def test_the_formulas() -> None:
    assert min_max({"a": 4.0, "b": 3.0, "c": 2.0}) == {"a": 1.0, "b": 0.5, "c": 0.0}
    spread = distribution_based({"a": 1.0, "b": -1.0})
    assert math.isclose(spread["a"], 0.5 + 1 / 6)
    assert math.isclose(spread["b"], 0.5 - 1 / 6)
    ranks = reciprocal_rank(["a", "b"])
    assert ranks == {"a": 1.0, "b": (RRF_K + 1) / (RRF_K + 2)}
    half = fuse([[("a", 0.9), ("b", 0.8), ("c", 0.7)]], [[("b", 9.0), ("c", 1.0)]], weight=0.7)
    assert math.isclose(half["b"], 0.7 * 0.5 + 0.3 * 1.0)


def test_questions_lean_on_meaning() -> None:
    assert (dense_weight(QueryKind.QUESTION), dense_weight(QueryKind.TOPIC)) == (0.7, 0.5)


@settings(deadline=None, max_examples=150)
@given(
    pairs=st.lists(st.tuples(st.floats(0, 1), st.none() | st.floats(-20, 20)), max_size=12),
    weight=WEIGHTS,
)
def test_reranked_scores_stay_in_the_range_of_the_fused_ones(
    pairs: list[tuple[float, float | None]], weight: float
) -> None:
    fused, logits = [score for score, _ in pairs], [logit for _, logit in pairs]
    final = combine(fused, logits, weight)
    touched = [score for score, logit in pairs if logit is not None]
    for before, logit, after in zip(fused, logits, final, strict=True):
        if logit is None:
            assert after == before
        else:
            assert min(touched) <= after <= max(touched)
