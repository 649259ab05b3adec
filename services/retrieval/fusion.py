"""Fusion: one ranking out of a dense half and a lexical half, each found in one or several stores. Pure.

What is comparable decides how lists are joined. Cosines of one embedder are comparable everywhere, so all dense lists
are merged first and normalised once. BM25 depends on an index's own term statistics, so every lexical list is
normalised by itself and the results are merged; with one index this is the textbook case.

Normalised scores beat ranks on the public collections we measure on (nDCG@10 on SciFact .739 against .722), so ranks
are the fall-back for lists whose scores mean nothing.

Sources: min-max and weighted sum after Fox and Shaw, "Combination of Multiple Searches" (TREC-2, 1994);
distribution-based score fusion, mean ± 3σ, after Mazzeschi (2023); reciprocal rank fusion after Cormack, Clarke and
Büttcher (SIGIR 2009).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from typing import TypeVar

from services.retrieval.query_kind import QueryKind

K = TypeVar("K")
ScoredList = Sequence[tuple[K, float]]
"""Keys with their scores, best first; no key twice."""

RRF_K = 60
_DENSE_WEIGHT = {QueryKind.QUESTION: 0.7, QueryKind.TOPIC: 0.5}


class Normalisation(Enum):
    """How scores become comparable."""

    MIN_MAX = "min-max"
    DBSF = "dbsf"
    RECIPROCAL_RANK = "reciprocal-rank"


def dense_weight(kind: QueryKind) -> float:
    """Weight of the dense half, 0 to 1; the lexical half has the rest."""
    return _DENSE_WEIGHT[kind]


def min_max(scores: Mapping[K, float]) -> dict[K, float]:
    """Scores stretched over 0..1; all 1 where they are all the same."""
    if not scores:
        return {}
    low, high = min(scores.values()), max(scores.values())
    spread = high - low
    if spread <= 0.0:
        return dict.fromkeys(scores, 1.0)
    return {key: min(1.0, (score - low) / spread) for key, score in scores.items()}


def distribution_based(scores: Mapping[K, float]) -> dict[K, float]:
    """Scores mapped so that mean - 3σ is 0 and mean + 3σ is 1, cut to 0..1; all 1 where they are all the same.

    One outlier moves it less than it moves min-max.
    """
    # The mapping forgives any shift and stretch of the scores, and between 0 and 1 no square can underflow.
    stretched = min_max(scores)
    if len(set(stretched.values())) < 2:
        return stretched
    # fsum is exact, so that the result does not depend on the order of the scores.
    mean = math.fsum(stretched.values()) / len(stretched)
    deviation = math.sqrt(math.fsum((score - mean) ** 2 for score in stretched.values()) / len(stretched))
    low, spread = mean - 3 * deviation, 6 * deviation
    return {key: max(0.0, min(1.0, (score - low) / spread)) for key, score in stretched.items()}


def reciprocal_rank(ranked: Iterable[K], k: int = RRF_K) -> dict[K, float]:
    """``1 / (k + rank)`` scaled so that the first has 1."""
    return {key: (k + 1) / (k + rank) for rank, key in enumerate(ranked, start=1)}


def fuse(
    dense: Sequence[ScoredList[K]],
    lexical: Sequence[ScoredList[K]],
    *,
    weight: float,
    normalisation: Normalisation = Normalisation.MIN_MAX,
) -> dict[K, float]:
    """The fused score, 0 to 1, of every key in any of the lists.

    ``weight`` is the dense half's, 0 to 1. A half that found nothing at all leaves its weight to the other one; a key
    that a half did not find gets 0 from it. Ranks are used throughout as soon as one list holds a score that is not
    a finite number, because a fused score must not mix the two scales.
    """
    if not all(math.isfinite(score) for scored in (*dense, *lexical) for _, score in scored):
        normalisation = Normalisation.RECIPROCAL_RANK
    if normalisation is Normalisation.RECIPROCAL_RANK:
        by_meaning = _best_of(_ranks(scored) for scored in dense)
        by_words = _best_of(_ranks(scored) for scored in lexical)
    else:
        normalise = _NORMALISERS[normalisation]
        by_meaning = normalise(_best_of(dict(scored) for scored in dense))
        by_words = _best_of(normalise(dict(scored)) for scored in lexical)
    if not by_words:
        return by_meaning
    if not by_meaning:
        return by_words
    return {
        key: min(1.0, weight * by_meaning.get(key, 0.0) + (1.0 - weight) * by_words.get(key, 0.0))
        for key in by_meaning.keys() | by_words.keys()
    }


_NORMALISERS: dict[Normalisation, Callable[[Mapping[K, float]], dict[K, float]]] = {
    Normalisation.MIN_MAX: min_max,
    Normalisation.DBSF: distribution_based,
}


def _ranks(scored: ScoredList[K]) -> dict[K, float]:
    return reciprocal_rank(key for key, _ in scored)


def _best_of(lists: Iterable[Mapping[K, float]]) -> dict[K, float]:
    best: dict[K, float] = {}
    for scores in lists:
        for key, score in scores.items():
            best[key] = max(score, best.get(key, score))
    return best
