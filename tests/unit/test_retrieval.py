"""Retrieval's domain: what is found, what is withheld, and what happens when parts of it fail."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from interceptors import current
from services.catalog.memory import MemoryCatalog
from services.corpus.coverage import StoreState
from services.corpus.document import Document
from services.corpus.errors import (
    FailedPrecondition,
    GroundwireError,
    InvalidRequest,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from services.corpus.filter import Equals
from services.corpus.principal import Access, Caller
from services.embedding.memory import HashingEmbedder, OverlapCrossEncoder
from services.retrieval.ports import NamedStore, StoreCondition
from services.retrieval.request import RerankMode, RetrievalMode, RetrieveQuery
from services.retrieval.rerank import RerankPolicy
from services.retrieval.result import RetrieveResult
from services.retrieval.retrieval import RetrievalPolicy, Retriever
from services.vectorstores.ports import (
    FetchedChunk,
    Partition,
    StoreCapabilities,
    StoreHit,
    Vector,
)
from tests.support.retrieval_world import ALICE, BOB, TENANT, HangingStore, StoreProxy, World
from tests.support.serving import PATIENT

SHORT = RetrievalPolicy(store_timeout=0.05)
# Every list starts at four times top_k, so that a few documents are enough to need deepening.
SHALLOW = RetrievalPolicy(first_depth=1)


def found(result: RetrieveResult) -> list[str]:
    return [passage.key.document_id for passage in result.passages]


def states(result: RetrieveResult) -> dict[str, StoreState]:
    return {part.store: part.state for part in result.coverage.stores}


def codes(result: RetrieveResult) -> list[str]:
    return [notice.code for notice in result.notices]


# --- finding --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", RetrievalMode)
async def test_the_best_passage_comes_first_with_scores_of_the_stages_it_went_through(mode: RetrievalMode) -> None:
    world = World()
    await world.add("travel", "Travel by train is reimbursed in second class.")
    await world.add("parking", "Parking permits are issued by the front desk.")
    result = await world.retriever().retrieve(ALICE, RetrieveQuery("reimbursed train travel", mode=mode))
    best = result.passages[0]
    assert best.key.document_id == "travel"
    assert best.passage.text == "Travel by train is reimbursed in second class."
    assert (best.title, best.uri, best.stores) == ("Travel", "https://example.org/travel", ("main",))
    assert best.score == best.scores.fused == 1.0
    assert (best.scores.dense is not None) == (mode is not RetrievalMode.LEXICAL)
    assert (best.scores.lexical is not None) == (mode is not RetrievalMode.DENSE)
    assert best.scores.rerank is None
    assert states(result) == {"main": StoreState.ANSWERED}
    assert not result.coverage.degraded
    assert result.notices == ()


async def test_top_k_bounds_the_result_and_scores_fall() -> None:
    world = World()
    for number in range(9):
        await world.add(f"d{number}", " ".join(["budget"] * (number + 1)) + f" item {number}")
    result = await world.retriever().retrieve(ALICE, RetrieveQuery("budget", top_k=4))
    scores = [passage.score for passage in result.passages]
    assert len(scores) == 4
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)


async def test_timings_come_from_the_clock() -> None:
    world = World()
    await world.add("a", "alpha")
    ticks = count()
    retriever = Retriever(
        stores=[NamedStore("main", world.stores["main"])],
        catalog=world.catalog,
        embedder=world.embedder,
        clock=lambda: float(next(ticks)),
    )
    timings = (await retriever.retrieve(ALICE, RetrieveQuery("alpha"))).timings
    assert min(timings.embed, timings.search, timings.check) >= 1
    assert timings.rerank == 0
    assert timings.total > timings.embed + timings.search + timings.check


async def test_several_collections_are_searched_and_named() -> None:
    world = World()
    await world.add("a", "alpha beta", collection="one")
    await world.add("b", "alpha gamma", collection="two")
    await world.add("c", "alpha delta", collection="three")
    result = await world.retriever().retrieve(ALICE, RetrieveQuery("alpha", collections=("one", "two", "one")))
    assert {(passage.key.collection, passage.key.document_id) for passage in result.passages} == {
        ("one", "a"),
        ("two", "b"),
    }


async def test_the_default_collection_is_empty_until_something_is_ingested() -> None:
    result = await World().retriever().retrieve(ALICE, RetrieveQuery("anything"))
    assert result.passages == ()
    assert states(result) == {"main": StoreState.SKIPPED}


async def test_an_unknown_collection_is_not_found() -> None:
    world = World()
    await world.add("a", "alpha")
    with pytest.raises(NotFound) as caught:
        await world.retriever().retrieve(ALICE, RetrieveQuery("alpha", collections=("default", "legal")))
    assert (caught.value.reason, caught.value.metadata) == ("COLLECTION_NOT_FOUND", {"collection": "legal"})


async def test_another_embedding_model_is_refused_with_the_remedy_but_words_can_be_searched() -> None:
    world = World()
    await world.collection(model="other-model")
    await world.add("a", "alpha")
    with pytest.raises(FailedPrecondition, match="groundwire reindex") as caught:
        await world.retriever().retrieve(ALICE, RetrieveQuery("alpha"))
    assert caught.value.reason == "EMBEDDING_MISMATCH"
    assert caught.value.metadata == {
        "collection": "default",
        "collection_model": "other-model",
        "service_model": "hashing-64",
    }
    result = await world.retriever().retrieve(ALICE, RetrieveQuery("alpha", mode=RetrievalMode.LEXICAL))
    assert found(result) == ["a"]


async def test_a_query_of_stop_words_finds_nothing_by_words_and_says_so() -> None:
    world = World()
    await world.add("a", "to be or not to be, alpha")
    result = await world.retriever().retrieve(ALICE, RetrieveQuery("to be or not", mode=RetrievalMode.LEXICAL))
    assert result.passages == ()
    assert codes(result) == ["NO_SEARCHABLE_WORDS"]


async def test_passages_with_the_same_text_are_shown_once_with_all_their_stores() -> None:
    world = World({"one": StoreProxy(), "two": StoreProxy()})
    await world.add("a", "The Budget is  final.", stores=["one"])
    await world.add("b", "the budget is final.", stores=["two"])
    await world.add("c", "the budget was cut", stores=["two"])
    result = await world.retriever().retrieve(ALICE, RetrieveQuery("budget final", top_k=3))
    assert len(result.passages) == 2
    assert set(result.passages[0].stores) == {"one", "two"}


async def test_many_copies_of_one_text_do_not_crowd_out_the_others() -> None:
    world = World()
    for number in range(30):
        await world.add(f"copy{number:02}", "budget budget budget")
    await world.add("other", "budget and some other words")
    result = await world.retriever(policy=SHALLOW).retrieve(ALICE, RetrieveQuery("budget", top_k=2))
    assert found(result) == ["copy00", "other"]


async def test_a_chunk_that_several_stores_hold_is_one_result() -> None:
    world = World({"one": StoreProxy(), "two": StoreProxy()})
    await world.add("a", "alpha beta")
    result = await world.retriever().retrieve(ALICE, RetrieveQuery("alpha"))
    assert [(passage.key.document_id, passage.stores) for passage in result.passages] == [("a", ("one", "two"))]
    assert [part.hits for part in result.coverage.stores] == [1, 1]


# --- withholding ----------------------------------------------------------------------------------------------------


async def test_nothing_of_another_reader_another_tenant_or_a_deleted_document_is_found() -> None:
    world = World()
    await world.add("mine", "alpha mine", readers=["user:alice"])
    await world.add("hers", "alpha hers", readers=["group:hr"])
    await world.add("gone", "alpha gone")
    await world.add("foreign", "alpha foreign", tenant="umbrella")
    await world.catalog.mark_deleted(TENANT, "default", "gone")
    assert found(await world.retriever().retrieve(ALICE, RetrieveQuery("alpha"))) == ["mine"]
    assert found(await world.retriever().retrieve(BOB, RetrieveQuery("alpha"))) == ["hers"]


async def test_who_may_read_nothing_gets_nothing_and_no_store_is_asked() -> None:
    store = StoreProxy()
    world = World({"main": store})
    await world.add("secret", "alpha", readers=["user:carol"])
    result = await world.retriever().retrieve(ALICE, RetrieveQuery("alpha"))
    assert result.passages == ()
    assert states(result) == {"main": StoreState.SKIPPED}
    assert store.depths == []


async def test_access_follows_the_catalog_even_while_stores_still_hold_the_old_reader_set() -> None:
    world = World()
    await world.add("a", "alpha", readers=["group:hr", "user:alice"])
    await world.catalog.set_access(TENANT, "default", "a", Access(frozenset({"group:hr"})))
    assert found(await world.retriever().retrieve(ALICE, RetrieveQuery("alpha"))) == []


async def test_a_version_is_found_from_its_activation_until_the_next_one() -> None:
    world = World()
    await world.add("a", "alpha first")
    await world.add("a", "alpha second", activate=False)
    result = await world.retriever().retrieve(ALICE, RetrieveQuery("alpha"))
    assert [(passage.key.version, passage.passage.text) for passage in result.passages] == [(1, "alpha first")]
    await world.add("a", "alpha third")
    result = await world.retriever().retrieve(ALICE, RetrieveQuery("alpha"))
    assert [(passage.key.version, passage.passage.text) for passage in result.passages] == [(3, "alpha third")]


async def test_scores_do_not_depend_on_what_is_withheld() -> None:
    async def scores(*, with_withheld: bool) -> list[tuple[str, float]]:
        world = World()
        await world.add("a", "alpha beta gamma")
        await world.add("b", "alpha delta")
        await world.add("c", "alpha epsilon zeta eta")
        if with_withheld:
            await world.add("b", "alpha alpha alpha", activate=False)
        result = await world.retriever().retrieve(ALICE, RetrieveQuery("alpha", mode=RetrievalMode.DENSE))
        return [(passage.key.document_id, passage.score) for passage in result.passages]

    assert await scores(with_withheld=True) == await scores(with_withheld=False)


@pytest.mark.parametrize("mode", RetrievalMode)
async def test_a_filter_that_few_documents_pass_is_answered_in_full_by_going_deeper(mode: RetrievalMode) -> None:
    store = StoreProxy()
    world = World({"main": store})
    for number in range(60):
        await world.add(f"noise{number:02}", "alpha alpha alpha", metadata={"lang": "de"})
    await world.add("first", "alpha with many other words in it", metadata={"lang": "en"})
    await world.add("second", "alpha with quite different ones around here", metadata={"lang": "en"})
    request = RetrieveQuery("alpha", filter_=Equals("lang", "en"), top_k=2, mode=mode)
    result = await world.retriever(policy=SHALLOW).retrieve(ALICE, request)
    assert set(found(result)) == {"first", "second"}
    assert codes(result) == []


async def test_a_filter_that_nothing_passes_does_not_search_to_the_bottom() -> None:
    store = StoreProxy()
    world = World({"main": store})
    for number in range(60):
        await world.add(f"noise{number:02}", f"alpha {number}", metadata={"lang": "de"})
    request = RetrieveQuery("alpha", filter_=Equals("lang", "en"), top_k=1)
    assert (await world.retriever(policy=SHALLOW).retrieve(ALICE, request)).passages == ()
    assert store.depths == [4]


async def test_the_depth_limit_is_kept_and_reported() -> None:
    store = StoreProxy()
    world = World({"main": store})
    for number in range(60):
        await world.add(f"noise{number:02}", "alpha alpha", metadata={"lang": "de"})
    await world.add("wanted", "alpha and other words", metadata={"lang": "en"})
    policy = RetrievalPolicy(first_depth=1, most_depth=10)
    request = RetrieveQuery("alpha", filter_=Equals("lang", "en"), top_k=1, mode=RetrievalMode.DENSE)
    result = await world.retriever(policy=policy).retrieve(ALICE, request)
    assert store.depths == [4, 10]
    assert result.passages == ()
    assert codes(result) == ["SEARCH_LIMITED"]


async def test_a_store_cannot_pass_one_documents_text_off_as_anothers() -> None:
    class Lying(StoreProxy):
        """Says that every chunk belongs to a document that the caller may read."""

        async def search_dense(
            self, partition: Partition, vector: Vector, limit: int, reader_sets: frozenset[int] | None
        ) -> list[StoreHit]:
            hits = await self.inner.search_dense(partition, vector, limit, None)
            return [StoreHit(hit.chunk_id, "public", 1, hit.score) for hit in hits]

    world = World({"main": Lying()})
    await world.add("public", "alpha public")
    await world.add("secret", "alpha secret", readers=["user:carol"])
    result = await world.retriever().retrieve(ALICE, RetrieveQuery("alpha"))
    assert [passage.passage.text for passage in result.passages] == ["alpha public"]


async def test_a_failing_catalog_fails_the_query() -> None:
    class Broken(MemoryCatalog):
        async def find_readable(self, *_: object, **__: object) -> dict[str, Document]:
            raise Unavailable("the catalog did not answer")

    world = World()
    world.catalog = Broken()
    await world.add("a", "alpha")
    with pytest.raises(Unavailable):
        await world.retriever().retrieve(ALICE, RetrieveQuery("alpha"))


async def test_the_reranker_sees_only_what_the_caller_may_read() -> None:
    seen: list[str] = []

    class Watching(OverlapCrossEncoder):
        async def score(
            self, question: str, passages: Sequence[str], *, budget: float | None = None
        ) -> list[float | None]:
            seen.extend(passages)
            return await super().score(question, passages, budget=budget)

    world = World()
    await world.add("a", "alpha one", metadata={"lang": "en"})
    await world.add("b", "alpha two", readers=["user:carol"], metadata={"lang": "en"})
    await world.add("c", "alpha three", metadata={"lang": "de"})
    await world.add("a", "alpha four", activate=False)
    request = RetrieveQuery("alpha", filter_=Equals("lang", "en"), rerank=RerankMode.ON)
    await world.retriever(cross_encoder=Watching()).retrieve(ALICE, request)
    assert seen == ["alpha one"]


# --- failing stores -------------------------------------------------------------------------------------------------


class FailingStore(StoreProxy):
    """Fails both halves of a search, with an exception whose text must stay inside."""

    async def search_dense(
        self, partition: Partition, vector: Vector, limit: int, reader_sets: frozenset[int] | None
    ) -> list[StoreHit]:
        raise ValueError("/var/secret/path alpha")

    async def search_lexical(
        self, partition: Partition, terms: Sequence[str], limit: int, reader_sets: frozenset[int] | None
    ) -> list[StoreHit]:
        raise Unavailable("10.0.0.7 refused")


@pytest.mark.parametrize("stubborn", [False, True])
async def test_a_store_that_hangs_is_timed_out_and_the_others_answer(stubborn: bool) -> None:
    hanging = HangingStore(stubborn=stubborn)
    world = World({"slow": hanging, "quick": StoreProxy()})
    await world.add("a", "alpha", stores=["quick"])
    for seconds in PATIENT:
        policy = RetrievalPolicy(store_timeout=seconds)
        result = await world.retriever(policy=policy).retrieve(ALICE, RetrieveQuery("alpha"))
        if states(result)["quick"] is StoreState.ANSWERED:
            break
    assert found(result) == ["a"]
    assert states(result) == {"slow": StoreState.TIMED_OUT, "quick": StoreState.ANSWERED}
    assert result.coverage.degraded
    assert not hanging.asked.locked()
    hanging.freed.set()


async def test_a_store_that_fails_is_reported_without_its_message() -> None:
    world = World({"bad": FailingStore(), "good": StoreProxy()})
    await world.add("a", "alpha", stores=["good"])
    result = await world.retriever().retrieve(ALICE, RetrieveQuery("alpha"))
    assert found(result) == ["a"]
    assert states(result) == {"bad": StoreState.FAILED, "good": StoreState.ANSWERED}
    assert "secret" not in str(result.coverage)
    assert "10.0.0.7" not in str(result.coverage)


async def test_the_half_that_a_store_did_answer_counts() -> None:
    class NoDense(StoreProxy):
        async def search_dense(
            self, partition: Partition, vector: Vector, limit: int, reader_sets: frozenset[int] | None
        ) -> list[StoreHit]:
            raise Unavailable("no")

    world = World({"half": NoDense()})
    await world.add("a", "alpha")
    result = await world.retriever().retrieve(ALICE, RetrieveQuery("alpha"))
    assert found(result) == ["a"]
    assert states(result) == {"half": StoreState.FAILED}


async def test_no_answer_from_any_store_is_unavailable() -> None:
    world = World({"slow": HangingStore(), "bad": FailingStore()})
    await world.add("a", "alpha", stores=[])
    with pytest.raises(Unavailable) as caught:
        await world.retriever(policy=SHORT).retrieve(ALICE, RetrieveQuery("alpha"))
    assert caught.value.reason == "NO_STORE_ANSWERED"


async def test_a_store_that_fails_while_deepening_keeps_what_it_gave_before() -> None:
    class OnceOnly(StoreProxy):
        async def search_dense(
            self, partition: Partition, vector: Vector, limit: int, reader_sets: frozenset[int] | None
        ) -> list[StoreHit]:
            if self.depths:
                raise Unavailable("no")
            return await super().search_dense(partition, vector, limit, reader_sets)

    world = World({"main": OnceOnly()})
    await world.add("wanted", "alpha alpha alpha", metadata={"lang": "en"})
    for number in range(20):
        await world.add(f"noise{number:02}", f"alpha {number}", metadata={"lang": "de"})
    for number in range(3):
        await world.add(f"far{number}", f"alpha far away {number} " + "beta " * 9, metadata={"lang": "en"})
    request = RetrieveQuery("alpha", filter_=Equals("lang", "en"), top_k=2, mode=RetrievalMode.DENSE)
    result = await world.retriever(policy=SHALLOW).retrieve(ALICE, request)
    assert found(result) == ["wanted"]
    assert states(result) == {"main": StoreState.FAILED}


async def test_a_store_that_cannot_search_a_half_is_not_failed() -> None:
    class Can(StoreProxy):
        dense = False
        lexical = False

        async def capabilities(self) -> StoreCapabilities:
            return StoreCapabilities("partial", dense=self.dense, lexical=self.lexical)

    class WordsOnly(Can):
        lexical = True

    world = World({"words": WordsOnly(), "none": Can()})
    await world.add("a", "alpha")
    result = await world.retriever().retrieve(ALICE, RetrieveQuery("alpha"))
    assert found(result) == ["a"]
    assert [(part.state, part.reason) for part in result.coverage.stores] == [
        (StoreState.ANSWERED, "cannot search by meaning"),
        (StoreState.SKIPPED, "cannot search by meaning or words"),
    ]
    assert not result.coverage.degraded
    with pytest.raises(FailedPrecondition):
        await world.retriever().retrieve(ALICE, RetrieveQuery("alpha", mode=RetrievalMode.DENSE))


async def test_a_subset_of_stores_is_asked_and_unknown_names_are_all_refused() -> None:
    world = World({"one": StoreProxy(), "two": StoreProxy()})
    await world.add("a", "alpha one", stores=["one"])
    await world.add("b", "alpha two", stores=["two"])
    result = await world.retriever().retrieve(ALICE, RetrieveQuery("alpha", stores=("two",)))
    assert found(result) == ["b"]
    assert states(result) == {"one": StoreState.SKIPPED, "two": StoreState.ANSWERED}
    with pytest.raises(InvalidRequest) as caught:
        await world.retriever().retrieve(ALICE, RetrieveQuery("alpha", stores=("x", "two", "y")))
    assert [violation.field for violation in caught.value.violations] == ["stores[0]", "stores[2]"]


async def test_a_cancelled_caller_leaves_no_work_behind() -> None:
    hanging = HangingStore()
    world = World({"slow": hanging})
    await world.add("a", "alpha", stores=[])
    before = asyncio.all_tasks()
    query = asyncio.create_task(world.retriever().retrieve(ALICE, RetrieveQuery("alpha")))
    for _ in range(2):
        await hanging.asked.acquire()
    query.cancel()
    with pytest.raises(asyncio.CancelledError):
        await query
    left = asyncio.all_tasks() - before
    if left:
        await asyncio.wait(left)
    assert all(task.cancelled() for task in left)


async def test_a_text_comes_from_another_store_when_the_first_fails_or_holds_damaged_bytes() -> None:
    class NoTexts(StoreProxy):
        async def fetch_chunks(self, partition: Partition, chunk_ids: Sequence[str]) -> list[FetchedChunk]:
            raise Unavailable("no")

    class Damaged(StoreProxy):
        async def fetch_chunks(self, partition: Partition, chunk_ids: Sequence[str]) -> list[FetchedChunk]:
            chunks = await self.inner.fetch_chunks(partition, chunk_ids)
            return [
                FetchedChunk(c.chunk_id, c.document_id, c.version, c.ordinal, c.reader_set, c.payload[:-2])
                for c in chunks
            ]

    world = World({"silent": NoTexts(), "damaged": Damaged(), "sound": StoreProxy()})
    await world.add("a", "alpha")
    result = await world.retriever().retrieve(ALICE, RetrieveQuery("alpha"))
    assert [passage.passage.text for passage in result.passages] == ["alpha"]
    assert states(result)["silent"] is StoreState.FAILED
    assert codes(result) == []

    alone = World({"damaged": Damaged()})
    await alone.add("a", "alpha")
    result = await alone.retriever().retrieve(ALICE, RetrieveQuery("alpha"))
    assert result.passages == ()
    assert codes(result) == ["PASSAGE_DAMAGED"]

    mute = World({"silent": NoTexts(), "sound": StoreProxy()})
    await mute.add("a", "alpha", stores=["silent"])
    result = await mute.retriever().retrieve(ALICE, RetrieveQuery("alpha"))
    assert result.passages == ()
    assert states(result) == {"silent": StoreState.FAILED, "sound": StoreState.ANSWERED}
    with pytest.raises(Unavailable):
        await mute.retriever().retrieve(ALICE, RetrieveQuery("alpha", stores=("silent",)))


class FailingEmbedder(HashingEmbedder):
    """Raises ``error`` for questions, or says nothing while that is None; counts how often it is asked."""

    def __init__(self, error: Exception | None) -> None:
        super().__init__(64)
        self.error = error
        self.asked = 0

    async def embed_query(self, text: str) -> NDArray[np.float32]:
        self.asked += 1
        if self.error is not None:
            raise self.error
        await asyncio.Event().wait()
        raise AssertionError


@pytest.mark.parametrize(
    "error",
    [
        Unavailable("the model did not answer"),
        FailedPrecondition("the key is refused"),
        ResourceExhausted("too many"),
        RecursionError(),
        ValueError("any other defect"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_without_the_embedder_words_still_find_and_meaning_alone_fails(error: Exception) -> None:
    """(G4)."""
    world = World(embedder=FailingEmbedder(error))
    await world.add("a", "alpha")
    result = await world.retriever().retrieve(ALICE, RetrieveQuery("alpha"))
    assert found(result) == ["a"]
    assert codes(result) == ["DENSE_SKIPPED"]
    with pytest.raises(type(error) if isinstance(error, GroundwireError) else Unavailable):
        await world.retriever().retrieve(ALICE, RetrieveQuery("alpha", mode=RetrievalMode.DENSE))


async def test_a_silent_embedder_is_waited_for_as_long_as_is_set_and_then_left_alone() -> None:
    """(G4)."""
    embedder = FailingEmbedder(None)
    now = 0.0
    world = World(embedder=embedder)
    await world.add("a", "alpha")
    retriever = world.retriever(policy=RetrievalPolicy(embed_timeout=0.01), clock=lambda: now)
    for _ in range(10):
        result = await retriever.retrieve(ALICE, RetrieveQuery("alpha"))
        assert (found(result), codes(result)) == (["a"], ["DENSE_SKIPPED"])
    assert embedder.asked == 3
    now += 60
    embedder.error = Unavailable("still not")
    await retriever.retrieve(ALICE, RetrieveQuery("alpha"))
    assert embedder.asked == 4


async def test_a_caller_in_a_hurry_leaves_half_of_the_time_to_the_search_by_words() -> None:
    """(G4)."""
    embedder = FailingEmbedder(None)
    world = World(embedder=embedder)
    await world.add("a", "alpha")
    retriever = world.retriever(policy=RetrievalPolicy(embed_timeout=600))
    for _ in range(5):
        token = current.deadline.set(time.monotonic() + 0.02)
        result = await retriever.retrieve(ALICE, RetrieveQuery("alpha"))
        current.deadline.reset(token)
        assert (found(result), codes(result)) == (["a"], ["DENSE_SKIPPED"])
    # Their hurry is not held against the model.
    asked, embedder.error = embedder.asked, Unavailable("down")
    await retriever.retrieve(ALICE, RetrieveQuery("alpha"))
    assert embedder.asked == asked + 1


# --- reranking ------------------------------------------------------------------------------------------------------


async def _three() -> World:
    world = World()
    await world.add("partial", "train train train train")
    await world.add("full", "the second class train ticket is reimbursed and there are many more words in this one")
    await world.add("other", "parking permits")
    return world


async def test_questions_are_reranked_and_topics_are_not() -> None:
    world = await _three()
    retriever = world.retriever(cross_encoder=OverlapCrossEncoder())
    asked = await retriever.retrieve(ALICE, RetrieveQuery("Which train ticket is reimbursed?"))
    assert found(asked)[0] == "full"
    assert asked.passages[0].scores.rerank == 11.0
    topic = await retriever.retrieve(ALICE, RetrieveQuery("train ticket reimbursed"))
    assert all(passage.scores.rerank is None for passage in topic.passages)
    forced = await retriever.retrieve(ALICE, RetrieveQuery("train ticket reimbursed", rerank=RerankMode.ON))
    assert all(passage.scores.rerank is not None for passage in forced.passages)
    off = await retriever.retrieve(ALICE, RetrieveQuery("Which train ticket?", rerank=RerankMode.OFF))
    assert all(passage.scores.rerank is None for passage in off.passages)


async def test_more_candidates_than_results_are_reranked() -> None:
    world = await _three()
    policy = RetrievalPolicy(rerank=RerankPolicy(candidates=3))
    retriever = world.retriever(cross_encoder=OverlapCrossEncoder(), policy=policy)
    # The search counts how often the query says "train", the cross-encoder only that it does.
    query = "Is a train train train train ticket reimbursed?"
    off = await retriever.retrieve(ALICE, RetrieveQuery(query, top_k=1, rerank=RerankMode.OFF))
    auto = await retriever.retrieve(ALICE, RetrieveQuery(query, top_k=1))
    assert (found(off), found(auto)) == (["partial"], ["full"])


async def test_a_reranker_that_fails_hangs_or_is_missing_costs_the_order_and_is_reported() -> None:
    class Broken(OverlapCrossEncoder):
        async def score(
            self, question: str, passages: Sequence[str], *, budget: float | None = None
        ) -> list[float | None]:
            raise Unavailable("no")

    class Hanging(OverlapCrossEncoder):
        async def score(
            self, question: str, passages: Sequence[str], *, budget: float | None = None
        ) -> list[float | None]:
            await asyncio.Event().wait()
            return []

    world = await _three()
    request = RetrieveQuery("Which train ticket?", rerank=RerankMode.ON)
    plain = await world.retriever().retrieve(ALICE, RetrieveQuery("Which train ticket?", rerank=RerankMode.OFF))
    policy = RetrievalPolicy(rerank=RerankPolicy(budget=0.01))
    for encoder in (Broken(), Hanging(), None):
        result = await world.retriever(cross_encoder=encoder, policy=policy).retrieve(ALICE, request)
        assert result.passages == plain.passages
        assert codes(result) == ["RERANK_SKIPPED"]


async def test_a_caller_in_a_hurry_leaves_the_reranker_half_of_the_time() -> None:
    """(G4)."""

    class Hanging(OverlapCrossEncoder):
        async def score(
            self, question: str, passages: Sequence[str], *, budget: float | None = None
        ) -> list[float | None]:
            await asyncio.Event().wait()
            raise AssertionError

    world = await _three()
    retriever = world.retriever(policy=RetrievalPolicy(rerank=RerankPolicy(budget=600)), cross_encoder=Hanging())
    token = current.deadline.set(time.monotonic() + 0.5)
    request = RetrieveQuery("second class train ticket", rerank=RerankMode.ON, mode=RetrievalMode.LEXICAL)
    result = await retriever.retrieve(ALICE, request)
    current.deadline.reset(token)
    assert codes(result) == ["RERANK_SKIPPED"]
    assert found(result)


async def test_a_spent_budget_reranks_in_part() -> None:
    # One second passes at every look at the clock, so that the budget of two ends after two passages.
    ticks = count()
    encoder = OverlapCrossEncoder(clock=lambda: float(next(ticks)))
    world = await _three()
    policy = RetrievalPolicy(rerank=RerankPolicy(budget=2.0))
    retriever = world.retriever(cross_encoder=encoder, policy=policy)
    result = await retriever.retrieve(ALICE, RetrieveQuery("Which train ticket is reimbursed?"))
    assert codes(result) == ["RERANK_PARTIAL"]
    assert [passage.scores.rerank is None for passage in result.passages] == [False, False, True]


# --- the stores themselves ------------------------------------------------------------------------------------------


async def test_list_stores_asks_all_and_hides_none() -> None:
    class Mute(StoreProxy):
        async def capabilities(self) -> StoreCapabilities:
            await asyncio.Event().wait()
            raise AssertionError

    class Uncountable(StoreProxy):
        async def count_chunks(
            self, partition: Partition, document_id: str | None = None, *, before_version: int | None = None
        ) -> int:
            raise RuntimeError("/var/secret/path")

    world = World({"good": StoreProxy(), "mute": Mute(), "uncountable": Uncountable()})
    await world.add("a", "alpha", "beta", stores=["good"])
    await world.add("x", "alpha", stores=["good"], tenant="umbrella")
    for seconds in PATIENT:
        retriever = world.retriever(policy=RetrievalPolicy(store_timeout=seconds))
        good, mute, uncountable = await retriever.list_stores(Caller(TENANT, "operator"))
        if good.healthy and uncountable.error != mute.error:
            break
    assert (good.engine, good.dense, good.lexical, good.healthy, good.chunk_count) == ("memory", True, True, True, 2)
    assert (mute.name, mute.healthy, mute.error) == ("mute", False, "no answer in time")
    assert (uncountable.name, uncountable.healthy, uncountable.error) == ("uncountable", False, "the store failed")


async def test_an_operator_sees_how_much_a_store_holds_and_the_access_page_says_so() -> None:
    """The count is of everything that the tenant has there, also of what the operator may not read (A4)."""
    world = World({"main": StoreProxy()})
    await world.add("secret", "alpha", "beta", readers=["group:board"])
    (main,) = await world.retriever().list_stores(Caller(TENANT, "operator"))
    assert main.chunk_count == 2
    page = (Path(__file__).parents[2] / "docs" / "access.md").read_text()
    assert "`ListStores.chunk_count` counts" in page.partition("### What can still be told")[2]


async def test_list_stores_tells_how_calls_to_a_store_went() -> None:
    class Broken(StoreProxy):
        async def capabilities(self) -> StoreCapabilities:
            raise Unavailable("store: nothing answers there")

    def condition() -> StoreCondition:
        return StoreCondition("half-open", "main: 127.0.0.1:1 is down", 3)

    world = World({"main": StoreProxy(), "broken": Broken()})
    stores = [NamedStore(name, store, condition) for name, store in world.stores.items()]
    retriever = Retriever(stores=stores, catalog=world.catalog, embedder=world.embedder)
    main, broken = await retriever.list_stores(ALICE)
    assert (main.healthy, main.breaker, main.in_flight) == (True, "half-open", 3)
    assert main.error == "main: 127.0.0.1:1 is down", "one of its endpoints is"
    assert (broken.healthy, broken.breaker, broken.in_flight) == (False, "half-open", 3)
    assert broken.error == "the store is unavailable"


def test_two_stores_of_one_name_are_refused() -> None:
    world = World()
    store = NamedStore("main", world.stores["main"])
    with pytest.raises(ValueError, match="distinct"):
        Retriever(stores=[store, store], catalog=world.catalog, embedder=world.embedder)
