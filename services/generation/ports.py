"""The port of the generation domain: AnswerEndpoint, and the values that cross it. Pure."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

from services.corpus.coverage import Notice
from services.corpus.errors import Unavailable

ABSTENTION = "The given sources do not answer this question."
"""What is shown in place of an answer when the passages do not support one."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A passage that may support the answer; ``score`` is how well retrieval thinks it fits, 0 to 1.

    ``title`` is the title of its document, possibly followed by the headings above the passage.
    """

    passage_id: str
    title: str
    text: str
    score: float = 0.0


@dataclass(frozen=True, slots=True)
class Question:
    """A question, the passages, best first, that may answer it, and how long the answer may be."""

    query: str
    passages: tuple[Passage, ...]
    max_tokens: int = 1000


@dataclass(frozen=True, slots=True)
class Citation:
    """Support for the answer: the words ``text[start:end]`` (code points) of the passage ``passage_id``.

    ``marker`` is how the answer refers to it: "[n]" for the n-th passage of the request, counting from 1. Several
    citations may share a marker.
    """

    marker: str
    passage_id: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that a model read and wrote; estimated where an endpoint does not say."""

    input_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Draft:
    """What an endpoint ends with.

    ``confidence`` (0 to 1) is how sure the endpoint is that the answer is right and supported; when it abstained,
    how sure it is of the best answer that it decided not to give. An abstention has the answer ``ABSTENTION`` and
    no citations. ``notices`` are what a caller should know about the answer, such as that it was cut off.
    """

    answer: str
    citations: tuple[Citation, ...] = ()
    confidence: float = 0.0
    abstained: bool = False
    usage: Usage = Usage()
    notices: tuple[Notice, ...] = ()


def abstention(confidence: float = 0.0, usage: Usage = Usage()) -> Draft:
    """The draft of an endpoint that abstains."""
    return Draft(ABSTENTION, confidence=confidence, abstained=True, usage=usage)


class Unreached(Unavailable):
    """There was no connection to the endpoint: it did nothing."""


class NoAnswer(Unavailable):
    """The endpoint works, and wrote no answer for a reason that lies in the question.

    It refused, a filter took the answer away, or ``max_tokens`` were too few. Another endpoint may do better; that
    this one failed is not held against it, because callers could otherwise take it away from each other.
    """


class AnswerEndpoint(Protocol):
    """Something that writes answers from passages. Safe to call concurrently."""

    @property
    def name(self) -> str:
        """The configured name, unique among the endpoints."""

    @property
    def kind(self) -> str:
        """How it is reached: "extractive" or "openai"."""

    @property
    def model(self) -> str:
        """The model that it serves."""

    def answer(self, question: str, passages: Sequence[Passage], max_tokens: int) -> AsyncGenerator[str | Draft, None]:
        """Yield pieces of text as they come and then, as the last item, exactly one Draft.

        The pieces joined are the draft's answer, abstentions included, unless what was shown turned out not to belong
        to it: then the draft's answer replaces it. Without passages the endpoint abstains. An empty piece is a sign of
        life: work goes on, but what was written must not be shown yet.
        Every marker in the answer belongs to a citation, and the other way round. Closing the generator early, or
        cancelling the task that waits for it, ends the work behind it.

        Raises:
            Unavailable: The endpoint did not answer, or stopped in the middle; Unreached where it was never asked,
                NoAnswer where the question is the reason.
            ResourceExhausted: The endpoint refuses more work for now; ``retry_after`` is 0 if it does not say how long.
            FailedPrecondition: The endpoint refuses our credentials, model or request: repeating does not help.
        """

    async def close(self) -> None:
        """Release connections. What the endpoint was given (a model, a client) stays with its owner."""
