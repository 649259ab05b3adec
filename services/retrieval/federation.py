"""Asking several stores at once, each within its time, and keeping account of what became of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeVar

from services.corpus.coverage import Coverage, StoreCoverage, StoreState
from services.corpus.errors import FailedPrecondition, Unavailable
from services.retrieval.ports import Clock, NamedStore
from services.retrieval.result import ChunkKey
from services.vectorstores.ports import Partition, StoreCapabilities, StoreHit, Vector

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class Half(Enum):
    """The two ways to search, in the words that a coverage's reason uses."""

    DENSE = "meaning"
    LEXICAL = "words"


@dataclass(frozen=True)
class Question:
    """What every store is asked; ``vector`` is needed for the dense half and ``terms`` for the lexical one."""

    tenant: str
    collections: tuple[str, ...]
    halves: tuple[Half, ...]
    reader_sets: frozenset[int]
    vector: Vector | None
    terms: Sequence[str]


@dataclass(slots=True, eq=False)
class HitList:
    """One store's answer for one collection and half, best first; ``exhausted`` when it has no more to give."""

    store: str
    collection: str
    half: Half
    hits: list[tuple[ChunkKey, float]] = field(default_factory=list)
    exhausted: bool = False
    answered: bool = False


@dataclass(slots=True)
class _Account:
    store: NamedStore
    lists: list[HitList] = field(default_factory=list)
    failure: StoreState | None = None
    skipped: bool = False
    incapable: bool = False
    reason: str = ""
    duration: float = 0.0


async def outcomes(work: Iterable[Awaitable[_T]], timeout: float | None) -> list[_T | Exception]:  # noqa: ASYNC109
    """Run ``work`` concurrently and say how each piece ended: its result, its exception, or TimeoutError.

    A piece that is not done after ``timeout`` seconds (None: wait for all) is cancelled and not waited for, since
    one that ignores its cancellation must not hold up the others. When the caller is cancelled, all pieces are.
    """
    tasks = [asyncio.ensure_future(piece) for piece in work]
    if not tasks:
        return []
    for task in tasks:
        task.add_done_callback(_look_at)
    try:
        # Not asyncio.timeout: it would wait for the cancelled ones to agree.
        await asyncio.wait(tasks, timeout=timeout)
        return list(map(_ending, tasks))
    finally:
        for task in tasks:
            task.cancel()


def _ending(task: asyncio.Future[_T]) -> _T | Exception:
    if not task.done():
        return TimeoutError()
    if task.cancelled():
        return Unavailable("the work was cancelled from within")
    error = task.exception()
    if error is None:
        return task.result()
    if isinstance(error, Exception):
        return error
    raise error


def _look_at(task: asyncio.Future[Any]) -> None:
    # Asking for the exception keeps asyncio from reporting it as one that nobody looked at, also of abandoned work.
    with suppress(asyncio.CancelledError):
        task.exception()


def failure(error: Exception) -> tuple[StoreState, str]:
    """How a store's exception is reported: a state, and a few words that hold nothing of the exception's text."""
    match error:
        case TimeoutError():
            return StoreState.TIMED_OUT, "no answer in time"
        case Unavailable():
            return StoreState.FAILED, "the store is unavailable"
        case FailedPrecondition():
            return StoreState.FAILED, "the store does not fit the request"
        case _:
            return StoreState.FAILED, "the store failed"


class Federation:
    """The configured stores, in order. ``timeout`` is seconds that a store has for each round of a search."""

    def __init__(self, stores: Sequence[NamedStore], *, timeout: float, clock: Clock) -> None:
        self.stores = tuple(stores)
        self.timeout = timeout
        self.clock = clock
        self._capabilities: dict[str, StoreCapabilities] = {}

    def search(self, question: Question, selected: frozenset[str]) -> FederatedSearch:
        """A search over the stores named in ``selected``, all of them if that is empty."""
        return FederatedSearch(self, question, selected)

    async def capabilities(self, store: NamedStore) -> StoreCapabilities:
        """What a store can do; asked once, because it does not change while a process runs."""
        known = self._capabilities.get(store.name)
        if known is None:
            known = self._capabilities[store.name] = await store.store.capabilities()
        return known

    def known_capabilities(self, store: NamedStore) -> StoreCapabilities | None:
        """What a store said when it was last asked, or None if it never answered."""
        return self._capabilities.get(store.name)

    def may_search_by_words(self, selected: Sequence[str]) -> bool:
        """Whether those stores that would be asked and have said what they can do can all search by words."""
        names = selected or [store.name for store in self.stores]
        known = [self._capabilities[name] for name in names if name in self._capabilities]
        return bool(known) and all(can.lexical for can in known)


