"""Names: whether a text has a name of a question, and whether it has another one in its place. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise

from services.corpus.terms import analyze
from services.generation.specifics import words
from services.generation.specifics.facts import Facts, carries_meaning, plain
from services.generation.specifics.tokens import Token, stem

_MOST_WORDS = 64  # of a question that are looked at
_MOST_ALIKE = 64  # words with the same beginning that are compared with a name
_SHORTEST_ALIKE = 4
_SHORTEST_MISSPELT = 6
_SHARED = 0.7
_PLACING = frozenset(["in", "aus", "bei", "von", "at", "from", "for", "of", "to"])


def has_name(facts: Facts, name: Token) -> bool:
    """Whether a text has ``name``, another form of it (German, Germany), or the words that it abbreviates."""
    word = plain(name.lower)
    if facts.has_word(word):
        return True
    if any(_alike(word, other) for other in islice(facts.words_like(word), _MOST_ALIKE)):
        return True
    if word in words.FORMS and any(facts.has_word(form) for form in words.FORMS_OF[words.FORMS[word]]):
        return True
    return _is_acronym(name, facts)


def has_initials(facts: Facts, names: Sequence[Token]) -> bool:
    """Whether a text has the initials of a name of several words: US for United States."""
    initials = "".join(name.lower[0] for name in names)
    forms = {initials, *words.FORMS_OF.get(words.FORMS.get(initials, ""), ())}
    return len(names) > 1 and any(facts.has_word(form) for form in forms)


def _alike(one: str, other: str) -> bool:
    """Whether two words are forms or spellings of one: Germany and German, Hannover and Hanover."""
    shorter, longer = sorted((one, other), key=len)
    if len(shorter) < _SHORTEST_ALIKE:
        return set(analyze(one)) == set(analyze(other))
    shared = next((at for at, (a, b) in enumerate(zip(shorter, longer, strict=False)) if a != b), len(shorter))
    if shared == len(shorter) or shared >= max(_SHORTEST_ALIKE, math.ceil(_SHARED * len(longer))):
        return True
    one_letter_more = len(longer) == len(shorter) + 1 and longer[shared + 1 :] == shorter[shared:]
    return len(shorter) >= _SHORTEST_MISSPELT and one_letter_more


def _is_acronym(name: Token, facts: Facts) -> bool:
    if not (name.text.isupper() and 2 <= len(name.text) <= 6):
        return False
    initials = "".join(
        token.text[0]
        for token in facts.tokens
        if token.group == "word" and token.text[0].isupper() and token.start < facts.end
    )
    return name.text in initials


def substituted(
    asked: Facts, own: Facts, around: Sequence[Facts], passage: Facts, *, german: bool
) -> tuple[Token, Token] | None:
    """A word of the question that the sentence lacks, and the one that the sentence has in its place.

    "In its place" means beside the same word: the Berlin office for the Munich office, Tier Basic for Tier Pro. A word
    that is no name counts if the passage has it beside that word elsewhere: it speaks of both.
    """
    for index, token in enumerate(asked.tokens[:_MOST_WORDS]):
        if not index or not carries_meaning(token) or token.kind is not None or token.lower in words.UNITS:
            continue
        if token.lower in words.LABEL_HEADS or has_name(own, token):
            continue
        near = any(has_name(facts, token) for facts in around)
        left = asked.tokens[index - 1]
        right = asked.tokens[index + 1] if index + 1 < len(asked.tokens) else None
        if token.text[0].isupper():
            others = _names_in_place(own, left, right, near=near, german=german)
        elif right is not None and not near and (plain(token.lower), stem(right.lower)) in passage.pairs:
            others = _modifiers(own, right)
        else:
            continue
        for other in others:
            if not asked.has_word(plain(other.lower)) and asked.stems.isdisjoint(analyze(other.text)):
                return token, other
    return None


def _names_in_place(own: Facts, left: Token, right: Token | None, *, near: bool, german: bool) -> Iterator[Token]:
    """The names in the sentence that have the neighbours ``left`` or ``right`` of one in the question.

    A preposition is a neighbour unless the name stands ``near``. In German, where every noun has a capital, a noun
    right before ("Standort Bremen") or a preposition without an article ("in Bremen") tells a name.
    """
    found = own.tokens
    for index, token in enumerate(found):
        if not carries_meaning(token) or token.kind is not None or not token.text[0].isupper():
            continue
        before = found[index - 1] if index else None
        after = found[index + 1] if index + 1 < len(found) else None
        if _is_cell(found, index):  # "Tier: Basic" has Basic beside Tier, on either side
            before = found[index - 2]
            after = before if right is not None and _same_word(before, right) else after
        if right is not None and after is not None and carries_meaning(right) and _same_word(after, right):
            if not german or token.lower.endswith("er"):
                yield token
        elif before is not None and _same_word(before, left):
            noun = carries_meaning(left) and (not german or left.text[0].isupper())
            if noun or (left.lower in _PLACING and not near):
                yield token


def _is_cell(found: Sequence[Token], index: int) -> bool:
    """Whether the token at ``index`` begins a table's cell that is shown behind the name of its column."""
    if index < 2 or found[index - 1].lower != ":":
        return False
    return index == 2 or found[index - 3].lower == ";"


def _modifiers(own: Facts, head: Token) -> Iterator[Token]:
    """The words right before ``head`` in the sentence."""
    for before, token in pairwise(own.tokens):
        if _same_word(token, head) and carries_meaning(head) and carries_meaning(before) and before.kind is None:
            yield before


def _same_word(one: Token, other: Token) -> bool:
    return one.group == other.group and stem(one.lower) == stem(other.lower)
