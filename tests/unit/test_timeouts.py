"""Time-outs of one length: they end what asyncio.timeout would end, and in the same way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from interceptors.timeouts import Timeouts
from tests.support.serving import PATIENT


class LateError(Exception):
    """What took too long ends with it."""


Limit = Callable[[float, Awaitable[Any]], Awaitable[Any]]


def ours() -> Limit:
    known: dict[float, Timeouts] = {}

    async def limit(seconds: float, work: Awaitable[Any]) -> Any:
        return await known.setdefault(seconds, Timeouts(seconds)).limit(work, LateError)

    return limit


def asyncios() -> Limit:
    async def limit(seconds: float, work: Awaitable[Any]) -> Any:
        try:
            async with asyncio.timeout(seconds) as bound:
                return await work
        except TimeoutError as error:
            if not bound.expired():
                raise
            raise LateError from error

    return limit


@pytest.fixture(params=[ours, asyncios])
def limit(request: pytest.FixtureRequest) -> Limit:
    """Both ways: asyncio's shows that the tests ask for nothing else."""
    made: Limit = request.param()
    return made


async def forever() -> None:
    await asyncio.Event().wait()


async def value() -> str:
    await asyncio.sleep(0)
    return "value"


async def test_what_is_in_time_returns_its_value(limit: Limit) -> None:
    assert await limit(60, value()) == "value"


async def test_what_takes_too_long_is_cancelled_and_raises_what_was_asked_for(limit: Limit) -> None:
    ended: list[bool] = []

    async def work() -> None:
        try:
            await forever()
        finally:
            ended.append(True)

    with pytest.raises(LateError):
        await limit(0.01, work())
    assert ended == [True]
    assert cancelling() == 0


async def test_errors_of_the_work_leave_as_they_are(limit: Limit) -> None:
    async def fails() -> None:
        raise TimeoutError("of its own")

    with pytest.raises(TimeoutError, match="of its own"):
        await limit(60, fails())


async def test_a_cancellation_from_outside_stays_one(limit: Limit) -> None:
    task = asyncio.ensure_future(limit(60, forever()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelling() == 1


async def test_a_cancellation_from_outside_wins_over_the_end_of_time(limit: Limit) -> None:
    begun = asyncio.Event()

    async def holds_out() -> None:
        try:
            await forever()
        finally:
            begun.set()
            await forever()  # still tidying up when it is cancelled once more

    task = asyncio.ensure_future(limit(0.01, holds_out()))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelling() == 1


async def test_a_task_that_was_cancelled_before_keeps_count(limit: Limit) -> None:
    async def tidy_up() -> int:
        try:
            await forever()
        except asyncio.CancelledError:
            with pytest.raises(LateError):
                await limit(0.01, forever())
        return cancelling()

    task = asyncio.create_task(tidy_up())
    await asyncio.sleep(0)
    task.cancel()
    assert await task == 1


@pytest.mark.parametrize("ending", ["returns", "raises"])
async def test_work_that_ends_in_its_own_way_after_its_time_leaves_no_cancellation(limit: Limit, ending: str) -> None:
    async def stubborn() -> str:
        try:
            await forever()
        except asyncio.CancelledError:
            if ending == "raises":
                raise KeyError from None
        return "after all"

    if ending == "raises":
        with pytest.raises(KeyError):
            await limit(0.01, stubborn())
    else:
        assert await limit(0.01, stubborn()) == "after all"
    assert cancelling() == 0


async def test_of_many_each_has_its_own_time(limit: Limit) -> None:
    """Some end by themselves, some later than others: nobody ends for another's time."""
    for seconds in PATIENT:
        outcomes = await sixty(limit, seconds)
        if "late" not in outcomes[0::3]:
            break
    assert outcomes[0::3] == ["ended"] * 20
    assert outcomes[2::3] == ["late"] * 20


async def sixty(limit: Limit, seconds: float) -> list[str]:
    stop = asyncio.Event()

    async def begin(number: int) -> str:
        for _ in range(number % 7):
            await asyncio.sleep(0)
        try:
            await limit(seconds, value() if number % 3 == 0 else stop.wait() if number % 3 == 1 else forever())
        except LateError:
            return "late"
        return "ended"

    tasks = [asyncio.create_task(begin(number)) for number in range(60)]
    while not all(tasks[number].done() for number in range(0, 60, 3)):
        await asyncio.sleep(0)
    stop.set()
    return await asyncio.gather(*tasks)


async def test_one_within_another(limit: Limit) -> None:
    with pytest.raises(LateError):
        await limit(60, limit(0.01, forever()))
    with pytest.raises(LateError):
        await limit(0.01, limit(60, forever()))
    assert cancelling() == 0


async def test_what_is_over_is_forgotten() -> None:
    timeouts = Timeouts(60)
    await asyncio.gather(*(timeouts.limit(value(), LateError) for _ in range(10)))
    timeouts._end(asyncio.get_running_loop())
    assert not timeouts._running
    timeouts._seconds = 0.01
    with pytest.raises(LateError):
        await timeouts.limit(forever(), LateError)
    assert not timeouts._running
    timeouts._seconds = 60
    assert await timeouts.limit(value(), LateError) == "value"


def cancelling() -> int:
    task = asyncio.current_task()
    return -1 if task is None else task.cancelling()