class FederatedSearch:
    """One question put to several stores, in rounds that go deeper."""

    def __init__(self, federation: Federation, question: Question, selected: frozenset[str]) -> None:
        self._federation = federation
        self._question = question
        self._accounts = {store.name: _Account(store) for store in federation.stores}
        for account in self._accounts.values():
            if selected and account.store.name not in selected:
                account.skipped, account.reason = True, "not among the requested stores"
            elif not question.halves or not question.collections or not question.reader_sets:
                account.skipped, account.reason = True, "there is nothing to search"

    @property
    def lists(self) -> list[HitList]:
        """Every list asked for so far, in the configured order of the stores."""
        return [hits for account in self._accounts.values() for hits in account.lists]

    def keys(self) -> set[ChunkKey]:
        """Every chunk found so far."""
        return {key for hits in self.lists for key, _ in hits.hits}

    def stores_of(self) -> dict[ChunkKey, list[str]]:
        """The stores that found each chunk, in the configured order."""
        found: dict[ChunkKey, list[str]] = {}
        for hits in self.lists:
            for key, _ in hits.hits:
                names = found.setdefault(key, [])
                if hits.store not in names:
                    names.append(hits.store)
        return found

    async def start(self, depth: int) -> None:
        """Ask every selected store for its ``depth`` best hits; failures go to the account, never to the caller."""
        await self._ask([account for account in self._accounts.values() if not account.skipped], depth, None)

    async def deepen(self, lists: Sequence[HitList], depth: int) -> None:
        """Ask again for those of ``lists``, ``depth`` deep."""
        names = {hits.store for hits in lists}
        await self._ask([self._accounts[name] for name in self._accounts if name in names], depth, lists)

    def fail(self, store: str, error: Exception) -> None:
        """Record that a store failed; its open lists are given up, what it found before is kept."""
        account = self._accounts[store]
        account.failure, account.reason = failure(error)
        for hits in account.lists:
            hits.exhausted = True
        # The type alone: an adapter's message may quote the query or a path.
        _log.warning("store %s: %s (%s)", store, account.reason, type(error).__name__)

    def coverage(self, admitted: Mapping[ChunkKey, object]) -> Coverage:
        """What became of each store; hits that the caller may not read are not counted."""
        entries = []
        for account in self._accounts.values():
            hits = {key for found in account.lists for key, _ in found.hits if key in admitted}
            state = account.failure or (StoreState.SKIPPED if account.skipped else StoreState.ANSWERED)
            entries.append(StoreCoverage(account.store.name, state, len(hits), account.duration, account.reason))
        return Coverage(tuple(entries))

    def require_an_answer(self) -> None:
        """Raise unless some store answered something, or none was needed.

        Raises:
            Unavailable: Every store that was asked failed.
            FailedPrecondition: No selected store can search in the way that was asked for.
        """
        if any(hits.answered for hits in self.lists):
            return
        if any(account.failure for account in self._accounts.values()):
            raise Unavailable("no vector store answered", reason="NO_STORE_ANSWERED")
        if any(account.incapable for account in self._accounts.values()):
            raise FailedPrecondition("no selected store can search in this mode; ask for another mode or other stores")

    def has_sound_store(self) -> bool:
        """Whether a store answered all that it was asked so far."""
        return any(not account.failure and not account.skipped for account in self._accounts.values())

    async def _ask(self, accounts: Sequence[_Account], depth: int, only: Sequence[HitList] | None) -> None:
        started = self._federation.clock()
        endings = await outcomes((self._round(account, depth, only) for account in accounts), self._federation.timeout)
        for account, ending in zip(accounts, endings, strict=True):
            if isinstance(ending, Exception):
                account.duration += self._federation.clock() - started
                self.fail(account.store.name, ending)

    async def _round(self, account: _Account, depth: int, only: Sequence[HitList] | None) -> None:
        started = self._federation.clock()
        if only is None:
            account.lists = self._plan(account, await self._federation.capabilities(account.store))
        asked = [hits for hits in account.lists if only is None or hits in only]
        endings = await outcomes((self._fill(account.store, hits, depth) for hits in asked), None)
        account.duration += self._federation.clock() - started
        for ending in endings:
            if isinstance(ending, Exception):
                self.fail(account.store.name, ending)

    def _plan(self, account: _Account, can: StoreCapabilities) -> list[HitList]:
        able = {Half.DENSE: can.dense, Half.LEXICAL: can.lexical}
        lacking = [half.value for half in self._question.halves if not able[half]]
        if lacking:
            account.reason = f"cannot search by {' or '.join(lacking)}"
        halves = [half for half in self._question.halves if able[half]]
        account.skipped = account.incapable = not halves
        name = account.store.name
        return [HitList(name, collection, half) for collection in self._question.collections for half in halves]

    async def _fill(self, store: NamedStore, hits: HitList, depth: int) -> None:
        question = self._question
        partition = Partition(question.tenant, hits.collection)
        found: list[StoreHit]
        if hits.half is Half.LEXICAL:
            found = await store.store.search_lexical(partition, question.terms, depth, question.reader_sets)
        elif question.vector is None:
            raise ValueError("a dense search needs a vector")
        else:
            found = await store.store.search_dense(partition, question.vector, depth, question.reader_sets)
        best: dict[ChunkKey, float] = {}
        for hit in found[:depth]:
            best.setdefault(ChunkKey(hit.chunk_id, hits.collection, hit.document_id, hit.version), hit.score)
        hits.hits = list(best.items())
        hits.answered = True
        hits.exhausted = len(found) < depth
