"""Extraction: choosing the sentences that answer a question, and how sure to be of them. Pure; the scores come in.

1. :func:`candidates` cuts the passages into sentences and keeps the few that may answer, by weighted term overlap and
   the passage's rank, because the cross-encoder that judges them reads only some tens of sentences a second. Sentences
   about another year, place, version or the like than the question's are left out: they would score as well.
2. The cross-encoder scores each alone, and the best few again in their context (title, headings and the sentence
   before), because a sentence often names its subject only there. Alone finds the right sentence, in context tells
   better whether it answers at all. The title helps both, so "alone" means with the document's title before it.
3. :class:`Judged` makes a calibrated probability of that, :func:`choose` and :func:`compose` an answer of up to three
   sentences.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice

from services.corpus.terms import analyze
from services.generation.blocks import BlockKind
from services.generation.ports import Citation, Passage
from services.generation.sentences import MAX_SENTENCE, Sentence, split_sentences
from services.generation.specifics.check import Background, check
from services.generation.specifics.facts import Facts
from services.generation.specifics.question import Question

_NOT_AN_ANSWER = (BlockKind.HEADING, BlockKind.TABLE_HEADER)
_CONTEXT_WEIGHT = 0.4  # of a question's term that only the title, the headings or the sentence before have
_RANK_WEIGHT = 0.3


@dataclass(frozen=True, slots=True)
class Candidate:
    """A sentence that may answer.

    ``source`` is the passage's index in the request; ``start`` and ``end`` are what is cited of its text; ``shown``
    is how the answer would show it; ``context`` is what stands above it, and ``above`` the same in parts, the nearest
    first; ``doubt`` is what speaks against it because neither has all of the question's names and values, in logits;
    ``lacking`` are those that its whole passage does not have.
    """

    source: int
    start: int
    end: int
    shown: str
    context: str
    doubt: float = 0.0
    above: tuple[str, ...] = ()
    lacking: tuple[str, ...] = ()


def candidates(question: str, passages: Sequence[Passage], limit: int) -> list[Candidate]:
    """The ``limit`` sentences of ``passages`` that most likely answer, the likeliest first."""
    wanted = set(analyze(question))
    found: list[tuple[Candidate, set[str], set[str]]] = []
    for source, passage in enumerate(passages):
        pieces = split_sentences(passage.text)
        for index, piece in enumerate(pieces):
            if piece.kind in _NOT_AN_ANSWER or piece.readable.endswith("?"):
                continue
            candidate = _candidate(source, passage, pieces, index)
            own = wanted.intersection(analyze(candidate.shown))
            around = wanted.intersection(analyze(candidate.context))
            found.append((candidate, own, around))
    # Terms that few sentences have tell more; counted here, since the corpus' own statistics are not at hand.
    counts = Counter(term for _, own, _ in found for term in own)
    weights = {term: math.log(1.0 + len(found) / (1.0 + counts[term])) for term in wanted}
    total = sum(weights.values()) or 1.0

    def likelihood(entry: tuple[Candidate, set[str], set[str]]) -> float:
        candidate, own, around = entry
        overlap = sum(weights[term] for term in own)
        overlap += _CONTEXT_WEIGHT * sum(weights[term] for term in around - own)
        return overlap / total + _RANK_WEIGHT / (1.0 + candidate.source / 2.0)

    found.sort(key=likelihood, reverse=True)
    return list(islice(_about_the_same(question, passages, (candidate for candidate, _, _ in found)), limit))


_MOST_CHECKED = 200  # sentences that are held against the question; each costs about a third of a millisecond


def _about_the_same(question: str, passages: Sequence[Passage], found: Iterable[Candidate]) -> Iterator[Candidate]:
    """Those of ``found`` that do not speak of a neighbour of what is asked about, with what they lack."""
    asked = Question(question)
    read = lru_cache(maxsize=None)(Facts.of)  # titles and headings come again
    backgrounds: dict[int, Background] = {}
    for candidate in islice(found, _MOST_CHECKED):
        passage = passages[candidate.source]
        if candidate.source not in backgrounds:
            backgrounds[candidate.source] = Background(asked, Facts.of(f"{passage.title}\n{passage.text}"))
        end = len(passage.title) + 1 + candidate.end
        above = [read(text) for text in candidate.above]
        finding = check(asked, Facts.of(candidate.shown), above, backgrounds[candidate.source], end)
        if not finding.neighbour:
            doubt = _doubt(finding.far_names, finding.far_values)
            yield replace(candidate, doubt=doubt, lacking=finding.lacking)


def _candidate(source: int, passage: Passage, pieces: Sequence[Sentence], index: int) -> Candidate:
    piece = pieces[index]
    end = piece.end
    shown = piece.readable
    before = ""
    if piece.lead >= 0:
        before = pieces[piece.lead].readable
        if piece.kind in (BlockKind.LIST_ITEM, BlockKind.CODE) and len(before) + len(shown) < MAX_SENTENCE:
            shown = f"{before} {shown}"
            before = ""
    if shown.endswith(":"):
        # A sentence that introduces a list says nothing without it.
        for number in range(index + 1, len(pieces)):  # no slice: a copy for each such sentence is quadratic
            item = pieces[number]
            if item.lead != index or len(shown) + len(item.readable) > MAX_SENTENCE:
                break
            shown = f"{shown}{';' if end != piece.end else ''} {item.readable.rstrip(';,.')}"
            end = item.end
    elif piece.lead < 0 and index and pieces[index - 1].paragraph == piece.paragraph:
        before = pieces[index - 1].readable
    if piece.kind is not BlockKind.CODE:
        shown = _closed(shown)
    context = " ".join(_closed(part) for part in (passage.title, *piece.headings[-1:], before) if part)
    above = tuple(part for part in (before, *reversed(piece.headings), passage.title) if part)
    return Candidate(source, piece.start, end, shown, context, above=above)


def _closed(text: str) -> str:
    """``text`` with a full stop where a list item, a table row or a heading has none."""
    if text[-1] in ";,":
        return text[:-1] + "."
    return text if text[-1] in ".!?:…。！？\"'”’)»" and text[-1] != ")" else f"{text}."


# --- how sure -------------------------------------------------------------------------------------------------------

# Logistic regression on 240 questions of XQuAD-en (https://github.com/google-deepmind/xquad), each asked three times:
# with its paragraph among six, without it, and (weighted by a half) with only the sentences taken out that answer.
_ALONE, _IN_CONTEXT, _BIAS = 0.21, 0.29, -1.58
_MISSING_NAME, _MISSING_NUMBER = 0.27, 0.95
_MOST_MISSING = 3  # German writes every noun like a name
DEFAULT_THRESHOLD = 0.35
"""The confidence below which the extractive endpoint abstains."""


def _doubt(names: int, numbers: int) -> float:
    return _MISSING_NAME * min(names, _MOST_MISSING) + _MISSING_NUMBER * min(numbers, _MOST_MISSING)


@dataclass(frozen=True, slots=True)
class Judged:
    """A candidate with its logits: alone (with its document's title), and in context."""

    candidate: Candidate
    alone: float
    in_context: float

    @property
    def fit(self) -> float:
        """What candidates are ranked by."""
        return (1.0 - CONTEXT_SHARE) * self.alone + CONTEXT_SHARE * self.in_context

    @property
    def confidence(self) -> float:
        """The calibrated probability (0 to 1) that it answers the question."""
        logit = _ALONE * self.alone + _IN_CONTEXT * self.in_context - self.candidate.doubt + _BIAS
        return 1.0 / (1.0 + math.exp(-logit))


CONTEXT_SHARE = 0.3

# --- the answer -----------------------------------------------------------------------------------------------------

_MOST_SENTENCES = 3
_MARGIN = 1.0  # logits below the best at which another sentence still belongs to the answer
_SAME = 0.8


@dataclass(frozen=True, slots=True)
class Statement:
    """One sentence of the answer with its marker, and what it cites."""

    text: str
    citation: Citation


def choose(judged: Sequence[Judged], threshold: float) -> list[Candidate]:
    """One to three sentences that answer: the best, and those nearly as good that say something else.

    They come grouped by passage, the best one's first, and in the passage's order, so that they read on.
    """
    ranked = sorted(judged, key=lambda entry: entry.fit, reverse=True)
    chosen: list[Candidate] = []
    for entry in ranked:
        # One that misses more of the question's names and numbers speaks of another year, place or product.
        good = (
            entry.fit >= ranked[0].fit - _MARGIN
            and entry.confidence >= threshold
            and entry.candidate.doubt <= ranked[0].candidate.doubt
        )
        if chosen and (not good or any(_repeats(entry.candidate, other) for other in chosen)):
            continue
        chosen.append(entry.candidate)
        if len(chosen) == _MOST_SENTENCES:
            break
    order = list(dict.fromkeys(candidate.source for candidate in chosen))
    return sorted(chosen, key=lambda candidate: (order.index(candidate.source), candidate.start))


def _repeats(one: Candidate, other: Candidate) -> bool:
    if one.source == other.source and one.start < other.end and other.start < one.end:
        return True
    first, second = set(analyze(one.shown)), set(analyze(other.shown))
    # Two sentences that differ in a number say different things, however alike they are.
    if _numbers(first) != _numbers(second):
        return False
    return len(first & second) >= _SAME * len(first | second)


def _numbers(terms: set[str]) -> set[str]:
    return {term for term in terms if any(character.isdigit() for character in term)}


def difference(chosen: Sequence[Candidate]) -> str:
    """What comes before an answer whose sources do not have all that the question names; empty if they do."""
    lacking = [part for part in chosen[0].lacking if all(part in candidate.lacking for candidate in chosen)]
    if not lacking:
        return ""
    return f"The given sources do not answer this for {' and '.join(lacking)}. They say: "


def compose(chosen: Sequence[Candidate], passages: Sequence[Passage], most_characters: int) -> list[Statement]:
    """The statements whose texts, joined, are the answer: at least one, at most ``most_characters`` long together.

    The first one says before it what the sources lack of the question. A first sentence that is too long is cut between
    words.
    """
    statements: list[Statement] = []
    before = difference(chosen)
    room = most_characters - len(before)
    for candidate in chosen:
        marker = f"[{candidate.source + 1}]"
        text = f"{candidate.shown} {marker}"
        if statements:
            text = f" {text}"
        elif len(text) > room:
            cut = candidate.shown[: max(1, room - len(marker) - 2)]
            text = f"{cut.rpartition(' ')[0] or cut}… {marker}"
        if statements and len(text) > room:
            break
        room -= len(text)
        citation = Citation(marker, passages[candidate.source].passage_id, candidate.start, candidate.end)
        statements.append(Statement(before + text, citation))
        before = ""
    return statements
