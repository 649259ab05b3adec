"""Generation: one answer from several endpoints, tried in order, as a stream that never mixes two texts. Pure.

A stream is a sequence of events; :func:`fold` says what a client shows after each. Two texts are never
concatenated: what a failed attempt showed is taken back by a Reset before the next Attempt begins.

    Attempt(a, 1)  Delta  Delta  (a fails)  Reset  Attempt(b, 2)  Delta  Final
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from services.corpus.coverage import Notice
from services.corpus.errors import DeadlineExceeded, GroundwireError, ResourceExhausted, Unavailable
from services.generation.ports import AnswerEndpoint, Citation, Draft, Passage, Usage

LOW_CONFIDENCE = "The given sources do not answer this question with the confidence that was asked for."
"""What is shown in place of an answer whose confidence is below the request's ``min_confidence``."""

_LATENCY_WEIGHT = 0.2  # of the newest call in the moving average: about the last ten calls count
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A question and the passages, best first, that may answer it."""

    query: str
    passages: tuple[Passage, ...]
    max_tokens: int = 1000
    min_confidence: float = 0.0


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """An answer, or the reason why there is none.

    ``low_confidence`` implies ``abstained``: an answer was found, but with less confidence than was asked for.
    ``confidence`` is then that answer's.
    """

    answer: str
    citations: tuple[Citation, ...]
    confidence: float
    abstained: bool
    low_confidence: bool
    endpoint: str
    usage: Usage
    warnings: tuple[Notice, ...] = ()


@dataclass(frozen=True, slots=True)
class Attempt:
    """An endpoint starts to write; ``number`` counts from 1."""

    endpoint: str
    number: int


@dataclass(frozen=True, slots=True)
class Delta:
    """More text: append it."""

    text: str


@dataclass(frozen=True, slots=True)
class Reset:
    """Drop all text shown so far."""

    reason: str


@dataclass(frozen=True, slots=True)
class Final:
    """The end: the complete result."""

    result: GenerationResult


GenerationEvent = Attempt | Delta | Reset | Final


def fold(shown: str, event: GenerationEvent) -> str:
    """What a client shows after ``event`` when it showed ``shown`` before; ends with exactly ``final.answer``."""
    match event:
        case Delta(text):
            return shown + text
        case Reset():
            return ""
        case Attempt() | Final():
            return shown


@dataclass(frozen=True, slots=True)
class EndpointStatus:
    """How one endpoint is.

    ``healthy`` tells whether its last call went well (true before the first), ``latency`` is the moving average of
    the seconds to a complete answer (0 before the first), ``error_message`` why the last call failed, in safe words.
    """

    name: str
    kind: str
    model: str
    healthy: bool
    in_flight: int
    latency: float
    error_message: str


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


class Generator:
    """Writes answers over endpoints that are tried in the order given.

    ``clock`` gives monotonic seconds. The endpoints stay with the caller until :meth:`close`.
    """

    def __init__(
        self,
        endpoints: Sequence[AnswerEndpoint],
        clock: Callable[[], float],
        limits: AttemptLimits = AttemptLimits(),
    ) -> None:
        names = [endpoint.name for endpoint in endpoints]
        if not names or len(set(names)) != len(names):
            raise ValueError("at least one endpoint is needed, each with a name of its own")
        self._watched = [_Watched(endpoint, clock, limits) for endpoint in endpoints]

    async def generate(self, request: GenerationRequest) -> GenerationResult:
        """Return the complete answer; raise Unavailable (NO_ENDPOINT_ANSWERED) when every endpoint failed."""
        async with aclosing(self.stream(request)) as events:
            async for event in events:
                if isinstance(event, Final):
                    return event.result
        raise AssertionError("a stream ends with Final or raises")

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[GenerationEvent, None]:
        """Yield the answer in pieces as they come; the last event is Final.

        With a ``min_confidence`` above 0 no text is shown before its confidence is known: an answer that the
        caller did not want is never seen, not even for a moment.

        Raises:
            Unavailable: Every endpoint failed (NO_ENDPOINT_ANSWERED); what was shown until then is void.
        """
        failures: list[GroundwireError] = []
        shown = ""
        for number, watched in enumerate(self._watched, start=1):
            if shown:
                yield Reset(f"endpoint {self._watched[number - 2].name} failed")
                shown = ""
            yield Attempt(watched.name, number)
            draft: Draft | None = None
            try:
                async with aclosing(watched.answer(request)) as items:
                    async for item in items:
                        if isinstance(item, Draft):
                            draft = item
                        elif request.min_confidence <= 0:
                            shown += item
                            yield Delta(item)
            except GroundwireError as error:
                failures.append(error)
                continue
            if draft is None:
                raise AssertionError("an attempt ends with a draft or raises")
            result = _judge(draft, request, watched.name, failures)
            if shown and shown != result.answer:
                yield Reset("the answer was corrected")
                shown = ""
            if not shown and result.answer:
                yield Delta(result.answer)
            yield Final(result)
            return
        raise _nobody_answered(failures)

    def list_endpoints(self) -> list[EndpointStatus]:
        """How every endpoint is, in the configured order."""
        return [watched.status() for watched in self._watched]

    async def close(self) -> None:
        """Close every endpoint, also when closing one of them fails; the first failure is raised."""
        outcomes = await asyncio.gather(*(watched.close() for watched in self._watched), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome


def _judge(
    draft: Draft, request: GenerationRequest, endpoint: str, failures: Sequence[GroundwireError]
) -> GenerationResult:
    # min/max also turn a NaN into 0: an endpoint's number is not trusted to be one.
    confidence = min(1.0, max(0.0, draft.confidence))
    low = not draft.abstained and confidence < request.min_confidence
    warnings: tuple[Notice, ...] = ()
    if failures:
        count = "one endpoint" if len(failures) == 1 else f"{len(failures)} endpoints"
        warnings = (Notice("ENDPOINT_FAILOVER", f"{count} failed before this one answered"),)
    return GenerationResult(
        answer=LOW_CONFIDENCE if low else draft.answer,
        citations=() if low else draft.citations,
        confidence=confidence,
        abstained=draft.abstained or low,
        low_confidence=low,
        endpoint=endpoint,
        usage=draft.usage,
        warnings=warnings,
    )


def _nobody_answered(failures: Sequence[GroundwireError]) -> Unavailable:
    waits = [error.retry_after for error in failures if isinstance(error, Unavailable | ResourceExhausted)]
    error = Unavailable("no endpoint answered", reason="NO_ENDPOINT_ANSWERED", retry_after=min(waits, default=1.0))
    error.__cause__ = failures[-1]
    return error


class _Watched:
    """An endpoint with what is known about it: the one place where the outcome of every call is recorded."""

    def __init__(self, endpoint: AnswerEndpoint, clock: Callable[[], float], limits: AttemptLimits) -> None:
        self._endpoint = endpoint
        self._clock = clock
        self._limits = limits
        self._in_flight = 0
        self._latency: float | None = None
        self._failure = ""

    @property
    def name(self) -> str:
        return self._endpoint.name

    async def answer(self, request: GenerationRequest) -> AsyncGenerator[str | Draft, None]:
        """The endpoint's items within the limits; every failure is a GroundwireError, and recorded.

        A caller that goes away says nothing about the endpoint: then nothing is recorded.
        """
        self._in_flight += 1
        waited = 0.0
        started = False
        try:
            async with aclosing(self._endpoint.answer(request.query, request.passages, request.max_tokens)) as items:
                while True:
                    began = self._clock()
                    item = await self._next(items, waited, started)
                    waited += self._clock() - began
                    if isinstance(item, Draft):
                        break
                    started = True
                    if item:
                        yield item
            self._record_success(waited)
            yield item
        except GroundwireError as error:
            self._record_failure(error.message)
            raise
        except Exception as error:
            # A defect of an endpoint must not take the answer away that another one can give; it is logged without
            # its message, which may hold anything.
            _log.error("endpoint %s failed unexpectedly: %s", self.name, type(error).__name__)
            self._record_failure("failed unexpectedly")
            raise Unavailable("the endpoint failed unexpectedly") from error
        finally:
            self._in_flight -= 1

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

    def status(self) -> EndpointStatus:
        return EndpointStatus(
            name=self.name,
            kind=self._endpoint.kind,
            model=self._endpoint.model,
            healthy=not self._failure,
            in_flight=self._in_flight,
            latency=self._latency or 0.0,
            error_message=self._failure,
        )

    async def close(self) -> None:
        await self._endpoint.close()

    def _record_success(self, seconds: float) -> None:
        self._failure = ""
        old = seconds if self._latency is None else self._latency
        self._latency = old + _LATENCY_WEIGHT * (seconds - old)

    def _record_failure(self, words: str) -> None:
        self._failure = words or "failed"
