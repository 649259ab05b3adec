"""What retrieval leaves out under pressure, and that it says so."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from services.embedding.memory import HashingEmbedder, OverlapCrossEncoder
from services.resilience.brownout import BrownoutStep
from services.retrieval.request import RerankMode, RetrievalMode, RetrieveQuery
from services.retrieval.result import RetrieveResult
from services.vectorstores.memory import MemoryVectorStore
from services.vectorstores.ports import StoreCapabilities, Vector
from tests.support.retrieval_world import ALICE, StoreProxy, World

RERANK, FEWER, LEXICAL = "BROWNOUT_RERANK_SKIPPED", "BROWNOUT_FEWER_CANDIDATES", "BROWNOUT_LEXICAL_ONLY"
QUESTION = "How is train travel reimbursed?"


class CountingEmbedder(HashingEmbedder):
    """Counts the queries that it is asked for."""

    def __init__(self) -> None:
        super().__init__(64)
        self.queries = 0

    async def embed_query(self, text: str) -> Vector:
        self.queries += 1
        return await super().embed_query(text)


class CountingEncoder(OverlapCrossEncoder):
    """Counts how often it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    async def score(self, question: str, passages: Sequence[str], *, budget: float | None = None) -> list[float | None]:
        self.asked += 1
        return await super().score(question, passages, budget=budget)


class DenseOnly(StoreProxy):
    """A store without words."""

    async def capabilities(self) -> StoreCapabilities:
        return StoreCapabilities(engine="dense", dense=True, lexical=False)


class Busy:
    """A world with passages about trains, and models that count."""

    def __init__(self, store: StoreProxy | None = None) -> None:
        self.embedder = CountingEmbedder()
        self.encoder = CountingEncoder()
        self.store = store or StoreProxy(MemoryVectorStore())
        self.world = World({"main": self.store}, self.embedder)
        self.step = BrownoutStep.NONE
        self.retriever = self.world.retriever(cross_encoder=self.encoder, pressure=lambda: self.step)

    async def fill(self) -> Busy:
        for number in range(5):
            await self.world.add(f"d{number}", f"Train travel is reimbursed in class {number}.")
        # What a store can do is known once it was asked.
        await self.ask(BrownoutStep.NONE)
        self.encoder.asked = self.embedder.queries = 0
        self.store.depths.clear()
        return self

    async def ask(self, step: BrownoutStep, query: str = QUESTION, **options: object) -> RetrieveResult:
        self.step = step
        return await self.retriever.retrieve(ALICE, RetrieveQuery(query, **options))  # type: ignore[arg-type] # its own fields


def codes(result: RetrieveResult) -> set[str]:
    return {notice.code for notice in result.notices}


@pytest.mark.parametrize(
    ("step", "said", "reads", "embeds"),
    [
        (BrownoutStep.NONE, set(), 1, 1),
        (BrownoutStep.SKIP_RERANK, {RERANK}, 0, 1),
        (BrownoutStep.FEWER_CANDIDATES, {RERANK, FEWER}, 0, 1),
        (BrownoutStep.LEXICAL_ONLY, {RERANK, FEWER, LEXICAL}, 0, 0),
    ],
)
@pytest.mark.parametrize("rerank", [RerankMode.AUTO, RerankMode.ON])
async def test_each_step_leaves_out_more_and_says_so(
    step: BrownoutStep, said: set[str], reads: int, embeds: int, rerank: RerankMode
) -> None:
    busy = await Busy().fill()
    result = await busy.ask(step, rerank=rerank)
    assert codes(result) == said
    assert len(result.notices) == len(said)
    assert (busy.encoder.asked, busy.embedder.queries) == (reads, embeds)
    assert len(result.passages) == 5


@pytest.mark.parametrize("rerank", [RerankMode.OFF, RerankMode.AUTO])
async def test_what_would_not_have_been_done_is_not_said_to_be_left_out(rerank: RerankMode) -> None:
    busy = await Busy().fill()
    query = QUESTION if rerank is RerankMode.OFF else "train travel reimbursement"
    assert codes(await busy.ask(BrownoutStep.SKIP_RERANK, query, rerank=rerank)) == set()
    lexical = await busy.ask(BrownoutStep.LEXICAL_ONLY, query, rerank=rerank, mode=RetrievalMode.LEXICAL)
    assert codes(lexical) == {FEWER}


async def test_fewer_candidates_are_asked_for() -> None:
    busy = await Busy().fill()
    await busy.ask(BrownoutStep.SKIP_RERANK, mode=RetrievalMode.DENSE)
    await busy.ask(BrownoutStep.FEWER_CANDIDATES, mode=RetrievalMode.DENSE)
    assert busy.store.depths == [100, 25]
    await busy.ask(BrownoutStep.FEWER_CANDIDATES, mode=RetrievalMode.DENSE, top_k=50)
    assert busy.store.depths[-1] == 100


async def test_even_a_search_by_meaning_becomes_one_by_words() -> None:
    busy = await Busy().fill()
    result = await busy.ask(BrownoutStep.LEXICAL_ONLY, mode=RetrievalMode.DENSE)
    assert LEXICAL in codes(result)
    assert result.passages[0].scores.dense is None
    assert busy.embedder.queries == 0


async def test_words_that_cannot_be_searched_for_leave_the_search_by_meaning() -> None:
    busy = await Busy().fill()
    result = await busy.ask(BrownoutStep.LEXICAL_ONLY, "to be or not to be")
    assert LEXICAL not in codes(result)
    assert busy.embedder.queries == 1


async def test_a_store_without_words_is_still_searched() -> None:
    busy = await Busy(DenseOnly(MemoryVectorStore())).fill()
    result = await busy.ask(BrownoutStep.LEXICAL_ONLY)
    assert LEXICAL not in codes(result)
    assert result.passages


async def test_until_a_store_has_said_what_it_can_do_it_is_asked_as_usual() -> None:
    busy = await Busy().fill()
    busy.retriever = busy.world.retriever(cross_encoder=busy.encoder, pressure=lambda: busy.step)
    assert LEXICAL not in codes(await busy.ask(BrownoutStep.LEXICAL_ONLY))
    assert LEXICAL in codes(await busy.ask(BrownoutStep.LEXICAL_ONLY))
