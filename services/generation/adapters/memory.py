"""ScriptedEndpoint: an endpoint that does what a test tells it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

from services.generation.ports import Draft, Passage, abstention

Step = str | Draft | Exception | asyncio.Event


class ScriptedEndpoint:
    """Plays ``steps``: a text is yielded, a Draft ends the answer, an error is raised, an Event is waited for.

    ``calls`` counts the answers begun, ``open`` those that have not ended yet; ``waiting`` is set while a step waits
    for its Event, ``ended`` once an answer ended in whatever way. Without passages it abstains, whatever the script says.
    """

    def __init__(self, name: str, steps: Sequence[Step], *, kind: str = "scripted", model: str = "script") -> None:
        self._name = name
        self._kind = kind
        self._model = model
        self._steps = tuple(steps)
        self.calls = 0
        self.open = 0
        self.closed = False
        self.waiting = asyncio.Event()
        self.ended = asyncio.Event()

    @property
    def name(self) -> str:
        """The configured name."""
        return self._name

    @property
    def kind(self) -> str:
        """The configured kind."""
        return self._kind

    @property
    def model(self) -> str:
        """The configured model."""
        return self._model

    async def answer(
        self, question: str, passages: Sequence[Passage], max_tokens: int
    ) -> AsyncGenerator[str | Draft, None]:
        """See :class:`services.generation.ports.AnswerEndpoint`."""
        del question, max_tokens  # a script answers every question alike
        self.calls += 1
        self.open += 1
        try:
            for step in self._steps if passages else (abstention().answer, abstention()):
                match step:
                    case asyncio.Event():
                        self.waiting.set()
                        await step.wait()
                        self.waiting.clear()
                    case Exception():
                        raise step
                    case _:
                        yield step
        finally:
            self.open -= 1
            self.ended.set()

    async def close(self) -> None:
        """Remember that it was closed."""
        self.closed = True
