"""What monitoring needs: a way to ask a peer how it is."""

from __future__ import annotations

from typing import Protocol


class Probe(Protocol):
    """Asks one endpoint's health service."""

    @property
    def address(self) -> str:
        """The endpoint's address."""

    async def check(self, service: str) -> bool:
        """Whether it says SERVING for ``service``; raises Unavailable when it does not answer."""

    async def close(self) -> None:
        """Release the connection."""
