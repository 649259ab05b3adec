"""What monitoring needs: somebody who watches every endpoint of the mesh."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from services.resilience.endpoints import EndpointStatus
from services.resilience.health import ServiceHealth


@dataclass(frozen=True, slots=True)
class SelfReport:
    """What a server says of itself, and of those that it calls, by service."""

    status: ServiceHealth
    error_message: str
    dependencies: Mapping[str, Sequence[EndpointStatus]]


class MeshView(Protocol):
    """The mesh, as it is watched."""

    def services(self) -> Mapping[str, Sequence[EndpointStatus]]:
        """The endpoints of every service, each as it was last heard of."""

    def reports(self) -> Mapping[tuple[str, str], SelfReport]:
        """What servers that are alive say now, by their service and address."""

    async def check(self) -> None:
        """Ask every endpoint now, all at the same time; a failure is the answer of that endpoint alone."""

    async def changed(self) -> None:
        """Return when something is not what it was when this was called, or numbers have grown old."""

    async def close(self) -> None:
        """Stop watching."""
