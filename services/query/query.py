"""Answering: find passages, have them turned into an answer, and say where every part of it comes from."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from enum import Enum

from services.corpus.coverage import Coverage, Notice
from services.corpus.errors import PermissionDenied, Unavailable
from services.corpus.filter import Filter
from services.corpus.principal import Caller
from services.query.ports import (
    Attempt,
    Delta,
    Found,
    FoundPassage,
    Generation,
    GenerationStep,
    Reset,
    Retrieval,
    Search,
    Written,
)
from services.query.sources import CitedSource, cited_sources, offered_sources
from services.query.watch import SourceWatch

NOTHING_FOUND = "I found nothing about this in the documents that you may read."
SOURCES_WITHDRAWN = "Documents were withdrawn while the answer was written. Ask again."
CHECK_INTERVAL = 1.0
"""While an answer is written, seconds after which its sources are checked again."""
# Whoever changes readers faster than answers are written would otherwise keep an endpoint busy for ever.
_MOST_RESTARTS = 2


class Abstention(Enum):
    """Why no answer is given."""

    NOTHING_FOUND = "nothing-found"
    NOT_SUPPORTED = "not-supported"
    LOW_CONFIDENCE = "low-confidence"
    SOURCES_WITHDRAWN = "sources-withdrawn"


_ABSTENTIONS = {Abstention.NOTHING_FOUND: NOTHING_FOUND, Abstention.SOURCES_WITHDRAWN: SOURCES_WITHDRAWN}


@dataclass(frozen=True)
class Question:
    """What a caller asks; limits have been checked and defaults filled in."""

    query: str
    request_id: str
    user_id: str = ""
    session_id: str = ""
    filter_: Filter | None = None
    max_tokens: int = 1000
    collections: tuple[str, ...] = ()
    top_k: int = 8
    min_confidence: float = 0.0


@dataclass(frozen=True)
class Answer:
    """The end of a question. ``processing_time`` is in seconds."""

    text: str
    sources: tuple[CitedSource, ...]
    confidence: float
    processing_time: float
    request_id: str
    abstention: Abstention | None
    coverage: Coverage
    endpoint: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    notices: tuple[Notice, ...] = ()


@dataclass(frozen=True)
class Retrieved:
    """What the answer is built on: the first step of a streamed answer, and again after sources were withdrawn."""

    sources: tuple[CitedSource, ...]
    coverage: Coverage


Step = Retrieved | Attempt | Delta | Reset | Answer


class Answerer:
    """The query domain. Safe to use concurrently."""

    def __init__(
        self, retrieval: Retrieval, generation: Generation, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._retrieval = retrieval
        self._generation = generation
        self._clock = clock

    async def answer(self, caller: Caller, question: Question) -> Answer:
        """The whole answer at once; raises what :meth:`stream` raises."""
        async with aclosing(self.stream(caller, question)) as steps:
            async for step in steps:
                if isinstance(step, Answer):
                    return step
        raise Unavailable("the answer broke off")

    async def stream(self, caller: Caller, question: Question) -> AsyncGenerator[Step, None]:
        """The steps of an answer: Retrieved, then attempts, deltas and resets, then one Answer.

        Applying deltas and resets in order gives exactly ``Answer.text``. The sources are checked before anybody
        writes from them, once in ``CHECK_INTERVAL`` while they do, and before the Answer. When one is withdrawn, a
        Reset and a Retrieved with the remaining ones follow, and the answer is written anew from those.

        Raises PermissionDenied when the question names another user than the caller, Unavailable when the sources
        cannot be checked, and what retrieval and generation raise.
        """
        if question.user_id and question.user_id != caller.subject:
            raise PermissionDenied("user_id is not the caller; leave it empty or send the token's subject")
        started = self._clock()
        search = Search(question.query, question.filter_, question.collections, question.top_k)
        found = await self._retrieval.retrieve(search)
        watch = SourceWatch(self._retrieval, found.passages, clock=self._clock, interval=CHECK_INTERVAL)
        yield Retrieved(offered_sources(found.passages), found.coverage)
        attempts = restarts = 0
        while watch.passages and restarts <= _MOST_RESTARTS:
            async with aclosing(self._write(question, watch, attempts)) as steps:
                async for step in steps:
                    if isinstance(step, Written):
                        yield self._answer(question, found, watch.passages, step, started)
                        return
                    if isinstance(step, Attempt):
                        attempts = step.number
                    yield step
            restarts += 1
            yield Reset("a source was withdrawn")
            # The client may have taken its time with that.
            while not await watch.all_readable():
                watch.go_on()
            given_up = restarts > _MOST_RESTARTS
            yield Retrieved(() if given_up else offered_sources(watch.passages), found.coverage)
        abstention = Abstention.SOURCES_WITHDRAWN if watch.passages else Abstention.NOTHING_FOUND
        yield Delta(_ABSTENTIONS[abstention])
        yield self._nothing(question, found, abstention, started)

    async def close(self) -> None:
        """Release connections."""
        await self._retrieval.close()
        await self._generation.close()

    async def _write(
        self, question: Question, watch: SourceWatch, attempts: int
    ) -> AsyncGenerator[GenerationStep, None]:
        """The steps of writing from the watched passages, up to the first check that finds one withdrawn.

        Written comes last, and only after a check. Attempts count on from ``attempts``.
        """
        if not await watch.all_readable():
            return
        writing = self._generation.write(
            question.query, watch.passages, max_tokens=question.max_tokens, min_confidence=question.min_confidence
        )
        written: Written | None = None
        async with aclosing(writing) as steps:
            # Read to the end, not just to the last word: leaving earlier would cancel a call that went well.
            async for step in steps:
                if isinstance(step, Written):
                    written = step
                elif not await watch.all_readable():
                    return
                else:
                    yield replace(step, number=attempts + step.number) if isinstance(step, Attempt) else step
        if written is None:
            raise Unavailable("the answer broke off")
        if await watch.all_readable(now=True):
            yield written

    def _nothing(self, question: Question, found: Found, abstention: Abstention, started: float) -> Answer:
        return Answer(
            text=_ABSTENTIONS[abstention],
            sources=(),
            confidence=0.0,
            processing_time=self._clock() - started,
            request_id=question.request_id,
            abstention=abstention,
            coverage=found.coverage,
            notices=(*found.notices, *_session_notice(question)),
        )

    def _answer(
        self,
        question: Question,
        found: Found,
        passages: Sequence[FoundPassage],
        written: Written,
        started: float,
    ) -> Answer:
        abstention = None
        if written.low_confidence:
            abstention = Abstention.LOW_CONFIDENCE
        elif written.abstained:
            abstention = Abstention.NOT_SUPPORTED
        return Answer(
            text=written.answer,
            sources=cited_sources(passages, written.citations),
            confidence=written.confidence,
            processing_time=self._clock() - started,
            request_id=question.request_id,
            abstention=abstention,
            coverage=found.coverage,
            endpoint=written.endpoint,
            input_tokens=written.input_tokens,
            output_tokens=written.output_tokens,
            notices=(*found.notices, *written.notices, *_session_notice(question)),
        )


def _session_notice(question: Question) -> tuple[Notice, ...]:
    if not question.session_id:
        return ()
    return (Notice("SESSION_NOT_KEPT", "sessions are not kept yet: this question was answered on its own"),)
