"""A mesh that is as it was told to be; for tests."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from services.monitoring.ports import SelfReport
from services.resilience.endpoints import EndpointStatus


class ScriptedMesh:
    """``put`` says what is seen from now on; ``checks`` counts how often everybody was asked."""

    def __init__(self) -> None:
        self._services: Mapping[str, Sequence[EndpointStatus]] = {}
        self._reports: Mapping[tuple[str, str], SelfReport] = {}
        self._changed = asyncio.Event()
        self.checks = 0

    def put(
        self,
        services: Mapping[str, Sequence[EndpointStatus]],
        reports: Mapping[tuple[str, str], SelfReport] | None = None,
    ) -> None:
        """Show these from now on."""
        self._services, self._reports = services, reports or {}
        self._changed.set()
        self._changed = asyncio.Event()

    def services(self) -> Mapping[str, Sequence[EndpointStatus]]:
        """See the port."""
        return self._services

    def reports(self) -> Mapping[tuple[str, str], SelfReport]:
        """See the port."""
        return self._reports

    async def check(self) -> None:
        """See the port."""
        self.checks += 1

    async def changed(self) -> None:
        """See the port."""
        await self._changed.wait()

    async def close(self) -> None:
        """See the port."""
