"""Passages, citations and generations for the tests of the query service."""

from __future__ import annotations

from collections.abc import Sequence

from services.corpus.coverage import Coverage, StoreCoverage, StoreState
from services.corpus.principal import Caller
from services.query.ports import Attempt, Citation, Delta, Found, FoundPassage, GenerationStep, Reset, Written
from services.query.query import Step

ALICE = Caller("acme", "alice")
COVERAGE = Coverage((StoreCoverage("one", StoreState.ANSWERED, 3, 0.25),))
# Where the passages come from: offsets of sources point into these.
TEXTS = {
    "garage": "Intro. The garage has 38 parking spaces. It opens at six.",
    "canteen": "Lunch costs 4.50 euros. 🜁 Soup is free.",
}
STARTS = {"garage": 7, "canteen": 0}


def passage(document_id: str, score: float = 0.5) -> FoundPassage:
    """The passage of a document that starts at ``STARTS``."""
    return FoundPassage(
        chunk_id=f"{document_id}#1.0",
        collection="default",
        document_id=document_id,
        version=1,
        title=document_id.title(),
        uri=f"https://intranet/{document_id}",
        text=TEXTS[document_id][STARTS[document_id] :],
        headings=("Services",),
        start=STARTS[document_id],
        page=2,
        score=score,
        stores=("one",),
    )


FOUND = Found((passage("garage", 0.9), passage("canteen", 0.4)), COVERAGE)


def written(answer: str, *citations: Citation, abstained: bool = False, low_confidence: bool = False) -> Written:
    """The end of a generation by the endpoint ``llm``."""
    return Written(
        answer=answer,
        citations=citations,
        confidence=0.75,
        abstained=abstained,
        low_confidence=low_confidence,
        endpoint="llm",
        input_tokens=20,
        output_tokens=5,
    )


# The first endpoint breaks off, the second one answers.
STEPS: tuple[GenerationStep, ...] = (
    Attempt("first", 1),
    Delta("The garage"),
    Reset("the endpoint stopped answering"),
    Attempt("llm", 2),
    Delta("It has 38 "),
    Delta("spaces. [1]"),
    written("It has 38 spaces. [1]", Citation("[1]", 0, 0, 33)),
)


def fold(steps: Sequence[Step | GenerationStep]) -> str:
    """What a client shows that applies deltas and resets in order."""
    shown = ""
    for step in steps:
        match step:
            case Delta(text):
                shown += text
            case Reset():
                shown = ""
    return shown
