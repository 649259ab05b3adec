"""A Probe that says what it was told to; for tests."""

from __future__ import annotations

from collections.abc import Mapping

from services.corpus.errors import Unavailable


class ScriptedProbe:
    """Answers by name; None for a peer that does not answer at all."""

    def __init__(self, address: str, answers: Mapping[str, bool] | None) -> None:
        self.address = address
        self._answers = answers

    async def check(self, service: str) -> bool:
        """See the port."""
        if self._answers is None:
            raise Unavailable("it does not answer")
        return self._answers[service]

    async def close(self) -> None:
        """See the port."""
