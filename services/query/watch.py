"""Whether the caller may still read what an answer is being written from."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from services.corpus.errors import DeadlineExceeded, GroundwireError, Unauthenticated, Unavailable
from services.query.ports import FoundPassage, Retrieval


class SourceWatch:
    """Looks after the ``passages`` of one answer, which have just been retrieved.

    ``interval`` is the least time in seconds, by ``clock``, between two checks that are not asked for explicitly. It
    fails closed: a check that fails is an error, never "still readable".
    """

    def __init__(
        self,
        retrieval: Retrieval,
        passages: Sequence[FoundPassage],
        *,
        clock: Callable[[], float],
        interval: float,
    ) -> None:
        self.passages = tuple(passages)
        self.withdrawn = False
        self._retrieval = retrieval
        self._remaining = self.passages
        self._clock = clock
        self._interval = interval
        self._checked = clock()

    async def all_readable(self, *, now: bool = False) -> bool:
        """Whether all passages may still be used; asks only when the last check is old, unless ``now``.

        Raises Unavailable when nobody can tell, DeadlineExceeded when the call's time ran out meanwhile, Unauthenticated
        when the caller's credentials have expired.
        """
        if self.withdrawn or not self.passages:
            return not self.withdrawn
        began = self._clock()
        if not now and began - self._checked < self._interval:
            return True
        try:
            readable = await self._retrieval.still_readable({passage.reference for passage in self.passages})
        except (Unavailable, DeadlineExceeded, Unauthenticated):
            raise
        except GroundwireError as error:
            raise Unavailable("the sources of the answer could not be checked") from error
        self._checked = began
        self._remaining = tuple(passage for passage in self.passages if passage.reference in readable)
        self.withdrawn = len(self._remaining) < len(self.passages)
        return not self.withdrawn

    def go_on(self) -> None:
        """Take what is left for the passages from now on."""
        self.passages, self.withdrawn = self._remaining, False
