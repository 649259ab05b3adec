"""Group commit: writes that wait together share a transaction, and each still succeeds or fails for itself."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, create_engine, event, text

from services.catalog.group_commit import GroupCommit


class Database:
    """A table of numbers, and how often it was committed."""

    def __init__(self, path: Path) -> None:
        self.engine = create_engine(f"sqlite:///{path}", connect_args={"check_same_thread": False})
        self.commits = 0
        with self.engine.begin() as connection:
            connection.execute(text("CREATE TABLE numbers (n INTEGER PRIMARY KEY)"))
        event.listen(self.engine, "commit", self._count)
        self.writes = GroupCommit(self.engine)

    def _count(self, _connection: Connection) -> None:
        self.commits += 1

    async def insert(self, number: int) -> int:
        """Insert a number; an IntegrityError if it is there already."""

        def work(connection: Connection) -> int:
            connection.execute(text("INSERT INTO numbers VALUES (:n)"), {"n": number})
            return number

        return await self.writes.run(work)

    def numbers(self) -> list[int]:
        with self.engine.connect() as connection:
            return [row[0] for row in connection.execute(text("SELECT n FROM numbers ORDER BY n"))]


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = Database(tmp_path / "numbers.sqlite3")
    yield opened
    await asyncio.to_thread(opened.writes.close)
    opened.engine.dispose()


async def test_writes_that_wait_together_share_a_commit(database: Database) -> None:
    began, gate = threading.Event(), threading.Event()

    def slow(connection: Connection) -> None:
        began.set()
        assert gate.wait(60)

    first = asyncio.create_task(database.writes.run(slow))
    await asyncio.to_thread(began.wait, 60)
    others = [asyncio.create_task(database.insert(number)) for number in range(20)]
    await asyncio.sleep(0)  # each is in the queue once it has run for the first time
    gate.set()
    await first
    assert await asyncio.gather(*others) == list(range(20))
    assert database.commits == 2
    assert database.numbers() == list(range(20))


async def test_one_failure_is_no_other_writes(database: Database) -> None:
    await database.insert(7)
    results = await asyncio.gather(*(database.insert(number) for number in range(15)), return_exceptions=True)
    assert [number for number, result in enumerate(results) if isinstance(result, Exception)] == [7]
    assert database.numbers() == list(range(15))


async def test_a_result_means_that_it_is_durable(database: Database) -> None:
    for number in range(5):
        await database.insert(number)
        assert database.numbers()[-1] == number


async def test_a_caller_who_leaves_harms_nobody(database: Database) -> None:
    tasks = [asyncio.create_task(database.insert(number)) for number in range(10)]
    await asyncio.sleep(0)
    tasks[3].cancel()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(done[3], asyncio.CancelledError)
    assert set(range(10)) - {3} <= set(database.numbers())
