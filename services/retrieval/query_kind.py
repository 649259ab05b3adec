"""What kind of query someone asks: a natural question, or a topic or claim.

It decides how much the dense half weighs and whether a cross-encoder reads the passages again, which gains much on
natural questions and loses on topics and claims.
"""

from __future__ import annotations

from enum import Enum

_QUESTION_WORDS = frozenset(["who", "whom", "whose", "what", "when", "where", "which", "why", "how"])
_AUXILIARIES = frozenset(
    [
        "am",
        "is",
        "are",
        "was",
        "were",
        "do",
        "does",
        "did",
        "can",
        "could",
        "shall",
        "should",
        "will",
        "would",
        "has",
        "have",
        "had",
        "may",
        "might",
        "must",
    ]
)
# Longer ones describe a need for information rather than ask something.
_MOST_WORDS_MARKED = 30
_MOST_WORDS_UNMARKED = 15


class QueryKind(Enum):
    """A natural question, or anything else: a topic, a claim, a description."""

    QUESTION = "question"
    TOPIC = "topic"


def classify(query: str) -> QueryKind:
    """Say what kind of query this is, by its question mark, its first word and its length.

    A question mark at the end decides for a question up to 30 words. Without one, people who type questions into a
    search box begin with a question word, or with an auxiliary and a subject, stay short and write no full stop.
    """
    text = query.strip().rstrip("\"'”’»)")
    words = text.casefold().split()
    if not words:
        return QueryKind.TOPIC
    if text.endswith(("?", "？", "؟")):
        return QueryKind.QUESTION if len(words) <= _MOST_WORDS_MARKED else QueryKind.TOPIC
    if len(words) > _MOST_WORDS_UNMARKED or text.endswith((".", "!", ":", ";")):
        return QueryKind.TOPIC
    first = words[0].replace("’", "'").partition("'")[0].strip('¿("')
    if first in _QUESTION_WORDS:
        return QueryKind.QUESTION if len(words) >= 2 else QueryKind.TOPIC
    if first in _AUXILIARIES:
        return QueryKind.QUESTION if len(words) >= 3 else QueryKind.TOPIC
    return QueryKind.TOPIC
