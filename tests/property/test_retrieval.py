"""Whatever is stored, asked and broken: nothing leaves that is not allowed, and nothing allowed is missed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from services.corpus.errors import Unavailable
from services.corpus.filter import AllOf, AnyOf, Equals, Filter, Not, matches
from services.corpus.principal import EVERYBODY, Access, Caller
from services.embedding.memory import OverlapCrossEncoder
from services.retrieval.request import RerankMode, RetrievalMode, RetrieveQuery
from services.retrieval.result import RetrieveResult
from services.retrieval.retrieval import RetrievalPolicy
from services.retrieval.texts import fingerprint
from services.vectorstores.ports import FetchedChunk, Partition, StoreHit, Vector
from tests.support.retrieval_world import TENANT, StoreProxy, World

WORDS = st.sampled_from("alpha beta gamma delta epsilon zeta eta theta".split())  # noqa: SIM905 - reads better
TEXTS = st.lists(WORDS, min_size=1, max_size=6).map(" ".join)
READERS = st.sets(st.sampled_from([EVERYBODY, "user:alice", "user:bob", "group:hr", "group:it"]), max_size=2)
GROUPS = st.frozensets(st.sampled_from(["hr", "it"]))
CALLERS = st.builds(lambda subject, groups: Caller(TENANT, subject, groups), st.sampled_from(["alice", "bob"]), GROUPS)
LEAVES = st.builds(Equals, st.just("lang"), st.sampled_from(["en", "de"]))
FILTERS: st.SearchStrategy[Filter] = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.lists(inner, min_size=1, max_size=2).map(lambda operands: AllOf(tuple(operands))),
        st.lists(inner, min_size=1, max_size=2).map(lambda operands: AnyOf(tuple(operands))),
    ),
    max_leaves=3,
)


@dataclass(frozen=True)
class Entry:
    """A document, and what happened to it after it was ingested."""

    texts: tuple[str, ...]
    readers: frozenset[str]
    lang: str
    fate: str
    place: int


ENTRIES = st.lists(
    st.builds(
        Entry,
        st.lists(TEXTS, min_size=1, max_size=3).map(tuple),
        READERS.map(frozenset),
        st.sampled_from(["en", "de"]),
        st.sampled_from(["stays", "stays", "stays", "deleted", "planned", "closed"]),
        st.integers(0, 2),
    ),
    max_size=14,
)


class Flaky(StoreProxy):
    """Fails the methods that it was told to fail."""

    def __init__(self, fails: frozenset[str]) -> None:
        super().__init__()
        self.fails = fails

    def _maybe(self, name: str) -> None:
        if name in self.fails:
            raise Unavailable("no")

    async def search_dense(
        self, partition: Partition, vector: Vector, limit: int, reader_sets: frozenset[int] | None
    ) -> list[StoreHit]:
        self._maybe("dense")
        # Some stores do not narrow at all: the gate must hold without them.
        return await super().search_dense(partition, vector, limit, None if "narrow" in self.fails else reader_sets)

    async def search_lexical(
        self, partition: Partition, terms: Sequence[str], limit: int, reader_sets: frozenset[int] | None
    ) -> list[StoreHit]:
        self._maybe("lexical")
        return await super().search_lexical(partition, terms, limit, None if "narrow" in self.fails else reader_sets)

    async def fetch_chunks(self, partition: Partition, chunk_ids: Sequence[str]) -> list[FetchedChunk]:
        self._maybe("fetch")
        return await super().fetch_chunks(partition, chunk_ids)


FAILS = st.frozensets(st.sampled_from(["dense", "lexical", "fetch", "narrow"]), max_size=2)


async def _build(entries: Sequence[Entry], stores: dict[str, StoreProxy]) -> World:
    world = World(stores)
    await world.collection()
    names = list(stores)
    for number, entry in enumerate(entries):
        name = f"d{number:02}"
        where = [names[entry.place % len(names)]] if entry.place < len(names) else names
        metadata = {"lang": entry.lang}
        await world.add(name, *entry.texts, readers=entry.readers, metadata=metadata, stores=where)
        if entry.fate == "deleted":
            await world.catalog.mark_deleted(TENANT, "default", name)
        elif entry.fate == "planned":
            await world.add(name, "alpha beta never activated", readers=entry.readers, stores=where, activate=False)
        elif entry.fate == "closed":
            # The stores have not heard of it yet.
            await world.catalog.set_access(TENANT, "default", name, Access(frozenset()))
    return world


def _allowed(entries: Sequence[Entry], caller: Caller, filter_: Filter | None) -> dict[str, str]:
    """Chunk id → text of everything that the caller may find, worked out without the code under test."""
    return {
        f"d{number:02}#1.{ordinal}": text
        for number, entry in enumerate(entries)
        if entry.fate in ("stays", "planned")
        and not entry.readers.isdisjoint(caller.principals)
        and matches(filter_, {"lang": entry.lang})
        for ordinal, text in enumerate(entry.texts)
    }


@settings(deadline=None, max_examples=80)
@given(
    entries=ENTRIES,
    caller=CALLERS,
    filter_=st.none() | FILTERS,
    query=TEXTS,
    mode=st.sampled_from(RetrievalMode),
    fails=st.lists(FAILS, min_size=1, max_size=3),
    top_k=st.integers(1, 6),
)
def test_only_what_is_allowed_leaves_whatever_fails(
    entries: list[Entry],
    caller: Caller,
    filter_: Filter | None,
    query: str,
    mode: RetrievalMode,
    fails: list[frozenset[str]],
    top_k: int,
) -> None:
    async def ask() -> RetrieveResult | None:
        world = await _build(entries, {f"store{i}": Flaky(what) for i, what in enumerate(fails)})
        retriever = world.retriever(cross_encoder=OverlapCrossEncoder(), policy=RetrievalPolicy(first_depth=1))
        request = RetrieveQuery(query, filter_=filter_, top_k=top_k, mode=mode, rerank=RerankMode.ON)
        try:
            return await retriever.retrieve(caller, request)
        except Unavailable:
            return None

    result = asyncio.run(ask())
    if result is None:
        assert all(what & {"dense", "lexical", "fetch"} for what in fails)
        return
    allowed = _allowed(entries, caller, filter_)
    for passage in result.passages:
        assert allowed.get(passage.key.chunk_id) == passage.passage.text
        assert 0.0 <= passage.score <= 1.0
        assert passage.stores
    assert len(result.passages) <= top_k
    texts = [fingerprint(passage.passage.text) for passage in result.passages]
    assert len(set(texts)) == len(texts)
    scores = [passage.score for passage in result.passages]
    assert scores == sorted(scores, reverse=True)


@settings(deadline=None, max_examples=120)
@given(
    entries=ENTRIES,
    caller=CALLERS,
    filter_=st.none() | FILTERS,
    query=TEXTS,
    top_k=st.integers(1, 6),
    narrows=st.booleans(),
    stores=st.integers(1, 2),
)
def test_by_meaning_the_result_is_the_best_of_everything_allowed(
    entries: list[Entry],
    caller: Caller,
    filter_: Filter | None,
    query: str,
    top_k: int,
    narrows: bool,
    stores: int,
) -> None:
    async def ask() -> tuple[RetrieveResult, dict[str, float]]:
        fails = frozenset() if narrows else frozenset({"narrow"})
        world = await _build(entries, {f"store{i}": Flaky(fails) for i in range(stores)})
        retriever = world.retriever(policy=RetrievalPolicy(first_depth=1, deepening=2))
        request = RetrieveQuery(query, filter_=filter_, top_k=top_k, mode=RetrievalMode.DENSE)
        result = await retriever.retrieve(caller, request)
        vector = await world.embedder.embed_query(query)
        best: dict[bytes, float] = {}
        for text in _allowed(entries, caller, filter_).values():
            cosine = float((await world.embedder.embed_passages([text]))[0] @ vector)
            mark = fingerprint(text)
            best[mark] = max(cosine, best.get(mark, cosine))
        return result, {mark.hex(): cosine for mark, cosine in best.items()}

    result, oracle = asyncio.run(ask())
    expected = sorted(oracle.values(), reverse=True)[:top_k]
    given_ = [passage.scores.dense for passage in result.passages]
    assert len(given_) == len(expected)
    for cosine, wanted in zip(given_, expected, strict=True):
        assert cosine is not None
        assert abs(cosine - wanted) < 1e-5
    for passage in result.passages:
        assert abs(oracle[fingerprint(passage.passage.text).hex()] - (passage.scores.dense or 0.0)) < 1e-5
    assert not result.coverage.degraded
