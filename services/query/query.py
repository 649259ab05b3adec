"""Answering: find passages, have them turned into an answer, and say where every part of it comes from."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from enum import Enum

from services.corpus.coverage import Coverage, Notice
from services.corpus.errors import PermissionDenied, Unavailable
from services.corpus.filter import Filter
from services.corpus.principal import Caller
from services.query.ports import (
    Attempt,
    Citation,
    Delta,
    Found,
    FoundPassage,
    Generation,
    Reset,
    Retrieval,
    Search,
    Written,
)

NOTHING_FOUND = "I found nothing about this in the documents that you may read."
# A snippet longer than this says less than its first supporting sentence alone.
_LONGEST_SNIPPET = 600


class Abstention(Enum):
    """Why no answer is given."""

    NOTHING_FOUND = "nothing-found"
    NOT_SUPPORTED = "not-supported"
    LOW_CONFIDENCE = "low-confidence"


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
class CitedSource:
    """One source: ``snippet`` stands at ``start``..``end`` of the document's text (offsets in code points)."""

    marker: str
    passage: FoundPassage
    snippet: str
    start: int
    end: int
    cited: bool


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
    """Retrieval has finished; the first step of a streamed answer."""

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

        Applying deltas and resets in order gives exactly ``Answer.text``. Raises PermissionDenied when the
        question names another user than the caller, and what retrieval and generation raise.
        """
        if question.user_id and question.user_id != caller.subject:
            raise PermissionDenied("user_id is not the caller; leave it empty or send the token's subject")
        started = self._clock()
        search = Search(question.query, question.filter_, question.collections, question.top_k)
        found = await self._retrieval.retrieve(search)
        yield Retrieved(_offered(found.passages), found.coverage)
        if not found.passages:
            yield Delta(NOTHING_FOUND)
            yield self._nothing_found(question, found, started)
            return
        writing = self._generation.write(
            question.query,
            found.passages,
            max_tokens=question.max_tokens,
            min_confidence=question.min_confidence,
        )
        written: Written | None = None
        async with aclosing(writing) as steps:
            # Read to the end, not just to the last word: leaving earlier would cancel a call that went well.
            async for step in steps:
                if isinstance(step, Written):
                    written = step
                else:
                    yield step
        if written is None:
            raise Unavailable("the answer broke off")
        yield self._answer(question, found, written, started)

    async def close(self) -> None:
        """Release connections."""
        await self._retrieval.close()
        await self._generation.close()

    def _nothing_found(self, question: Question, found: Found, started: float) -> Answer:
        return Answer(
            text=NOTHING_FOUND,
            sources=(),
            confidence=0.0,
            processing_time=self._clock() - started,
            request_id=question.request_id,
            abstention=Abstention.NOTHING_FOUND,
            coverage=found.coverage,
            notices=(*found.notices, *_session_notice(question)),
        )

    def _answer(self, question: Question, found: Found, written: Written, started: float) -> Answer:
        abstention = None
        if written.low_confidence:
            abstention = Abstention.LOW_CONFIDENCE
        elif written.abstained:
            abstention = Abstention.NOT_SUPPORTED
        return Answer(
            text=written.answer,
            sources=cited_sources(found.passages, written.citations),
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


def cited_sources(passages: Sequence[FoundPassage], citations: Sequence[Citation]) -> tuple[CitedSource, ...]:
    """Cited passages first, in the order in which the answer cites them, then the others as they were found."""
    by_place: dict[int, list[Citation]] = {}
    for citation in citations:
        # A citation that points nowhere would show words that no document has.
        if _points_into(citation, passages):
            by_place.setdefault(citation.place, []).append(citation)
    cited = [_cited(passages[place], spans) for place, spans in by_place.items()]
    offered = [source for place, source in enumerate(_offered(passages)) if place not in by_place]
    return (*cited, *offered)


def _points_into(citation: Citation, passages: Sequence[FoundPassage]) -> bool:
    if not 0 <= citation.place < len(passages):
        return False
    return 0 <= citation.start < citation.end <= len(passages[citation.place].text)


def _cited(passage: FoundPassage, spans: Sequence[Citation]) -> CitedSource:
    start, end = min(span.start for span in spans), max(span.end for span in spans)
    if end - start > _LONGEST_SNIPPET:
        start, end = spans[0].start, spans[0].end
    return CitedSource(
        spans[0].marker, passage, passage.text[start:end], passage.start + start, passage.start + end, cited=True
    )


def _offered(passages: Sequence[FoundPassage]) -> tuple[CitedSource, ...]:
    return tuple(
        CitedSource(
            f"[{place}]",
            passage,
            passage.text[:_LONGEST_SNIPPET],
            passage.start,
            passage.start + min(len(passage.text), _LONGEST_SNIPPET),
            cited=False,
        )
        for place, passage in enumerate(passages, start=1)
    )


def _session_notice(question: Question) -> tuple[Notice, ...]:
    if not question.session_id:
        return ()
    return (Notice("SESSION_NOT_KEPT", "sessions are not kept yet: this question was answered on its own"),)
