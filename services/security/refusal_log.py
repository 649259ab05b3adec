"""Tells the operator why callers were refused, without letting callers fill the log.

Every caller who reaches a port can have calls refused. So lines are limited for each reason, and what a caller can cause
who has no token of a configured issuer is counted apart from what such a token causes: a flood of made-up tokens
leaves no line less for a user whose token does not suit the settings. What is not written is counted, and the counts
follow in one line.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Protocol

from services.security.refusal import Explanation, Signature


class Write(Protocol):
    """Writes a line: a text, and facts for programs to read."""

    def __call__(self, event: str, **facts: Any) -> None:
        """Write it."""


@dataclass(frozen=True, slots=True)
class Rate:
    """How many lines of one kind are written: ``burst`` after a pause, then one every ``seconds``."""

    burst: int
    seconds: float


PROVEN = Rate(burst=50, seconds=1.0)
"""Of tokens with a valid signature, for each issuer and reason."""
UNPROVEN = Rate(burst=50, seconds=30.0)
"""Of everything else, for each reason."""
SUMMARY_AFTER = 60.0
"""Seconds after the first line that was not written, when the counts are."""


def _in_this_loop(seconds: float, do: Callable[[], None]) -> Callable[[], None]:
    # In a context of its own: the line is not about the call during which it was asked for.
    return asyncio.get_running_loop().call_later(seconds, do, context=contextvars.Context()).cancel


class RefusalLog:
    """Writes refusals and remarks within their rates. Belongs to one event loop."""

    def __init__(
        self,
        write: Write,
        write_rest: Write | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        later: Callable[[float, Callable[[], None]], Callable[[], None]] = _in_this_loop,
    ) -> None:
        """Lines beyond the rates go to ``write_rest``.

        ``later`` calls something in so many seconds, and gives what takes that back.
        """
        self._write = write
        self._write_rest = write_rest
        self._clock = clock
        self._later = later
        # Bounded: reasons, and configured issuers, are few. When each kind's next line would be due, if all were.
        self._due: dict[Hashable, float] = {}
        self._held_back: Counter[str] = Counter()
        self._cancel: Callable[[], None] | None = None

    def refused(self, explanation: Explanation) -> None:
        """A caller was refused."""
        proven = explanation.signature is Signature.VALID
        kind = (explanation.issuer if proven else None, explanation.reason)
        facts = {
            "reason": explanation.reason.value,
            "why": explanation.words,
            "signature": explanation.signature.value,
            **({"issuer": explanation.issuer} if explanation.issuer else {}),
        }
        self._tell(kind, PROVEN if proven else UNPROVEN, explanation.reason.value, "caller refused", facts)

    def remark(self, issuer: str, words: str) -> None:
        """A token of ``issuer`` was accepted, and something in it does not count."""
        self._tell((issuer, "remark"), PROVEN, "remark", "token accepted in part", {"why": words, "issuer": issuer})

    def close(self) -> None:
        """Write what is left to say."""
        if self._cancel is not None:
            self._cancel()
            self._summarise()

    def _tell(self, kind: Hashable, rate: Rate, counted_as: str, event: str, facts: dict[str, str]) -> None:
        now = self._clock()
        # A virtual schedule (GCRA): a line is due every `seconds`, and may come up to a burst earlier.
        due = max(self._due.get(kind, now), now)
        if due - now <= (rate.burst - 1) * rate.seconds:
            self._due[kind] = due + rate.seconds
            self._write(event, **facts)
            return
        if self._write_rest is not None:
            self._write_rest(event, **facts)
        self._held_back[counted_as] += 1
        if self._cancel is None:
            self._cancel = self._later(SUMMARY_AFTER, self._summarise)

    def _summarise(self) -> None:
        self._cancel = None
        held_back, self._held_back = self._held_back, Counter()
        self._write("more callers were refused than were logged", by_reason=dict(held_back), seconds=SUMMARY_AFTER)
