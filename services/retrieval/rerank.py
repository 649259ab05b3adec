"""When and how a cross-encoder has a say in the ranking. Pure.

A cross-encoder trained on web questions gains 4 to 8 points of nDCG@10 on natural questions and loses 3 to 9 on
topics and claims when its score replaces the fused one; with a third of the weight it is neutral there.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeGuard

from services.retrieval.query_kind import QueryKind
from services.retrieval.request import RerankMode

RERANK_SKIPPED = "RERANK_SKIPPED"
RERANK_PARTIAL = "RERANK_PARTIAL"
_SHORTEST_STEM = 2


@dataclass(frozen=True, slots=True)
class RerankPolicy:
    """How much reranking may cost and weigh.

    ``candidates`` best passages are read again, cut to ``window`` characters, within ``budget`` seconds. The
    weights, 0 to 1, are the cross-encoder's against the fused score's, by kind of query.
    """

    candidates: int = 12
    window: int = 1000
    budget: float = 1.5
    question_weight: float = 1.0
    topic_weight: float = 0.3

    def applies(self, mode: RerankMode, kind: QueryKind) -> bool:
        """Whether to rerank: always, never, or (AUTO) for natural questions."""
        return mode is RerankMode.ON or (mode is RerankMode.AUTO and kind is QueryKind.QUESTION)

    def weight(self, kind: QueryKind) -> float:
        """The cross-encoder's weight for a kind of query."""
        return self.question_weight if kind is QueryKind.QUESTION else self.topic_weight


def combine(fused: Sequence[float], logits: Sequence[float | None], weight: float) -> list[float]:
    """Final scores, 0 to 1, in the order given.

    Logits are stretched over the range of the fused scores of the passages that have one, and mixed with them by
    ``weight``. So the scored passages change places among each other, and a passage without a score (None, or a
    number that is not finite) keeps its fused score and thereby its place.
    """
    scored = [(logit, score) for logit, score in zip(logits, fused, strict=True) if is_score(logit)]
    if len(scored) < 2:
        return list(fused)
    low, high = min(score for _, score in scored), max(score for _, score in scored)
    least, most = min(logit for logit, _ in scored), max(logit for logit, _ in scored)
    if most <= least:
        return list(fused)
    final = []
    for logit, score in zip(logits, fused, strict=True):
        if not is_score(logit):
            final.append(score)
            continue
        stretched = low + (high - low) * (logit - least) / (most - least)
        final.append(max(low, min(high, (1.0 - weight) * score + weight * stretched)))
    return final


def best_window(text: str, stems: Sequence[str], size: int) -> str:
    """The ``size`` characters of ``text`` that hold the most of ``stems``, cut at spaces; all of it if it is short.

    Different stems count first, then occurrences, then the earlier place. Words are matched by prefix: it needs no
    stemming of the whole passage, and an occasional word too many only moves the window.
    """
    if len(text) <= size:
        return text
    hits = _occurrences(text, stems)
    best, chosen = (0, 0), 0
    last = 0
    for first, (start, _) in enumerate(hits):
        last = max(last, first)
        while last < len(hits) and hits[last][0] < start + size:
            last += 1
        within = hits[first:last]
        rank = (len({stem for _, stem in within}), len(within))
        if rank > best:
            # Half of the room that is left goes before the first hit, so that its sentence is there.
            room = size - (within[-1][0] - start)
            best, chosen = rank, max(0, start - room // 2)
    begin = min(chosen, len(text) - size)
    return _whole_words(text, begin, begin + size)


def is_score(logit: float | None) -> TypeGuard[float]:
    """Whether a cross-encoder's answer is a score: it was reached in time and is a finite number."""
    return logit is not None and math.isfinite(logit)


def _occurrences(text: str, stems: Sequence[str]) -> list[tuple[int, str]]:
    # Snowball turns a final y into i ("polici"): without that letter the stem is a prefix of its words.
    prefixes = {stem.removesuffix("i") for stem in stems}
    wanted = sorted((prefix for prefix in prefixes if len(prefix) >= _SHORTEST_STEM), key=lambda p: (-len(p), p))
    if not wanted:
        return []
    pattern = re.compile(r"\b(" + "|".join(map(re.escape, wanted)) + ")", re.IGNORECASE)
    return [(match.start(), match.group().casefold()) for match in pattern.finditer(text)]


def _whole_words(text: str, begin: int, end: int) -> str:
    if begin > 0 and not text[begin - 1].isspace():
        space = text.find(" ", begin, end)
        begin = space + 1 if space >= 0 else begin
    if end < len(text) and not text[end].isspace():
        space = text.rfind(" ", begin, end)
        end = space if space > begin else end
    return text[begin:end].strip()
