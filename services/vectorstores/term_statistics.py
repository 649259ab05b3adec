"""How rare words are among the chunks that a caller may read, of one state of a tantivy index.

tantivy weighs a term by how many chunks of the whole index hold it. A caller who sees scores could tell from that
whether chunks that they may not read hold a word. So each term of a narrowed query is boosted by the quotient of what
its weight should be, counted over the allowed reader sets alone, and what tantivy makes of it.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import tantivy

# Reader sets that are told apart; tantivy refuses to make more than 65,000 buckets.
_MOST_SETS = 60_000
_MOST_TERMS = 2_000


def idf(chunks: int, holding: int) -> float:
    """The weight of a term that ``holding`` of ``chunks`` have; above 0 (Lucene's and tantivy's form of BM25's)."""
    return math.log(1 + (chunks - holding + 0.5) / (holding + 0.5))


class TermStatistics:
    """Counts per reader set; each term is counted once, whoever asks. Safe to use from several threads.

    ``term_query`` makes the query for a term. One of these serves one searcher: after a commit, make another.
    """

    def __init__(self, searcher: tantivy.Searcher, term_query: Callable[[str], tantivy.Query]) -> None:
        self._searcher = searcher
        self._term_query = term_query
        self._lock = threading.Lock()
        self._holding: dict[str, Mapping[int, int]] = {}
        self._all: Mapping[int, int] | None = None
        self._indexed: int | None = None

    def boosts(self, terms: Iterable[str], reader_sets: frozenset[int]) -> dict[str, float]:
        """For each term that an allowed chunk holds, the boost that makes tantivy's weight the allowed chunks' own."""
        with self._lock:
            if self._all is None:
                self._all = self._count(tantivy.Query.all_query())
            allowed = _sum(self._all, reader_sets)
            boosts = {}
            for term in terms:
                if term not in self._holding:
                    if len(self._holding) >= _MOST_TERMS:
                        self._holding.clear()
                    self._holding[term] = self._count(self._term_query(term))
                holding = _sum(self._holding[term], reader_sets)
                if holding:
                    everywhere = self._searcher.doc_freq("terms", term)
                    boosts[term] = idf(allowed, holding) / idf(self._total(term), everywhere)
            return boosts

    def _count(self, query: tantivy.Query) -> dict[int, int]:
        by_set = {"sets": {"terms": {"field": "reader_set", "size": _MOST_SETS}}}
        found: dict[str, Any] = self._searcher.aggregate(query, by_set)
        return {int(bucket["key"]): int(bucket["doc_count"]) for bucket in found["sets"]["buckets"]}

    def _total(self, term: str) -> int:
        """The chunks that tantivy counts, which include deleted ones; only its explanations tell the number."""
        if self._indexed is None:
            query = self._term_query(term)
            (_, address), *_ = self._searcher.search(query, 1, count=False).hits
            explained = _find(json.loads(query.explain(self._searcher, address).to_json()))
            self._indexed = max(explained, self._searcher.num_docs)
        return self._indexed


def _sum(counts: Mapping[int, int], reader_sets: frozenset[int]) -> int:
    return sum(counts.get(number, 0) for number in reader_sets)


def _find(explanation: Mapping[str, Any]) -> int:
    if str(explanation.get("description", "")).startswith("N, total number of docs"):
        return int(explanation["value"])
    for part in explanation.get("details") or ():
        found = _find(part)
        if found:
            return found
    return 0
