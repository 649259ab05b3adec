"""One endpoint with what is known about it: its circuit breaker, its load, and how its calls went. Pure.

This is the one place where the outcome of a call is recorded. Failures count that say something about the endpoint: no
connection, a server's error, nothing before the first token's time is up, no text where an answer should be, a refusal that says when to come back. What
the caller did (going away, asking what a model refuses or cannot finish), or we did (a request that is refused), does
not.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace

from services.corpus.errors import DeadlineExceeded, GroundwireError, ResourceExhausted, Unavailable
from services.generation.completions.wellformed import well_formed
from services.generation.ports import AnswerEndpoint, Draft, NoAnswer, Question
from services.resilience.breaker import BreakerPolicy, BreakerState, CircuitBreaker, Permit
from services.resilience.endpoints import Clock, Role

_LATENCY_WEIGHT = 0.2  # of the newest call in the moving average: about the last ten calls count
_log = logging.getLogger(__name__)

BreakerChanged = Callable[[str, BreakerState, BreakerState], None]
"""Told an endpoint's name, and its breaker's state before and after. It must not raise."""


@dataclass(frozen=True, slots=True)
class EndpointStatus:
    """How one endpoint is.

    ``healthy`` tells whether its last call went well (true before the first), ``latency`` is the moving average of
    the seconds to a complete answer (0 before the first), ``error_message`` why the last call failed, in safe words.
    ``serving`` tells whether new questions go to it while it and the others stay as they are.
    """

    name: str
    kind: str
    model: str
    healthy: bool
    in_flight: int
    latency: float
    error_message: str
    role: Role
    breaker: BreakerState
    serving: bool


@dataclass(frozen=True, slots=True)
class AttemptLimits:
    """How long one attempt may make us wait, in seconds: for its first sign of life, and in all.

    Only time spent waiting for the endpoint counts, not the time that a slow client takes to read.
    """

    first_token: float = 20.0
    total: float = 120.0

    def __post_init__(self) -> None:
        if not 0 < self.first_token <= self.total:
            raise ValueError("first_token must be above 0 and at most total")


def breaker_policy(limits: AttemptLimits) -> BreakerPolicy:
    """When an endpoint's breaker opens.

    Answers are few and long where calls between services are many and short: three failures in a row are enough, even
    if each of them was a time-out, and one question at a time finds out whether the endpoint is back.
    """
    return BreakerPolicy(
        window=max(60.0, 4 * limits.first_token),
        consecutive=CONSECUTIVE_FAILURES,
        open_for=5.0,
        max_open_for=60.0,
        probes=1,
        probe_successes=1,
        probe_lease=limits.total,
    )


CONSECUTIVE_FAILURES = 3


class WatchedEndpoint:
    """``endpoint``, which stays with its owner until :meth:`close`. Belongs to one event loop.

    ``turn`` is for whoever chooses between endpoints: the number of the choice that fell on this one last.
    """

    def __init__(
        self,
        endpoint: AnswerEndpoint,
        role: Role,
        clock: Clock,
        limits: AttemptLimits,
        on_breaker: BreakerChanged | None = None,
    ) -> None:
        self.role = role
        self.turn = 0
        self.in_flight = 0
        self._endpoint = endpoint
        self._clock = clock
        self._limits = limits
        self._on_breaker = on_breaker
        self._breaker = CircuitBreaker(breaker_policy(limits), clock, self._breaker_changed)
        self._away_until = float("-inf")
        self._latency: float | None = None
        self._failure = ""

    @property
    def name(self) -> str:
        """The configured name."""
        return self._endpoint.name

    @property
    def sound(self) -> bool:
        """Whether its breaker would let a call through, and it did not ask to be left alone until later."""
        return self._clock() >= self._away_until and self._breaker.would_permit()

    @property
    def proven(self) -> bool:
        """Whether it is sound, and nobody has to find that out first."""
        return self.sound and self._breaker.state is BreakerState.CLOSED

    @contextmanager
    def call(self) -> Iterator[Call]:
        """Make a call to it, sound or not; the call counts as in flight until the context ends."""
        permit = self._breaker.acquire()
        self.in_flight += 1
        try:
            yield Call(self, permit)
        finally:
            self.in_flight -= 1
            if permit is not None:
                permit.release()

    def status(self, *, serving: bool) -> EndpointStatus:
        """How it is."""
        return EndpointStatus(
            name=self.name,
            kind=self._endpoint.kind,
            model=self._endpoint.model,
            healthy=not self._failure,
            in_flight=self.in_flight,
            latency=self._latency or 0.0,
            error_message=self._failure,
            role=self.role,
            breaker=self._breaker.state,
            serving=serving,
        )

    async def close(self) -> None:
        """Close the endpoint."""
        await self._endpoint.close()

    async def answer(self, question: Question, permit: Permit | None) -> AsyncGenerator[str | Draft, None]:
        """See :meth:`Call.answer`."""
        waited = 0.0
        started = False
        try:
            given = (question.query, question.passages, question.max_tokens)
            async with aclosing(self._endpoint.answer(*given)) as items:
                while True:
                    began = self._clock()
                    item = await self._next(items, waited, started)
                    waited += self._clock() - began
                    if isinstance(item, Draft):
                        break
                    started = True
                    if item:
                        yield well_formed(item)
        except GroundwireError as error:
            self._record_failure(error.message, permit, waited, blamed=self._is_to_blame(error, started))
            raise
        except Exception as error:
            # A defect of an endpoint must not take the answer away that another one can give; it is logged without
            # its message, which may hold anything.
            _log.error("endpoint %s failed unexpectedly: %s", self.name, type(error).__name__)
            self._record_failure("failed unexpectedly", permit, waited, blamed=True)
            raise Unavailable("the endpoint failed unexpectedly") from error
        if question.passages:
            # Without any, an endpoint abstains by itself: that does not show that its server is back.
            self._record_success(waited, permit)
        yield replace(item, answer=well_formed(item.answer))

    async def _next(self, items: AsyncGenerator[str | Draft, None], waited: float, started: bool) -> str | Draft:
        limit = self._limits.total if started else self._limits.first_token
        try:
            async with asyncio.timeout(max(0.0, limit - waited)):
                return await anext(items)
        except TimeoutError as error:
            what = "complete answer" if started else "text"
            raise DeadlineExceeded(f"the endpoint gave no {what} in time") from error
        except StopAsyncIteration:
            raise Unavailable("the endpoint stopped before the end of its answer") from None

    def _is_to_blame(self, error: GroundwireError, started: bool) -> bool:
        match error:
            case NoAnswer():
                return False
            case Unavailable():
                return True
            case ResourceExhausted(retry_after=seconds) if seconds > 0:
                self._away_until = self._clock() + seconds
                return True
            case DeadlineExceeded():
                # An answer that was begun and takes too long may be longer than we wait for.
                return not started
            case _:
                return False

    def _record_success(self, seconds: float, permit: Permit | None) -> None:
        self._failure = ""
        self._away_until = float("-inf")
        old = seconds if self._latency is None else self._latency
        self._latency = old + _LATENCY_WEIGHT * (seconds - old)
        if permit is not None:
            permit.succeed(seconds)

    def _record_failure(self, words: str, permit: Permit | None, seconds: float, *, blamed: bool) -> None:
        words = well_formed(words or "failed")
        if words != self._failure:
            _log.info("endpoint %s did not answer: %s", self.name, words)
        self._failure = words
        if blamed and permit is not None:
            permit.fail(seconds)

    def _breaker_changed(self, before: BreakerState, after: BreakerState) -> None:
        level = logging.WARNING if after is BreakerState.OPEN else logging.INFO
        _log.log(level, "the breaker of endpoint %s went from %s to %s", self.name, before.value, after.value)
        if self._on_breaker is not None:
            self._on_breaker(self.name, before, after)


class Call:
    """One call to an endpoint, with its breaker's permit; without one where nobody looked better."""

    def __init__(self, endpoint: WatchedEndpoint, permit: Permit | None) -> None:
        self._endpoint = endpoint
        self._permit = permit

    def answer(self, question: Question) -> AsyncGenerator[str | Draft, None]:
        """The endpoint's items within the limits; every failure is a GroundwireError, and recorded.

        A caller that goes away says nothing about the endpoint: then nothing is recorded.
        """
        return self._endpoint.answer(question, self._permit)
