"""A retry budget beside a list of everything that was asked of it, counted anew each time, in whole ticks."""

from __future__ import annotations

import random
from collections import Counter
from fractions import Fraction

from services.resilience.budget import RetryBudget
from tests.support.fake_clock import FakeClock

# A tenth of a window is a whole number of ticks, and every time is exact in floating point.
TICKS = 8
STEPS = 10
BUDGETS = ((0.2, 3, 10.0), (0.05, 1, 10.0), (0.29, 0, 5.0), (1.0, 2, 2.5), (0.0, 3, 10.0), (0.7, 10, 20.0))


class BudgetWorld:
    """The steps. ``steps`` counts those that were done and checked, ``seen`` what happened in them."""

    def __init__(self, ratio: float, floor: int, window: float) -> None:
        self.clock = FakeClock()
        self.budget = RetryBudget(ratio=ratio, floor=floor, window=window, clock=self.clock)
        self.ratio = Fraction(str(ratio))
        self.floor = floor
        self.window = int(window * TICKS)
        self.tick = int(self.clock.now * TICKS)
        self.first: list[int] = []
        self.extra: list[int] = []
        self.steps = 0
        self.seen: Counter[str] = Counter()

    def advance(self, count: int) -> None:
        self.clock.advance(count / TICKS)
        self.tick += count
        # A step more than anything below looks back.
        oldest = self.tick - self.window * 2
        self.first = [tick for tick in self.first if tick >= oldest]
        self.extra = [tick for tick in self.extra if tick >= oldest]
        self.check("time")

    def call(self) -> None:
        self.budget.call()
        self.first.append(self.tick)
        self.check("call")

    def spend(self) -> None:
        available = self.budget.available
        taken = self.budget.spend()
        assert taken == (available > 0)
        if taken:
            self.extra.append(self.tick)
            assert self.budget.available == available - 1
            # The promise, counted exactly: no steps, and both ends of the window belong to it.
            assert self.within(self.extra) <= self.floor + self.ratio * self.within(self.first)
        self.check("spent" if taken else "refused")

    def spend_all(self) -> None:
        """Nobody gets more by asking again; what is there can be had."""
        available = self.budget.available
        for _ in range(available + 2):
            self.spend()
        assert self.budget.available == 0
        self.check("emptied")

    def within(self, ticks: list[int], more: int = 0) -> int:
        return sum(self.tick - tick <= self.window + more for tick in ticks)

    def counted(self, ticks: list[int], steps: int) -> int:
        step = self.window // STEPS
        return sum(self.tick // step - tick // step < steps for tick in ticks)

    def check(self, kind: str) -> None:
        left = self.floor + self.ratio * self.counted(self.first, STEPS) - self.counted(self.extra, STEPS + 1)
        assert self.budget.available == max(0, left // 1)
        # The floor is there whatever the traffic, once what was spent is a window and a step old.
        assert self.budget.available >= self.floor - self.within(self.extra, more=self.window // STEPS)
        self.steps += 1
        self.seen[kind] += 1

    def walk(self, dice: random.Random, steps: int) -> None:
        """Do at least so many steps, in bursts and lulls."""
        end = self.steps + steps
        while self.steps < end:
            calls = dice.choice((0.0, 0.3, 0.6, 0.8))
            pace = dice.choice((1, 2, 10, 60))
            for _ in range(dice.randrange(10, 100)):
                what = dice.random()
                if what < calls:
                    self.call()
                elif what < calls + 0.1:
                    self.advance(dice.randint(0, pace))
                elif what < 0.99:
                    self.spend()
                else:
                    self.spend_all()
            self.advance(dice.randint(0, self.window // 2))
