"""Ingestion under whatever faults, cancellations and races Hypothesis thinks of."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from services.corpus.errors import DataLoss, Unavailable
from services.corpus.principal import Access
from services.ingestion.batch import Draft
from services.vectorstores.ports import Partition
from tests.support.ingestion import ALICE, TENANT, World

NAMES = ("a", "b", "c")
OPERATIONS = (
    "get_document",
    "plan_version",
    "embed_passages",
    "upsert_chunks",
    "upsert_chunks done",
    "activate_version",
    "activate_version done",
    "delete_chunks",
)
# One to four passages, no text being part of another.
TEXTS = tuple("\n\n".join(f"Paragraph {number} of text {text}." for number in range(text % 4 + 1)) for text in range(8))


@dataclass(frozen=True)
class Step:
    """Batches sent at the same time, and what goes wrong at the n-th operation (an error, or "cancel")."""

    batches: Sequence[Sequence[tuple[str, int]]]
    faults: dict[int, str]


documents = st.tuples(st.sampled_from(NAMES), st.integers(0, len(TEXTS) - 1))
steps = st.builds(
    Step,
    batches=st.lists(st.lists(documents, min_size=1, max_size=4), min_size=1, max_size=3),
    faults=st.dictionaries(
        st.integers(0, 40), st.sampled_from(["unavailable", "damaged", "defect", "cancel"]), max_size=6
    ),
)
ERRORS = {"unavailable": Unavailable("away"), "damaged": DataLoss("damaged"), "defect": RuntimeError("a defect")}


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(steps, min_size=1, max_size=4))
def test_what_can_be_read_is_always_whole_and_a_repeat_always_succeeds(plan: list[Step]) -> None:
    with capture_logs():  # a defect is logged with everything around it, which takes longer than the test
        asyncio.run(_check(plan))


async def _check(plan: list[Step]) -> None:
    world = World()
    collection = await world.collection()
    for step in plan:
        await _run(world, step)
        await world.assert_consistent()
        await _assert_texts_are_whole(world)
    # What a caller does who saw failures: the same documents again, and now nothing goes wrong.
    final = dict(pair for step in plan for batch in step.batches for pair in batch)
    outcomes = await world.ingestor.ingest(ALICE, collection, [_draft(name, text) for name, text in final.items()])
    assert [outcome.reason for outcome in outcomes] == [None] * len(final)
    await world.assert_consistent()
    for name, text in final.items():
        passages = await world.passages(name)
        assert [passage.text for passage in passages] == TEXTS[text].split("\n\n")
        assert all(TEXTS[text][passage.start : passage.end] == passage.text for passage in passages)
    await _assert_found_once(world, final)
    await world.ingestor.close()


def _draft(name: str, text: int) -> Draft:
    return Draft(TEXTS[text].encode(), document_id=name, title="t", access=Access(frozenset({"tenant:*"})))


async def _run(world: World, step: Step) -> None:
    count = 0
    tasks: list[asyncio.Task[object]] = []

    def strike(_operation: str) -> Exception | None:
        nonlocal count
        fault = step.faults.get(count)
        count += 1
        if fault == "cancel":
            tasks[count % len(tasks)].cancel()
        return ERRORS.get(fault or "")

    collection = await world.collection()
    world.faults.hook = strike
    for batch in step.batches:
        drafts = [_draft(name, text) for name, text in batch]
        tasks.append(asyncio.create_task(world.ingestor.ingest(ALICE, collection, drafts)))
    results = await asyncio.gather(*tasks, return_exceptions=True)
    world.faults.hook = None
    for batch, result in zip(step.batches, results, strict=True):
        # A batch is cancelled, or has one outcome per document, in order; nothing else ever leaves it.
        if isinstance(result, asyncio.CancelledError):
            continue
        assert isinstance(result, list), result
        assert [(outcome.index, outcome.document_id) for outcome in result] == [
            (index, name) for index, (name, _) in enumerate(batch)
        ]
        assert all((outcome.version > 0) == (outcome.reason is None) for outcome in result)


async def _assert_texts_are_whole(world: World) -> None:
    for name in NAMES:
        if await world.document(name) is not None:
            assert "\n\n".join(passage.text for passage in await world.passages(name)) in TEXTS


async def _assert_found_once(world: World, final: dict[str, int]) -> None:
    hits = await world.store.search_lexical(Partition(TENANT, "default"), ["paragraph"], 1000, None)
    current = {name: await world.document(name) for name in final}
    visible = [
        hit.chunk_id
        for hit in hits
        if (document := current.get(hit.document_id)) is not None and document.version == hit.version
    ]
    assert len(visible) == len(set(visible)) == sum(TEXTS[text].count("Paragraph") for text in final.values())


@settings(deadline=None, max_examples=30)
@given(st.lists(st.lists(documents, min_size=1, max_size=5), min_size=1, max_size=5))
def test_of_concurrent_batches_the_highest_version_is_what_can_be_read(
    batches: list[list[tuple[str, int]]],
) -> None:
    async def check() -> None:
        world = World()
        results = await asyncio.gather(*(world.ingest(*(_draft(*pair) for pair in batch)) for batch in batches))
        newest: dict[str, tuple[int, int]] = {}
        for batch, outcomes in zip(batches, results, strict=True):
            for (name, text), outcome in zip(batch, outcomes, strict=True):
                assert outcome.reason is None
                newest[name] = max(newest.get(name, (0, 0)), (outcome.version, text))
        for name, (version, text) in newest.items():
            document = await world.document(name)
            assert document is not None
            assert document.version == version
            assert "\n\n".join(passage.text for passage in await world.passages(name)) == TEXTS[text]
        chunks = sum(TEXTS[text].count("Paragraph") for _, text in newest.values())
        assert await world.store.count_chunks(Partition(TENANT, "default")) == chunks

    asyncio.run(check())
