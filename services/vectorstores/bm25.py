"""BM25 as tantivy has it built in (Robertson and Zaragoza 2009, eq. 3.15, with Lucene's idf): both engines rank alike."""

from __future__ import annotations

import math

K1 = 1.2
B = 0.75


def idf(chunks: int, holding: int) -> float:
    """How much a word tells that ``holding`` of ``chunks`` chunks hold; never negative."""
    return math.log(1 + (chunks - holding + 0.5) / (holding + 0.5))
