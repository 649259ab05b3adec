"""The vector of a question, in a time that leaves enough for a search by words. Pure.

The model may be a server elsewhere, which may be silent, slow, or answer anything. No search waits longer for it than its
limit, or than half of the time that the caller has left; after a few failures in a row it is left alone for a while.
"""

from __future__ import annotations

import logging

from services.corpus.errors import GroundwireError, Unavailable
from services.resilience.breaker import BreakerPolicy, CircuitBreaker
from services.retrieval.federation import outcomes
from services.retrieval.patience import patience
from services.retrieval.ports import Clock, Embedder
from services.vectorstores.ports import Vector

_log = logging.getLogger(__name__)


class QuestionVectors:
    """Asks ``embedder`` for at most ``limit`` seconds; ``clock`` gives monotonic seconds. Belongs to one event loop."""

    def __init__(self, embedder: Embedder, limit: float, clock: Clock) -> None:
        self._embedder = embedder
        self._limit = limit
        self._clock = clock
        policy = BreakerPolicy(
            window=max(60.0, 6 * limit), consecutive=3, probes=1, probe_successes=1, probe_lease=2 * limit
        )
        self._breaker = CircuitBreaker(policy, clock)

    async def of(self, question: str) -> Vector:
        """The vector of ``question``.

        Raises:
            Unavailable: There is none in time, or the model failed; or it is left alone because it failed before.
            GroundwireError: What the embedder raised, such as FailedPrecondition where it is set up wrongly.
        """
        permit = self._breaker.acquire()
        if permit is None:
            raise Unavailable("the embedding model did not answer lately, and is left alone for a while")
        limit = patience(self._limit)
        began = self._clock()
        try:
            (answer,) = await outcomes([self._embedder.embed_query(question)], timeout=limit)
            seconds = self._clock() - began
            if not isinstance(answer, Exception):
                permit.succeed(seconds)
                return answer
            if not isinstance(answer, TimeoutError) or limit >= self._limit:
                # A caller in a hurry says nothing about the model.
                permit.fail(seconds)
        finally:
            permit.release()
        # The type alone: a message may quote the question.
        _log.warning("the embedding model gave no vector (%s)", type(answer).__name__)
        if isinstance(answer, GroundwireError):
            raise answer
        raise Unavailable("the embedding model did not answer") from answer
