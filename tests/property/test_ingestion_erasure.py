"""Documents that are taken in and deleted at the same time, under faults, cancellations and restarts."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from services.corpus.errors import DataLoss, NotFound, Unavailable
from services.ingestion.batch import Draft
from services.vectorstores.ports import Partition
from tests.support.ingestion import ALICE, IMPATIENT, TENANT, World

NAMES = ("a", "b")
HERE = Partition(TENANT, "default")
ERRORS = {"unavailable": Unavailable("away"), "damaged": DataLoss("damaged"), "defect": RuntimeError("a defect")}
# What to do with which document, and how many turns of the loop later.
Calls = list[tuple[str, str, int]]
calls = st.lists(
    st.tuples(st.sampled_from(["ingest", "delete"]), st.sampled_from(NAMES), st.integers(0, 20)),
    min_size=1,
    max_size=6,
)
faults = st.dictionaries(st.integers(0, 30), st.sampled_from([*ERRORS, "cancel"]), max_size=6)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(calls, faults), min_size=1, max_size=4))
def test_in_the_end_every_receipt_is_complete_and_true(
    rounds: list[tuple[Calls, dict[int, str]]],
) -> None:
    with capture_logs():  # a defect is logged with everything around it, which takes longer than the test
        asyncio.run(_check(rounds))


async def _check(rounds: list[tuple[Calls, dict[int, str]]]) -> None:
    world = World()
    await world.collection()
    for calls_, faults_ in rounds:
        world.eraser = world.make_eraser()  # each round is another process
        world.erasures = type(world.erasures)(world.catalog, world.eraser)
        await world.ingest(*(Draft(b"As it was before.", document_id=name) for name in NAMES))
        world.eraser.start()
        await _run(world, calls_, faults_)
        await world.assert_consistent()
        await world.eraser.close()
        for name in NAMES:
            erasure = await world.catalog.last_erasure(TENANT, "default", name)
            if erasure is not None and erasure.complete_time is not None:
                assert await world.store.count_chunks(HERE, name, before_version=erasure.before_version) == 0
    world.moved = IMPATIENT.latest_write + timedelta(seconds=1)
    last = world.make_eraser()
    last.start()
    while await world.catalog.unfinished_erasures():
        await asyncio.sleep(0)
    await last.close()
    await world.assert_consistent()
    for name in NAMES:
        erasure = await world.catalog.last_erasure(TENANT, "default", name)
        if erasure is not None:
            assert await world.store.count_chunks(HERE, name, before_version=erasure.before_version) == 0
            assert all(step.remaining == 0 and step.complete_time for step in erasure.steps)
    await world.ingestor.close()


async def _run(world: World, calls_: Calls, faults_: dict[int, str]) -> None:
    count = 0
    tasks: list[asyncio.Task[object]] = []

    def strike(_operation: str) -> Exception | None:
        nonlocal count
        fault = faults_.get(count)
        count += 1
        if fault == "cancel" and tasks:
            tasks[count % len(tasks)].cancel()
        return ERRORS.get(fault or "")

    async def call(number: int, what: str, name: str, turns: int) -> object:
        for _ in range(turns):
            await asyncio.sleep(0)
        if what == "delete":
            return await world.erasures.delete(ALICE, "default", name)
        text = "\n\n".join(f"Paragraph {paragraph} of text {number}." for paragraph in range(number % 4 + 1))
        return await world.ingest(Draft(text.encode(), document_id=name))

    world.faults.hook = strike
    tasks.extend(asyncio.create_task(call(number, *given_)) for number, given_ in enumerate(calls_))
    results = await asyncio.gather(*tasks, return_exceptions=True)
    world.faults.hook = None
    for (what, *_), result in zip(calls_, results, strict=True):
        if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
            # Nothing leaves a deletion but that there is no such document, and what the catalog itself said.
            assert what == "delete"
            assert isinstance(result, NotFound | Unavailable | DataLoss | RuntimeError)
