"""Who is in the mesh and how each service is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

import structlog

from services.corpus.errors import GroundwireError
from services.monitoring.ports import Probe

_log = structlog.get_logger(__name__)


class ServiceHealth(Enum):
    """How well something works."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"


@dataclass(frozen=True)
class HealthCheck:
    """The result of one check. ``response_time`` is in seconds; ``error_message`` is empty when all is well."""

    service_name: str
    status: ServiceHealth
    response_time: float
    last_check: datetime
    error_message: str = ""


@dataclass(frozen=True)
class EndpointState:
    """One endpoint and its last check."""

    service_name: str
    address: str
    health: HealthCheck


class Topology:
    """Checks every service of the mesh, all at the same time: one failure never hides or delays another."""

    def __init__(
        self,
        probes: Mapping[str, Probe],
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._probes = dict(probes)
        self._clock = clock
        self._now = now

    async def look(self) -> list[EndpointState]:
        """The state of every service, by name."""
        names = sorted(self._probes)
        return list(await asyncio.gather(*(self._look_at(name, self._probes[name]) for name in names)))

    async def close(self) -> None:
        """Release connections."""
        await asyncio.gather(*(probe.close() for probe in self._probes.values()))

    async def _look_at(self, name: str, probe: Probe) -> EndpointState:
        started = self._clock()
        message = ""
        try:
            alive, ready = await asyncio.gather(probe.check(""), probe.check("readiness"))
        except GroundwireError as error:
            status, message = ServiceHealth.UNHEALTHY, error.message
        except Exception as error:  # noqa: BLE001 - one probe's defect must not hide the other services
            _log.exception("a probe failed unexpectedly", service=name, exc_info=error)
            status, message = ServiceHealth.UNHEALTHY, "it could not be asked"
        else:
            status = ServiceHealth.HEALTHY
            if not alive:
                status, message = ServiceHealth.UNHEALTHY, "it says that it is not serving"
            elif not ready:
                status, message = ServiceHealth.DEGRADED, "something that it depends on is missing"
        check = HealthCheck(name, status, self._clock() - started, self._now(), message)
        return EndpointState(name, probe.address, check)
