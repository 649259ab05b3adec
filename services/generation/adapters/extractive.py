"""ExtractiveEndpoint: answers with the sentences that support them best. No language model, nothing to install.

Measured with the embedded cross-encoder by benchmarks/neighbours.py on 298 questions of XQuAD-en, each with its
paragraph among the five others that share most words with it, and again with those five alone: 89 % of the first are
answered, and 92 % of those answers hold the gold answer; 93 % of the second are declined. Calibration used other
questions about the same 240 paragraphs, so this is not a held-out text. Of the pairs in which a question is asked once
as the text answers it and once a step beside (another year, version, place, day, unit), 100 % are answered and 98 %
declined; these were looked at while the rules were made. Of 80 harder pairs that were written without them, 82 % of 114
questions were answered and 83 % declined (before there were rules 79 and 45). An answer takes 0.3 s (median) and 0.6 s (95th
percentile) on two cores.

What a sentence is scored with was measured too. Before the title alone it wins wherever it is the right one; with the
sentence before it as well, its neighbours win in its place (the best sentence is right in 40 % instead of 100 % of the
questions on the example corpus), but how well the passage fits shows better. So the one ranks, and the other joins in
among the best few.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

from services.corpus.coverage import Notice
from services.embedding.ports import CrossEncoder
from services.generation.extraction import (
    DEFAULT_THRESHOLD,
    Candidate,
    Judged,
    candidates,
    choose,
    compose,
    difference,
)
from services.generation.ports import Draft, Passage, Usage, abstention

LACKING = Notice(
    "SOURCES_LACK_DETAIL", "the sources do not have all that the question names; the answer begins with what"
)
_CHARACTERS_PER_TOKEN = 4  # of English text; nothing here counts tokens
_IN_CONTEXT = 4  # candidates that are read again in their context


class ExtractiveEndpoint:
    """Quotes the one to three sentences of the passages that answer the question, or abstains.

    ``cross_encoder`` stays with its owner. ``threshold`` is the confidence below which the endpoint abstains.
    ``most_candidates`` bounds the sentences that are scored, ``budget`` the seconds for it (None: no bound; what was
    not reached is not considered).
    """

    def __init__(
        self,
        cross_encoder: CrossEncoder,
        *,
        name: str = "extractive",
        model: str = "extractive",
        threshold: float = DEFAULT_THRESHOLD,
        most_candidates: int = 24,
        budget: float | None = 2.0,
    ) -> None:
        self._cross_encoder = cross_encoder
        self._name = name
        self._model = model
        self._threshold = threshold
        self._most_candidates = most_candidates
        self._budget = budget

    @property
    def name(self) -> str:
        """The configured name."""
        return self._name

    @property
    def kind(self) -> str:
        """Always "extractive"."""
        return "extractive"

    @property
    def model(self) -> str:
        """The name of the cross-encoder's model."""
        return self._model

    async def answer(
        self, question: str, passages: Sequence[Passage], max_tokens: int
    ) -> AsyncGenerator[str | Draft, None]:
        """See :class:`services.generation.ports.AnswerEndpoint`; the pieces are whole sentences."""
        # In a thread because fifty long passages take longer to cut and stem than an event loop may stand still.
        found = await asyncio.to_thread(candidates, question, passages, self._most_candidates)
        judged = await self._judge(question, passages, found)
        read = sum(len(candidate.shown) + len(candidate.context) for candidate in found) + len(question)
        usage = Usage(input_tokens=-(-read // _CHARACTERS_PER_TOKEN))
        top = max(judged, key=lambda entry: entry.fit, default=None)
        if top is None or top.confidence < self._threshold:
            draft = abstention(top.confidence if top else 0.0, usage)
            yield draft.answer
            yield draft
            return
        chosen = choose(judged, self._threshold)
        statements = compose(chosen, passages, max_tokens * _CHARACTERS_PER_TOKEN)
        for statement in statements:
            yield statement.text
        answer = "".join(statement.text for statement in statements)
        usage = Usage(usage.input_tokens, -(-len(answer) // _CHARACTERS_PER_TOKEN))
        yield Draft(
            answer,
            tuple(statement.citation for statement in statements),
            top.confidence,
            usage=usage,
            notices=(LACKING,) if difference(chosen) else (),
        )

    async def close(self) -> None:
        """Nothing to release."""

    async def _judge(self, question: str, passages: Sequence[Passage], found: Sequence[Candidate]) -> list[Judged]:
        """The best candidates with both of their logits."""
        texts = [_titled(passages[candidate.source].title, candidate.shown) for candidate in found]
        if not texts:
            return []
        alone = await self._cross_encoder.score(question, texts, budget=self._budget)
        scored = [(logit, candidate) for logit, candidate in zip(alone, found, strict=True) if logit is not None]
        scored.sort(key=lambda entry: entry[0], reverse=True)
        best = scored[:_IN_CONTEXT]
        around = [f"{candidate.context} {candidate.shown}".strip() for _, candidate in best]
        in_context = await self._cross_encoder.score(question, around)
        return [
            Judged(candidate, logit, logit if context is None else context)
            for (logit, candidate), context in zip(best, in_context, strict=True)
        ]


def _titled(title: str, sentence: str) -> str:
    return f"{title.rstrip('.')}. {sentence}" if title else sentence
