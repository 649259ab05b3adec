"""Retrieval: from a caller's question to the passages that answer it.

    resolve collections → embed → ask the stores → check with the catalog → fuse → fetch → drop doubles → rerank
                                        ↑               ↑__________________________________|              |
                                        |____ deeper, while too few hits pass the check                   ↓
                                                        ↑________ again, without what was withdrawn ____ check

The check comes before the fusion, so that normalised scores depend on nothing but what the caller may read; and once
more at the end, so that nothing leaves that was withdrawn, deleted or replaced while the request ran.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection as Some
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from services.corpus.coverage import Notice
from services.corpus.errors import FieldViolation, GroundwireError, InvalidRequest, Unavailable
from services.corpus.principal import Caller
from services.corpus.terms import analyze as analyze_english
from services.retrieval.checking import Gate, readable_now
from services.retrieval.deepening import too_shallow
from services.retrieval.economy import Economy, no_pressure
from services.retrieval.federation import FederatedSearch, Federation, Half, HitList, Question
from services.retrieval.fusion import Normalisation
from services.retrieval.ports import Analyzer, Catalog, Clock, CrossEncoder, Embedder, NamedStore, Pressure
from services.retrieval.query_kind import QueryKind, classify
from services.retrieval.question_vector import QuestionVectors
from services.retrieval.ranking import rank, select
from services.retrieval.request import RerankMode, RetrievalMode, RetrieveQuery
from services.retrieval.rerank import RERANK_SKIPPED, RerankPolicy
from services.retrieval.reranking import rerank
from services.retrieval.result import Reference, RetrievedPassage, RetrieveResult, StageTimings, StoreStatus
from services.retrieval.scope import require_same_model, resolve_collections
from services.retrieval.status import store_statuses
from services.retrieval.texts import Texts

# A caller whose documents are withdrawn faster than this gets fewer passages than asked for, never one of those.
_MOST_ROUNDS = 3
_HALVES = {
    RetrievalMode.HYBRID: (Half.DENSE, Half.LEXICAL),
    RetrievalMode.DENSE: (Half.DENSE,),
    RetrievalMode.LEXICAL: (Half.LEXICAL,),
}


@dataclass(frozen=True, slots=True)
class RetrievalPolicy:
    """What a search may cost.

    Every list starts ``first_depth`` deep (at least four times ``top_k``) and grows by the factor ``deepening`` up
    to ``most_depth``. ``store_timeout`` is in seconds, per store and round; ``embed_timeout`` in seconds that the
    question's vector may take.
    """

    store_timeout: float = 2.0
    embed_timeout: float = 5.0
    first_depth: int = 100
    deepening: int = 4
    most_depth: int = 50_000
    normalisation: Normalisation = Normalisation.MIN_MAX
    rerank: RerankPolicy = field(default_factory=RerankPolicy)


@dataclass(frozen=True)
class _Run:
    """What one request carries from stage to stage."""

    request: RetrieveQuery
    kind: QueryKind
    question: Question
    search: FederatedSearch
    gate: Gate
    texts: Texts
    timings: StageTimings
    notices: list[Notice]
    economy: Economy


class Retriever:
    """Finds passages across stores, among those that the caller may read.

    ``stores`` stand in the order that coverage reports them, under distinct names. Without a ``cross_encoder``
    nothing is reranked. ``analyze`` must be what ingestion used. ``clock`` gives monotonic seconds, for durations;
    ``pressure`` says what has to be left out.
    """

    def __init__(
        self,
        *,
        stores: Sequence[NamedStore],
        catalog: Catalog,
        embedder: Embedder,
        cross_encoder: CrossEncoder | None = None,
        policy: RetrievalPolicy | None = None,
        analyze: Analyzer = analyze_english,
        clock: Clock = time.monotonic,
        pressure: Pressure = no_pressure,
    ) -> None:
        if len({store.name for store in stores}) != len(stores):
            raise ValueError("stores need distinct names")
        self._policy = policy or RetrievalPolicy()
        self._federation = Federation(stores, timeout=self._policy.store_timeout, clock=clock)
        self._catalog = catalog
        self._model = embedder.model
        self._vectors = QuestionVectors(embedder, self._policy.embed_timeout, clock)
        self._cross_encoder = cross_encoder
        self._analyze = analyze
        self._clock = clock
        self._pressure = pressure

    async def retrieve(self, caller: Caller, request: RetrieveQuery) -> RetrieveResult:
        """The best ``request.top_k`` passages that the caller may read, best first.

        A store, the embedder or the reranker that fails costs results or their order, never the query: coverage and
        notices say so.
        So does pressure: notices name what was left out.

        Raises:
            InvalidRequest: A requested store is not configured.
            NotFound: A collection does not exist.
            FailedPrecondition: A collection was built with another embedding model, or no selected store can search
                in this mode.
            Unavailable: No store answered, the catalog did not, or (without a lexical half) the embedder did not.
            GroundwireError: Without a lexical half: what else the embedder raised.
        """
        timings = StageTimings()
        with self._timed(timings, "total"):
            self._require_stores(request.stores)
            run = await self._prepare(caller, request, timings)
            await self._start(run)
            passages = await self._settle(run)
        if run.texts.damaged:
            run.notices.append(Notice("PASSAGE_DAMAGED", "a stored passage could not be read and was left out"))
        coverage = run.search.coverage(run.gate.admitted)
        return RetrieveResult(
            tuple(passages[: request.top_k]),
            coverage,
            timings,
            tuple(dict.fromkeys(run.notices)),
            withheld=run.gate.withheld,
        )

    async def check_sources(self, caller: Caller, references: Some[Reference]) -> frozenset[Reference]:
        """Those of ``references`` that the caller may still read, in that very version; Unavailable."""
        return await readable_now(self._catalog, caller, references)

    async def list_stores(self, caller: Caller) -> list[StoreStatus]:
        """Every configured store's status, in the configured order; a failing one hides no other."""
        return await store_statuses(self._federation, caller.tenant)

    def _require_stores(self, names: Sequence[str]) -> None:
        known = {store.name for store in self._federation.stores}
        unknown = [
            FieldViolation(f"stores[{i}]", "is not a configured store")
            for i, name in enumerate(names)
            if name not in known
        ]
        if unknown:
            raise InvalidRequest(unknown)

    async def _prepare(self, caller: Caller, request: RetrieveQuery, timings: StageTimings) -> _Run:
        collections = await resolve_collections(self._catalog, caller.tenant, request.collections)
        if request.mode is not RetrievalMode.LEXICAL:
            require_same_model(collections, self._model)
        readable = await self._catalog.reader_sets(caller.tenant, caller.principals) if collections else frozenset()
        # In a thread, because a long query's words may all need the stemmer.
        terms = await asyncio.to_thread(self._analyze, request.query)
        notices: list[Notice] = []
        halves = list(_HALVES[request.mode])
        economy = Economy(self._pressure(), notices)
        if terms and Half.DENSE in halves and self._federation.may_search_by_words(request.stores):
            halves = economy.halves(halves)
        if not terms and Half.LEXICAL in halves:
            halves.remove(Half.LEXICAL)
            if not halves:
                notices.append(Notice("NO_SEARCHABLE_WORDS", "the query has no words that a lexical search can find"))
        vector = None
        if Half.DENSE in halves and readable:
            try:
                with self._timed(timings, "embed"):
                    vector = await self._vectors.of(request.query)
            except GroundwireError:
                if Half.LEXICAL not in halves:
                    raise
                halves.remove(Half.DENSE)
                notices.append(Notice("DENSE_SKIPPED", "the embedding model did not answer; searched by words alone"))
        names = tuple(collection.name for collection in collections)
        question = Question(caller.tenant, names, tuple(halves), readable, vector, terms)
        search = self._federation.search(question, frozenset(request.stores))
        return _Run(
            request=request,
            kind=classify(request.query),
            question=question,
            search=search,
            gate=Gate(self._catalog, caller, request.filter_),
            texts=Texts(self._federation, search, caller.tenant),
            timings=timings,
            notices=notices,
            economy=economy,
        )

    async def _start(self, run: _Run) -> None:
        with self._timed(run.timings, "search"):
            await run.search.start(self._first_depth(run))
        run.search.require_an_answer()

    async def _settle(self, run: _Run) -> list[RetrievedPassage]:
        """The best passages, each looked up in the catalog after all else was done.

        If one was withdrawn meanwhile, the ranking is made again without it: others move up, and no score depends on
        it any more.
        """
        for _ in range(_MOST_ROUNDS):
            passages = await self._rerank(run, await self._find(run))
            with self._timed(run.timings, "check"):
                if await run.gate.check_again([passage.key for passage in passages]):
                    break
        return [passage for passage in passages if passage.key in run.gate.admitted]

    async def _find(self, run: _Run) -> list[RetrievedPassage]:
        """Check, fuse and read what was found, going deeper while fewer than ``top_k`` passages come out of it."""
        policy, search, gate, top_k = self._policy, run.search, run.gate, run.request.top_k
        wanted = max(top_k, policy.rerank.candidates if self._will_rerank(run) else 0)
        depth = max([self._first_depth(run), *(len(hits.hits) for hits in search.lists)])
        most_depth = max(run.economy.most_depth(policy.most_depth), depth)
        reach: dict[str, int | None] = {}
        while True:
            with self._timed(run.timings, "check"):
                await gate.check(search.keys())
                lists = too_shallow(search.lists, gate.admitted, top_k, reach)
                if lists and run.request.filter_ is not None and not reach:
                    for collection in run.question.collections:
                        reach[collection] = await gate.chunks_in_reach(collection, top_k)
                    lists = too_shallow(search.lists, gate.admitted, top_k, reach)
            passages: list[RetrievedPassage] = []
            if not lists or depth >= most_depth:
                with self._timed(run.timings, "check"):
                    passages = await self._read(run, wanted)
                lists = lists or (self._incomplete(run, reach) if len(passages) < top_k else [])
                if not lists or depth >= most_depth:
                    break
            depth = min(depth * policy.deepening, most_depth)
            with self._timed(run.timings, "search"):
                await search.deepen(lists, depth)
        if lists:
            run.notices.append(Notice("SEARCH_LIMITED", "the search reached its depth limit; a match may be missing"))
        if not passages and run.texts.missing and not search.has_sound_store():
            raise Unavailable("no vector store gave back the texts that it found", reason="NO_STORE_ANSWERED")
        return passages

    def _incomplete(self, run: _Run, reach: dict[str, int | None]) -> list[HitList]:
        """The lists that may hold more, for when too few passages are left although the lists are deep enough.

        That happens where many chunks have the same text.
        """
        return too_shallow(run.search.lists, run.gate.admitted, len(run.gate.admitted) + 1, reach)

    async def _read(self, run: _Run, wanted: int) -> list[RetrievedPassage]:
        ranked = rank(run.search.lists, run.gate.admitted, run.kind, self._policy.normalisation)
        return await select(ranked, wanted, run.texts, run.gate.admitted, run.search.stores_of())

    def _first_depth(self, run: _Run) -> int:
        return run.economy.first_depth(self._policy.first_depth, run.request.top_k)

    def _will_rerank(self, run: _Run) -> bool:
        wanted = self._cross_encoder is not None and self._policy.rerank.applies(run.request.rerank, run.kind)
        return wanted and run.economy.may_rerank()

    async def _rerank(self, run: _Run, passages: list[RetrievedPassage]) -> list[RetrievedPassage]:
        if self._cross_encoder is None and run.request.rerank is RerankMode.ON:
            run.notices.append(Notice(RERANK_SKIPPED, "no reranker is configured; the order is that of the search"))
        if self._cross_encoder is None or not passages or not self._will_rerank(run):
            return passages
        policy = self._policy.rerank
        with self._timed(run.timings, "rerank"):
            passages, notices = await rerank(
                self._cross_encoder,
                policy,
                query=run.request.query,
                stems=run.question.terms,
                passages=passages,
                weight=policy.weight(run.kind),
            )
        run.notices.extend(notices)
        return passages

    @contextmanager
    def _timed(self, timings: StageTimings, stage: str) -> Iterator[None]:
        started = self._clock()
        try:
            yield
        finally:
            setattr(timings, stage, getattr(timings, stage) + self._clock() - started)
