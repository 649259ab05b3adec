"""Retrieval and generation that say what they were told to; for tests of what stands on top of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from collections.abc import Collection as Some

from services.query.ports import Found, FoundPassage, GenerationStep, Reference, Search


class ScriptedRetrieval:
    """Answers every search with the same finding, or raises the error that it was given.

    Documents whose ids are in ``withdrawn`` can no longer be read; ``checks`` has what was asked about.
    """

    def __init__(self, found: Found | Exception) -> None:
        self._found = found
        self.searches: list[Search] = []
        self.withdrawn: set[str] = set()
        self.checks: list[frozenset[Reference]] = []

    async def retrieve(self, search: Search) -> Found:
        """See the port."""
        self.searches.append(search)
        if isinstance(self._found, Exception):
            raise self._found
        return self._found

    async def still_readable(self, references: Some[Reference]) -> frozenset[Reference]:
        """See the port."""
        self.checks.append(frozenset(references))
        if isinstance(self._found, Exception):
            raise self._found
        return frozenset(reference for reference in references if reference.document_id not in self.withdrawn)

    async def close(self) -> None:
        """See the port."""


class ScriptedGeneration:
    """Takes the same steps every time; a step that is an exception is raised."""

    def __init__(self, steps: Sequence[GenerationStep | Exception]) -> None:
        self._steps = steps

    async def write(
        self, query: str, passages: Sequence[FoundPassage], *, max_tokens: int, min_confidence: float
    ) -> AsyncGenerator[GenerationStep, None]:
        """See the port."""
        del query, passages, max_tokens, min_confidence
        for step in self._steps:
            if isinstance(step, Exception):
                raise step
            yield step

    async def close(self) -> None:
        """See the port."""
