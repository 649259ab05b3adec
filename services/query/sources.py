"""The sources of an answer: what its markers stand for, and what else was found. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.query.ports import Citation, FoundPassage

# A snippet longer than this says less than its first supporting sentence alone.
_LONGEST_SNIPPET = 600


@dataclass(frozen=True)
class CitedSource:
    """One source: ``snippet`` stands at ``start``..``end`` of the document's text (offsets in code points)."""

    marker: str
    passage: FoundPassage
    snippet: str
    start: int
    end: int
    cited: bool


def cited_sources(passages: Sequence[FoundPassage], citations: Sequence[Citation]) -> tuple[CitedSource, ...]:
    """Cited passages first, in the order in which the answer cites them, then the others as they were found."""
    by_place: dict[int, list[Citation]] = {}
    for citation in citations:
        # A citation that points nowhere would show words that no document has.
        if _points_into(citation, passages):
            by_place.setdefault(citation.place, []).append(citation)
    cited = [_cited(passages[place], spans) for place, spans in by_place.items()]
    offered = [source for place, source in enumerate(offered_sources(passages)) if place not in by_place]
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


def offered_sources(passages: Sequence[FoundPassage]) -> tuple[CitedSource, ...]:
    """Every passage as it was found, cited by nothing yet."""
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
