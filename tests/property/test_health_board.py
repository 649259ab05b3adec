"""The health board as a state machine: whoever watches ends up with the latest status, and nobody waits for anybody."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from services.resilience.health import HealthBoard, ServingStatus, Watcher

KNOWN = ("", "readiness", "a.B")
NAMES = (*KNOWN, "unknown", "other")
MAX_WATCHERS = 4
statuses = st.sampled_from([ServingStatus.SERVING, ServingStatus.NOT_SERVING])


class Reader:
    """A watcher and what it was last told."""

    def __init__(self, name: str, watcher: Watcher) -> None:
        self.name = name
        self.watcher = watcher
        self.told: ServingStatus | None = None
        self.ended = False


class Board(RuleBasedStateMachine):
    """Sets, watches, reads and leaves in any order. Everything but ``next`` is synchronous: it cannot block."""

    readers = Bundle("readers")

    @initialize()
    def start(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.board = HealthBoard(KNOWN, max_watchers=MAX_WATCHERS)
        self.model = dict.fromkeys(KNOWN, ServingStatus.NOT_SERVING)
        self.live: list[Reader] = []
        self.final = False
        self.closed = False

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        # Whatever happened before, every watcher now learns the latest status, and then its watch ends.
        self.board.close_watchers()
        self.closed = True
        for reader in self.live:
            self.read_to_the_end(reader)
            self.board.unwatch(reader.watcher)
        assert self.board._watching == 0
        assert self.board._watchers == {}
        self.loop.close()

    @rule(name=st.sampled_from(KNOWN), status=statuses)
    def set(self, name: str, status: ServingStatus) -> None:
        self.board.set(name, status)
        if not self.final:
            self.model[name] = status

    @rule(status=statuses)
    def set_all(self, status: ServingStatus) -> None:
        self.board.set_all(status)
        if not self.final:
            self.model = dict.fromkeys(KNOWN, status)

    @rule(target=readers, name=st.sampled_from(NAMES), peer=st.sampled_from(["a", "b", "c"]))
    def watch(self, name: str, peer: str) -> Any:
        held = Counter(reader.watcher.peer for reader in self.live)
        watcher = self.board.watch(name, peer)
        displaced = [reader for reader in self.live if reader.watcher.displaced]
        if self.closed or (len(self.live) >= MAX_WATCHERS and max(held.values()) < held[peer] + 2):
            assert watcher is None
            assert displaced == []
            return multiple()
        assert watcher is not None
        assert len(displaced) == (len(self.live) >= MAX_WATCHERS)
        for reader in displaced:
            # One of whoever had most, their latest, who still had no fewer than the newcomer afterwards.
            assert held[reader.watcher.peer] == max(held.values()) > held[peer] + 1
            assert reader is [other for other in self.live if other.watcher.peer == reader.watcher.peer][-1]
            self.live.remove(reader)
            if reader.told is not self.current(reader.name):
                assert self.run_now(reader.watcher.next()) is self.current(reader.name)
            assert self.run_now(reader.watcher.next()) is None
        reader = Reader(name, watcher)
        self.live.append(reader)
        return reader

    @rule(reader=readers)
    def read(self, reader: Reader) -> None:
        expected = self.current(reader.name)
        if reader.told is not expected and not reader.ended and reader in self.live:
            assert self.run_now(reader.watcher.next()) is expected
            reader.told = expected
        elif self.closed and reader in self.live:
            assert self.run_now(reader.watcher.next()) is None
            reader.ended = True
        elif not self.closed and reader in self.live:
            assert self.waits(reader.watcher.next())

    @rule(status=statuses)
    def everybody_follows_a_change(self, status: ServingStatus) -> None:
        self.set_all(status)
        for reader in self.live:
            self.read(reader)

    @rule(reader=consumes(readers))
    def leave(self, reader: Reader) -> None:
        for _ in range(2):  # leaving twice is leaving once
            self.board.unwatch(reader.watcher)
        if reader in self.live:  # not if it was displaced before
            self.live.remove(reader)

    @precondition(lambda self: not self.final)
    @rule()
    def end(self) -> None:
        self.board.end()
        self.final = True
        self.model = dict.fromkeys(KNOWN, ServingStatus.NOT_SERVING)

    @precondition(lambda self: self.final and not self.closed)
    @rule()
    def close(self) -> None:
        self.board.close_watchers()
        self.closed = True

    @invariant()
    def statuses_are_what_was_set(self) -> None:
        if hasattr(self, "board"):
            assert self.board.statuses() == self.model
            assert self.board.status("unknown") is None

    @invariant()
    def counts_do_not_leak(self) -> None:
        if hasattr(self, "board"):
            assert self.board._watching == len(self.live)
            assert sum(map(len, self.board._watchers.values())) == len(self.live)
            assert all(self.board._watchers.values())
            assert sum(map(len, self.board._peers.values())) == len(self.live) <= MAX_WATCHERS
            assert all(self.board._peers.values())

    def current(self, name: str) -> ServingStatus:
        return self.model.get(name, ServingStatus.UNKNOWN)

    def read_to_the_end(self, reader: Reader) -> None:
        while (status := self.run_now(reader.watcher.next())) is not None:
            assert not reader.ended
            reader.told = status
        assert reader.told is self.current(reader.name)

    def run_now(self, coroutine: Coroutine[Any, Any, ServingStatus | None]) -> ServingStatus | None:
        """The result of something that must not have to wait."""
        task = self.loop.create_task(coroutine)
        self.turn()
        assert task.done(), "it waits"
        return task.result()

    def waits(self, coroutine: Coroutine[Any, Any, ServingStatus | None]) -> bool:
        task = self.loop.create_task(coroutine)
        self.turn()
        waiting = not task.done()
        task.cancel()
        self.turn()
        return waiting

    def turn(self) -> None:
        for _ in range(3):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()


TestBoard = Board.TestCase
TestBoard.settings = settings(deadline=None, max_examples=400, stateful_step_count=40)
