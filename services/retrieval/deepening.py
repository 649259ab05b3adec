"""Whether a search looked deep enough. Pure.

Stores give their best hits, and the gate may turn some of them down. A list is deep enough when as many admitted hits
as are wanted score no lower than its last one: whatever the store still holds back scores lower than those (the
stopping rule of Fagin, Lotem and Naor's threshold algorithm, "Optimal aggregation algorithms for middleware", 2003).
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping, Sequence

from services.retrieval.federation import Half, HitList
from services.retrieval.result import ChunkKey


def too_shallow(
    lists: Sequence[HitList], admitted: Container[ChunkKey], wanted: int, reach: Mapping[str, int | None]
) -> list[HitList]:
    """Those of ``lists`` that must be asked for more hits.

    ``reach`` says, for collections where it is known, how many chunks the gate can admit at all: a list that has as
    many is complete. Cosines are comparable across lists, so all dense lists count together; BM25 is not.
    """
    dense = _admitted_scores((hits for hits in lists if hits.half is Half.DENSE), admitted)
    shallow = []
    for hits in lists:
        if hits.exhausted or not hits.hits:
            continue
        own = _admitted_scores([hits], admitted)
        floor = hits.hits[-1][1]
        rivals = own if hits.half is Half.LEXICAL or not math.isfinite(floor) else dense
        good = sum(1 for score in rivals if score >= floor) if math.isfinite(floor) else len(own)
        total = reach.get(hits.collection)
        if good < wanted and (total is None or len(own) < total):
            shallow.append(hits)
    return shallow


def _admitted_scores(lists: Iterable[HitList], admitted: Container[ChunkKey]) -> list[float]:
    best: dict[ChunkKey, float] = {}
    for hits in lists:
        for key, score in hits.hits:
            if key in admitted:
                best[key] = max(score, best.get(key, score))
    return list(best.values())
