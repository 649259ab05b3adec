"""Generation: one answer from several endpoints, as a stream that never mixes two texts. Pure.

A stream is a sequence of events; :func:`fold` says what a client shows after each. Two texts are never
concatenated: what a failed attempt showed is taken back by a Reset before the next Attempt begins.

    Attempt(a, 1)  Delta  Delta  (a fails)  Reset  Attempt(b, 2)  Delta  Final
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from services.corpus.coverage import Notice
from services.corpus.errors import FailedPrecondition, GroundwireError, ResourceExhausted, Unavailable
from services.generation.balancing import BalancingPolicy, LoadBalancer
from services.generation.endpoint import AttemptLimits, BreakerChanged, EndpointStatus, WatchedEndpoint
from services.generation.ports import AnswerEndpoint, Citation, Draft, Question, Unreached, Usage
from services.resilience.budget import RetryBudget
from services.resilience.endpoints import Clock, Role

LOW_CONFIDENCE = "The given sources do not answer this question with the confidence that was asked for."
"""What is shown in place of an answer whose confidence is below the request's ``min_confidence``."""

# An endpoint that was not reached, or refused the question at once: asking another one burdens nobody twice.
_DID_NOTHING = (Unreached, FailedPrecondition, ResourceExhausted)
_LONGEST_WINDOW = 60.0  # of the budget of retries, in seconds
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GenerationRequest(Question):
    """A question and the passages, best first, that may answer it."""

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


class Generator:
    """Writes answers over several endpoints.

    ``clock`` gives monotonic seconds. The endpoints stay with the caller until :meth:`close`. ``on_breaker`` is told
    when an endpoint's circuit breaker changes.
    """

    def __init__(
        self,
        endpoints: Sequence[AnswerEndpoint],
        clock: Clock,
        limits: AttemptLimits | None = None,
        *,
        policy: BalancingPolicy | None = None,
        on_breaker: BreakerChanged | None = None,
    ) -> None:
        names = [endpoint.name for endpoint in endpoints]
        if not names or len(set(names)) != len(names):
            raise ValueError("at least one endpoint is needed, each with a name of its own")
        limits, policy = limits or AttemptLimits(), policy or BalancingPolicy()
        self._watched = [
            WatchedEndpoint(endpoint, policy.roles.get(endpoint.name, Role.PRIMARY), clock, limits, on_breaker)
            for endpoint in endpoints
        ]
        self._balancer = LoadBalancer(self._watched, policy.balancing)
        self._retries = RetryBudget(
            ratio=policy.retry_ratio,
            floor=policy.floor(len(names)),
            # Questions that are still being answered count.
            window=min(limits.total, _LONGEST_WINDOW),
            clock=clock,
        )

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
            Unavailable: Every endpoint failed, or as many as the budget of retries allows (NO_ENDPOINT_ANSWERED); what
                was shown until then is void.
        """
        failures: list[GroundwireError] = []
        tried: list[WatchedEndpoint] = []
        shown = ""
        self._retries.call()
        while (watched := self._next(tried, failures)) is not None:
            # Held from here on: who is chosen next must know of this call, although it has not begun yet.
            with watched.call() as call:
                if shown:
                    yield Reset(f"endpoint {tried[-1].name} failed")
                    shown = ""
                tried.append(watched)
                yield Attempt(watched.name, len(tried))
                draft: Draft | None = None
                try:
                    async with aclosing(call.answer(request)) as items:
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
        return self._balancer.statuses()

    async def close(self) -> None:
        """Close every endpoint, also when closing one of them fails; the first failure is raised."""
        outcomes = await asyncio.gather(*(watched.close() for watched in self._watched), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    def _next(self, tried: Sequence[WatchedEndpoint], failures: Sequence[GroundwireError]) -> WatchedEndpoint | None:
        """Whom to ask next; None when everybody was asked, or asking more would burden endpoints too much."""
        if len(tried) == len(self._watched):
            return None
        if failures and not isinstance(failures[-1], _DID_NOTHING) and not self._retries.spend():
            _log.warning("no further endpoint is asked: too many questions needed a second one lately")
            return None
        return self._balancer.choose(tried)


def _judge(
    draft: Draft, request: GenerationRequest, endpoint: str, failures: Sequence[GroundwireError]
) -> GenerationResult:
    # min/max also turn a NaN into 0: an endpoint's number is not trusted to be one.
    confidence = min(1.0, max(0.0, draft.confidence))
    low = not draft.abstained and confidence < request.min_confidence
    warnings = () if low or draft.abstained else draft.notices
    if failures:
        count = "one endpoint" if len(failures) == 1 else f"{len(failures)} endpoints"
        warnings = (Notice("ENDPOINT_FAILOVER", f"{count} failed before this one answered"), *warnings)
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
    # 0 is that of an endpoint that does not say.
    retry_after = min((wait for wait in waits if wait > 0), default=1.0)
    error = Unavailable("no endpoint answered", reason="NO_ENDPOINT_ANSWERED", retry_after=retry_after)
    error.__cause__ = failures[-1]
    return error
