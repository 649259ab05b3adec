"""How far a long piece of work has come, on stderr: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from rich import progress as bars
from rich.console import Console
from rich.text import Text

from cli.text import seconds

_LINE_EVERY = 5.0


class Progress(Protocol):
    """What a piece of work reports to."""

    def begin(self, total: int) -> None:
        """Work on ``total`` items begins."""

    def advance(self, count: int) -> None:
        """``count`` more items are done."""

    def end(self) -> None:
        """The work has ended, well or not."""


def progress(console: Console, label: str, noun: str) -> Progress:
    """The progress that suits ``console``."""
    return (
        _Bar(console, label, noun)
        if console.is_terminal and not console.is_dumb_terminal
        else Lines(console, label, noun)
    )


class _Bar:
    def __init__(self, console: Console, label: str, noun: str) -> None:
        self._bar = bars.Progress(
            bars.TextColumn("{task.description}"),
            bars.BarColumn(bar_width=32),
            bars.MofNCompleteColumn(),
            bars.TextColumn(f"{noun}s"),
            _Rate(),
            bars.TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
        )
        self._label = label
        self._task: bars.TaskID | None = None

    def begin(self, total: int) -> None:
        self._task = self._bar.add_task(self._label, total=total)
        self._bar.start()

    def advance(self, count: int) -> None:
        if self._task is not None:
            self._bar.advance(self._task, count)

    def end(self) -> None:
        self._bar.stop()


class _Rate(bars.ProgressColumn):
    def render(self, task: bars.Task) -> Text:
        elapsed = task.elapsed or 0.0
        rate = task.completed / elapsed if elapsed else 0.0
        return Text(f"{rate:.1f}/s", style="dim")


class Lines:
    """A line when a tenth of the work or some seconds have passed; the clock is handed in by tests."""

    def __init__(self, console: Console, label: str, noun: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._label = label
        self._noun = noun
        self._clock = clock
        self._total = self._done = self._said = 0
        self._start = self._said_at = 0.0

    def begin(self, total: int) -> None:
        """See :class:`Progress`."""
        self._total = total
        self._start = self._said_at = self._clock()

    def advance(self, count: int) -> None:
        """See :class:`Progress`."""
        self._done += count
        now = self._clock()
        if self._done == self._said or not count:
            return
        far = self._done - self._said >= self._total / 10 and now - self._said_at >= 1.0
        if not (far or now - self._said_at >= _LINE_EVERY) or self._done >= self._total:
            return
        rate = self._done / max(now - self._start, 1e-9)
        left = seconds((self._total - self._done) / rate)
        self._console.print(
            f"{self._label}: {self._done}/{self._total} {self._noun}s, {rate:.1f}/s, about {left} left", soft_wrap=True
        )
        self._said, self._said_at = self._done, now

    def end(self) -> None:
        """See :class:`Progress`."""
