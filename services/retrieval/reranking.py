"""Reading the best passages again with a cross-encoder, within a budget, without ever failing the query."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from services.corpus.coverage import Notice
from services.retrieval.federation import outcomes
from services.retrieval.patience import patience
from services.retrieval.ports import CrossEncoder
from services.retrieval.rerank import RERANK_PARTIAL, RERANK_SKIPPED, RerankPolicy, best_window, combine, is_score
from services.retrieval.result import RetrievedPassage

# The encoder keeps the budget itself; one that hangs gets this many times as long.
_PATIENCE = 2.0
_log = logging.getLogger(__name__)


async def rerank(
    encoder: CrossEncoder,
    policy: RerankPolicy,
    *,
    query: str,
    stems: Sequence[str],
    passages: Sequence[RetrievedPassage],
    weight: float,
) -> tuple[list[RetrievedPassage], list[Notice]]:
    """``passages``, best first, with the first of them in the order that the cross-encoder wants.

    ``stems`` of the query choose the window of long passages. Without an answer the order stays as it was, and a
    notice says so.
    """
    head, tail = list(passages[: policy.candidates]), list(passages[policy.candidates :])
    windows = [best_window(passage.passage.text, stems, policy.window) for passage in head]
    budget = patience(policy.budget)
    limit = patience(_PATIENCE * policy.budget)
    (answer,) = await outcomes([encoder.score(query, windows, budget=budget)], timeout=limit)
    if isinstance(answer, Exception) or len(answer) != len(head):
        kind = type(answer).__name__ if isinstance(answer, Exception) else "wrong length"
        _log.warning("the cross-encoder gave no scores (%s)", kind)
        return [*head, *tail], [Notice(RERANK_SKIPPED, "the reranker did not answer; the order is that of the search")]
    logits = [logit if is_score(logit) else None for logit in answer]
    final = combine([passage.score for passage in head], logits, weight)
    scored = [
        replace(passage, score=score, scores=replace(passage.scores, rerank=logit))
        for passage, score, logit in zip(head, final, logits, strict=True)
    ]
    # Equal final scores: the better logit first, then the earlier place (the sort is stable).
    scored.sort(key=lambda passage: (-passage.score, -_or_least(passage.scores.rerank)))
    notices = []
    if None in logits:
        read = sum(logit is not None for logit in logits)
        notices.append(Notice(RERANK_PARTIAL, f"the reranker read {read} of {len(head)} passages in its time"))
    return [*scored, *tail], notices


def _or_least(logit: float | None) -> float:
    return float("-inf") if logit is None else logit
