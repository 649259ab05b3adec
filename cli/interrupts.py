"""Ctrl-C and its relatives in a command that has to clean up: the first ends it in order, the second at once."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# For a command that does something else when it gets SIGHUP.
BUT_HANGUP = (signal.SIGINT, signal.SIGTERM)


async def first_of(*futures: asyncio.Future[Any]) -> None:
    """Wait until one of ``futures`` is done."""
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)


class Interrupts:
    """The signal that came first, if any."""

    def __init__(self) -> None:
        self.first: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @property
    def exit_code(self) -> int:
        """The exit code of a command that a signal ended. SIGTERM, from a service manager, is a good end."""
        number = self.first.result()
        return 0 if number == signal.SIGTERM else 128 + number


@contextmanager
def interrupts(again: Callable[[], None], signals: Sequence[signal.Signals] = _SIGNALS) -> Iterator[Interrupts]:
    """Collect ``signals`` while the context lasts; ``again`` is called from the second one on."""
    loop = asyncio.get_running_loop()
    found = Interrupts()

    def on_signal(number: int) -> None:
        if found.first.done():
            again()
        else:
            found.first.set_result(number)

    for number in signals:
        loop.add_signal_handler(number, on_signal, number)
    try:
        yield found
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
