"""What a search leaves out while there is too much to do, and what it tells its caller about that."""

from __future__ import annotations

from collections.abc import Sequence

from services.corpus.coverage import Notice
from services.resilience.brownout import BrownoutStep
from services.retrieval.federation import Half

BROWNOUT_RERANK_SKIPPED = "BROWNOUT_RERANK_SKIPPED"
BROWNOUT_FEWER_CANDIDATES = "BROWNOUT_FEWER_CANDIDATES"
BROWNOUT_LEXICAL_ONLY = "BROWNOUT_LEXICAL_ONLY"
# Of the depth at which lists begin, and the least for each wanted passage.
_DEPTH_DIVISOR = 4
_LEAST_DEPTH_FACTOR = 2
_MOST_DEPTH = 1_000


def no_pressure() -> BrownoutStep:
    """Nothing has to be left out."""
    return BrownoutStep.NONE


class Economy:
    """One request's share of the economies of ``step``; what is left out is added to ``notices``.

    The step stays what it was when the request began.
    """

    def __init__(self, step: BrownoutStep, notices: list[Notice]) -> None:
        self._step = step
        self._notices = notices
        if step >= BrownoutStep.FEWER_CANDIDATES:
            self._note(BROWNOUT_FEWER_CANDIDATES, "the service is busy: fewer candidates were looked at")

    def halves(self, wanted: Sequence[Half]) -> list[Half]:
        """How to search: at the last step by words alone, without the embedding model, whatever was asked for."""
        if self._step < BrownoutStep.LEXICAL_ONLY:
            return list(wanted)
        self._note(BROWNOUT_LEXICAL_ONLY, "the service is busy: searched by words alone")
        return [Half.LEXICAL]

    def first_depth(self, depth: int, top_k: int) -> int:
        """How deep every list begins."""
        if self._step < BrownoutStep.FEWER_CANDIDATES:
            return max(depth, 4 * top_k)
        return max(depth // _DEPTH_DIVISOR, _LEAST_DEPTH_FACTOR * top_k)

    def most_depth(self, depth: int) -> int:
        """How deep a list may become where too few hits pass the check."""
        return depth if self._step < BrownoutStep.FEWER_CANDIDATES else min(depth, _MOST_DEPTH)

    def may_rerank(self) -> bool:
        """Whether to rerank what would be reranked."""
        if self._step < BrownoutStep.SKIP_RERANK:
            return True
        self._note(BROWNOUT_RERANK_SKIPPED, "the service is busy: the order is that of the search")
        return False

    def _note(self, code: str, message: str) -> None:
        self._notices.append(Notice(code, message))
