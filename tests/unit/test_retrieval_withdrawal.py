"""Access that is withdrawn while a search runs: it counts, up to the moment at which the passages leave."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from collections.abc import Collection as Some

import pytest

from services.catalog.memory import MemoryCatalog
from services.corpus.document import Document
from services.corpus.errors import Unavailable
from services.corpus.principal import Access
from services.embedding.memory import OverlapCrossEncoder
from services.retrieval.request import RerankMode, RetrieveQuery
from services.retrieval.result import Reference, RetrieveResult
from tests.support.retrieval_world import ALICE, TENANT, World

NOBODY = Access(frozenset())
QUERY = RetrieveQuery("parking permits", top_k=2, rerank=RerankMode.ON)


class Meddling(OverlapCrossEncoder):
    """Does something while passages are reranked, when everything has been looked up already."""

    def __init__(self, meddle: Callable[[int], Awaitable[object]]) -> None:
        super().__init__()
        self.meddle = meddle
        self.calls = 0

    async def score(self, question: str, passages: Sequence[str], *, budget: float | None = None) -> list[float | None]:
        self.calls += 1
        scores = list(await super().score(question, passages, budget=budget))
        await self.meddle(self.calls)
        return scores


async def filled() -> World:
    world = World()
    await world.add("best", "Parking permits parking permits.")
    await world.add("good", "Parking permits for guests.")
    await world.add("fair", "Permits of all kinds.")
    return world


def found(result: RetrieveResult) -> list[str]:
    return [passage.key.document_id for passage in result.passages]


async def test_what_is_withdrawn_during_reranking_is_as_if_it_had_never_been_there() -> None:
    world = await filled()
    encoder = Meddling(lambda _: world.catalog.set_access(TENANT, "default", "best", NOBODY))
    result = await world.retriever(cross_encoder=encoder).retrieve(ALICE, QUERY)
    assert found(result) == ["good", "fair"]
    without = await world.retriever(cross_encoder=OverlapCrossEncoder()).retrieve(ALICE, QUERY)
    # Not even the scores or the counts know of it.
    assert result.passages == without.passages
    assert [part.hits for part in result.coverage.stores] == [part.hits for part in without.coverage.stores]
    assert encoder.calls == 2


@pytest.mark.parametrize("change", ["deleted", "replaced"])
async def test_deletions_and_new_versions_count_too(change: str) -> None:
    world = await filled()

    async def meddle(call: int) -> None:
        if change == "deleted":
            await world.catalog.mark_deleted(TENANT, "default", "best")
        elif call == 1:
            await world.add("best", "Something else.")

    result = await world.retriever(cross_encoder=Meddling(meddle)).retrieve(ALICE, QUERY)
    assert found(result) == ["good", "fair"]


async def test_documents_that_go_one_after_another_end_the_search_and_never_leave() -> None:
    world = await filled()
    await world.add("last", "Permits, permits.")
    names = ["best", "good", "fair"]

    async def meddle(call: int) -> None:
        await world.catalog.set_access(TENANT, "default", names[call - 1], NOBODY)

    encoder = Meddling(meddle)
    result = await world.retriever(cross_encoder=encoder).retrieve(ALICE, QUERY)
    assert found(result) == ["last"]
    assert encoder.calls == 3


async def test_a_catalog_that_does_not_answer_at_the_end_lets_nothing_out() -> None:
    world = await filled()

    class Failing(MemoryCatalog):
        async def find_readable(
            self, tenant: str, collection: str, document_ids: Some[str], principals: frozenset[str]
        ) -> dict[str, Document]:
            if encoder.calls:
                raise Unavailable("away")
            return await world.catalog.find_readable(tenant, collection, document_ids, principals)

    async def nothing(_: int) -> None:
        pass

    encoder = Meddling(nothing)
    failing = Failing()
    failing.__dict__.update(world.catalog.__dict__)
    with pytest.raises(Unavailable):
        await world.retriever(cross_encoder=encoder, catalog=failing).retrieve(ALICE, QUERY)
    assert encoder.calls == 1


async def test_sources_are_checked_in_their_version_for_one_caller() -> None:
    world = await filled()
    await world.add("hr", "Salaries.", readers=["group:hr"])
    await world.add("best", "A second version.")
    retriever = world.retriever()
    asked = [Reference("default", name, 1) for name in ("best", "good", "hr", "nowhere")]
    asked += [Reference("default", "best", 2), Reference("nowhere", "good", 1)]
    assert await retriever.check_sources(ALICE, asked) == {
        Reference("default", "good", 1),
        Reference("default", "best", 2),
    }
    await world.catalog.set_access(TENANT, "default", "good", NOBODY)
    assert await retriever.check_sources(ALICE, asked) == {Reference("default", "best", 2)}
    assert await retriever.check_sources(ALICE, []) == frozenset()
