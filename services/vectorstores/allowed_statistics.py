"""BM25's idf over what a caller may read, in an index that counts everything.

An engine weighs a word by how many chunks of the whole index hold it. With that, the scores and the order of what
somebody may read would tell whether documents that they may not read hold a word (Büttcher and Clarke, *A Security
Model for Full-Text File System Search in Multi-User Environments*, 2005). Here the allowed chunks alone are counted,
and each word is boosted by the quotient of the two weights, which leaves the score that an index of nothing but the
allowed chunks would give; except for the average length, which stays that of the whole index.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Collection, Hashable
from dataclasses import dataclass, field
from typing import Any

import tantivy

from services.vectorstores.bm25 import idf

_REMEMBERED_SETS = 256
_REMEMBERED_TERMS = 10_000


@dataclass
class _Counts:
    """How many chunks a caller may read, and the boost of each word that was looked for; 0 if none of them holds it."""

    chunks: int
    weights: dict[str, float] = field(default_factory=dict)


class AllowedStatistics:
    """Weights for the words of queries; safe to use from several threads.

    What was counted is kept for a bounded number of states of indexes and sets of readers.
    """

    def __init__(self, schema: tantivy.Schema, *, terms: str, readers: str) -> None:
        """``terms`` and ``readers`` are the names of the schema's fields."""
        self._schema = schema
        self._terms = terms
        self._readers = readers
        self._counts: OrderedDict[tuple[Hashable, frozenset[int]], _Counts] = OrderedDict()
        self._lock = threading.Lock()

    def weights(
        self, state: Hashable, searcher: tantivy.Searcher, terms: Collection[str], reader_sets: frozenset[int]
    ) -> dict[str, float]:
        """By what each of ``terms`` has to be boosted; those that no allowed chunk holds are left out.

        ``state`` names the index that ``searcher`` sees, at that moment: another one after every change.
        """
        counts = self._of(state, searcher, reader_sets)
        allowed = self._allowed(reader_sets)
        found: dict[str, float] = {}
        for term in terms:
            weight = counts.weights.get(term)
            if weight is None:
                both = [(tantivy.Occur.Must, self._query(term)), (tantivy.Occur.Must, allowed)]
                holding = _count(searcher, tantivy.Query.boolean_query(both))
                indexed = self._indexed_idf(searcher, term) if holding else 0.0
                weight = idf(counts.chunks, holding) / indexed if indexed else 0.0
                if len(counts.weights) < _REMEMBERED_TERMS:
                    counts.weights[term] = weight
            if weight:
                found[term] = weight
        return found

    def _of(self, state: Hashable, searcher: tantivy.Searcher, reader_sets: frozenset[int]) -> _Counts:
        key = (state, reader_sets)
        with self._lock:
            known = self._counts.get(key)
            if known is not None:
                self._counts.move_to_end(key)
                return known
        chunks = _count(searcher, self._allowed(reader_sets))
        made = _Counts(chunks)
        with self._lock:
            self._counts[key] = made
            self._counts.move_to_end(key)
            while len(self._counts) > _REMEMBERED_SETS:
                self._counts.popitem(last=False)
        return made

    def _indexed_idf(self, searcher: tantivy.Searcher, term: str) -> float:
        """The idf that the index itself uses, chunks included that are deleted but not merged away yet."""
        query = self._query(term)
        hits = searcher.search(query, 1, count=False).hits
        return _explained_idf(query.explain(searcher, hits[0][1]).to_json()) if hits else 0.0

    def _query(self, term: str) -> tantivy.Query:
        return tantivy.Query.term_query(self._schema, self._terms, term, "freq")

    def _allowed(self, reader_sets: frozenset[int]) -> tantivy.Query:
        return tantivy.Query.term_set_query(self._schema, self._readers, sorted(reader_sets))


def _count(searcher: tantivy.Searcher, query: tantivy.Query) -> int:
    found: Any = searcher.search(query, 1, count=True)  # its count is missing from the library's types
    return int(found.count)


def _explained_idf(explanation: str) -> float:
    for detail in json.loads(explanation)["details"]:
        if detail["description"].startswith("idf"):
            return float(detail["value"])
    return 0.0
