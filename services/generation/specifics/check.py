"""Check: whether a sentence speaks of what a question asks about, or of a neighbour. Pure, linear in the texts.

A neighbour is another value of the same kind: 2025 for 2026, Monday for Tuesday, version 3.2 for 3.3, Tier B for A, the
Berlin office for the Munich office, what is required for what is not. Relevance scores hardly see the difference, since
everything else agrees; so it is decided here, by reading both texts, and a sentence about a neighbour is no answer.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from services.corpus.terms import analyze
from services.generation.specifics import words
from services.generation.specifics.facts import Facts, carries_meaning
from services.generation.specifics.names import has_initials, has_name, substituted
from services.generation.specifics.question import Question
from services.generation.specifics.relation import Relation, relation
from services.generation.specifics.values import Span

_TIMES = frozenset(["year", "month", "day", "weekday", "season", "quarter", "time"])
_MAY_LACK = _TIMES | {"version", "identifier", "label", "number"}
_STRICT_DIMENSIONS = frozenset(["currency", "length", "mass", "volume", "temperature", "pressure", "data", "power"])
_NUMERIC = frozenset(["number", "code", "clock", "hour", "ordinal", "decade", "version"])
_HARMLESS_NEGATIONS = words.listed("only nur later more less fewer until mehr just longer später weniger länger")


@dataclass(frozen=True, slots=True)
class Finding:
    """What speaks against a sentence.

    ``neighbour`` says in a few words why the sentence is no answer at all; empty when it may be one. ``lacking`` are
    the question's words for values and names that neither the sentence, nor what stands above it, nor the passage up to
    there has. ``far_values`` and ``far_names`` count those that neither the sentence has nor what stands above it.
    """

    neighbour: str = ""
    lacking: tuple[str, ...] = ()
    far_values: int = 0
    far_names: int = 0


class Background:
    """A passage, from the sight of one question: what it says, and from where on. Read once for all of its sentences."""

    def __init__(self, question: Question, facts: Facts) -> None:
        self.facts = facts
        self._question = question
        self._since: dict[Span, float] = {}

    def has(self, value: Span, end: int) -> bool:
        """Whether ``value`` stands before ``end``."""
        if value not in self._since:
            self._since[value] = self._find(value)
        return self._since[value] <= end

    @cached_property
    def lacking_names(self) -> list[str]:
        """The names of the question that the passage does not have."""
        return [
            self._question.text[group[0].start : group[-1].end]
            for group in self._question.name_groups
            if not any(has_name(self.facts, name) for name in group) and not has_initials(self.facts, group)
        ]

    def _find(self, value: Span) -> float:
        """The least offset up to which the passage must be read to find ``value``; infinite if it is not there."""
        if relation(value, self.facts) is not Relation.SAME:
            return math.inf
        ends = range(self.facts.length + 1)
        return bisect_left(ends, True, key=lambda end: relation(value, self.facts.until(end)) is Relation.SAME)


def check(question: Question, own: Facts, around: Sequence[Facts], background: Background, end: int) -> Finding:
    """Hold a sentence against ``question``.

    ``own`` are the facts of the sentence as it is shown; ``around`` those of what stands above it (the sentence before,
    headings, title), the nearest first; ``background`` is its passage, in which it ends at ``end``: what a text says
    only later, the sentence does not mean.
    """
    lacking: list[str] = []
    far = 0
    for value in question.values:
        found = _look(question, value, own, around)
        if found is Relation.OTHER:
            return Finding(f"another {value.kind[0]} than {question.words_of(value)}")
        if found is Relation.NOTHING and value.kind[0] in _MAY_LACK:
            far += 1
            if not background.has(value, end):
                lacking.append(question.words_of(value))
    if neighbour := _neighbour(question, own, around, background.facts):
        return Finding(neighbour)
    far_names = sum(not any(has_name(facts, name) for facts in (own, *around)) for name in question.names)
    lacking += background.lacking_names
    return Finding("", tuple(dict.fromkeys(lacking)), far, far_names)


def _look(question: Question, value: Span, own: Facts, around: Sequence[Facts]) -> Relation:
    """What the sentence says of ``value``, or, where it says nothing, what stands above it."""
    found = relation(value, own)
    if found is Relation.OTHER and _may_be_answer(question, value):
        # "When was the 2023 policy replaced?" is answered with another year, if the policy's own stands above.
        return Relation.SAME if any(relation(value, facts) is Relation.SAME for facts in around) else found
    for facts in around:
        if found is not Relation.NOTHING:
            return found
        found = relation(value, facts)
        if found is Relation.OTHER and value.kind[0] == "number":
            found = Relation.NOTHING  # numbers above a sentence count other things
    return found


def _may_be_answer(question: Question, value: Span) -> bool:
    if value.kind[0] in _TIMES:
        return question.asks_time
    return value.kind[0] == "number" and question.asks_number


def _neighbour(question: Question, own: Facts, around: Sequence[Facts], passage: Facts) -> str:
    if not _may_count(question, own):
        return "no number"
    if other := _qualifier(question, own, around):
        return other
    if _polarity_differs(question, own):
        return "the opposite"
    if replaced := substituted(question.facts, own, around, passage, german=question.german):
        return f"{replaced[1].text} instead of {replaced[0].text}"
    return ""


def _may_count(question: Question, own: Facts) -> bool:
    """Whether a sentence has a number of its own where the question asks how many."""
    if not question.asks_how_many:
        return True
    asked = {span.low for span in question.values}
    return any(
        (token.group in _NUMERIC and token.value not in asked)
        or token.lower in words.AMOUNTS
        or token.lower.partition("-")[0] in words.CARDINALS
        for token in own.tokens
    )


def _qualifier(question: Question, own: Facts, around: Sequence[Facts]) -> str:
    """What the sentence has in place of a unit, a rate or one of two opposites; empty if nothing."""
    for dimension, unit in question.facts.units:
        theirs = {other for group, other in own.units if group == dimension}
        if dimension in _STRICT_DIMENSIONS and theirs and unit not in theirs:
            return f"another {dimension} than {unit}"
    for rate in question.facts.rates:
        if own.rates and rate not in own.rates:
            return f"another rate than one a {rate}"
    for group, place in question.facts.opposites:
        for facts in (own, *around):
            places = {other for other_group, other in facts.opposites if other_group == group}
            if place in places:
                break
            if places:
                return "the opposite of a word"
    return ""


def _polarity_differs(question: Question, own: Facts) -> bool:
    """Whether one of the two denies what the other one says."""
    if question.negated:
        denies = own.negated or any(word in words.EXCLUSIONS or word.startswith(("un", "non")) for word in own.first)
        return not denies
    if not own.negated or question.closed or question.asks_number:
        return False
    for index, token in enumerate(own.tokens):
        if token.lower not in words.NEGATIONS or token.lower in ("without", "ohne"):
            continue
        behind = [other for other in own.tokens[index + 1 : index + 5] if other.group == "word"]
        if behind and behind[0].lower in _HARMLESS_NEGATIONS:
            continue
        denied = next((other for other in behind if carries_meaning(other)), None)
        if denied is not None and not question.facts.stems.isdisjoint(analyze(denied.text)):
            return True
    return False
