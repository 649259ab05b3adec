"""Who is in the mesh, how each service is, and who serves now. Pure but for its waiting."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace

from services.monitoring.ports import MeshView, SelfReport
from services.resilience.breaker import WORST_FIRST, BreakerState
from services.resilience.endpoints import Endpoint, EndpointStatus, Role
from services.resilience.health import HealthCheck, ServiceHealth


@dataclass(frozen=True, slots=True)
class Observation:
    """How the service ``caller`` sees an endpoint that it calls."""

    caller: str
    status: EndpointStatus


@dataclass(frozen=True, slots=True)
class EndpointState:
    """One endpoint. ``breaker`` is the worst that a caller has for it, None where nobody that can be asked calls it."""

    endpoint: Endpoint
    health: HealthCheck
    breaker: BreakerState | None
    serving: bool
    observations: tuple[Observation, ...] = ()


@dataclass(frozen=True, slots=True)
class ServiceState:
    """One service and its endpoints."""

    service_name: str
    status: ServiceHealth
    error_message: str
    endpoints: tuple[EndpointState, ...]


class Topology:
    """The mesh as ``view`` watches it."""

    def __init__(self, view: MeshView) -> None:
        self._view = view

    async def look(self) -> list[ServiceState]:
        """Every service, by name, after everybody was asked."""
        await self._view.check()
        return self._state()

    async def watch(self) -> AsyncIterator[list[ServiceState]]:
        """Every service, at once and whenever something changes."""
        shown: list[ServiceState] | None = None
        while True:
            state = self._state()
            if shown is None or _comparable(state) != _comparable(shown):
                shown = state
                yield state
            await self._view.changed()

    async def close(self) -> None:
        """Stop watching."""
        await self._view.close()

    def _state(self) -> list[ServiceState]:
        return combine(self._view.services(), self._view.reports())


def combine(
    services: Mapping[str, Sequence[EndpointStatus]], reports: Mapping[tuple[str, str], SelfReport]
) -> list[ServiceState]:
    """One picture of what was watched and what servers say of themselves and of each other."""
    seen: dict[tuple[str, str], list[Observation]] = {}
    for (caller, _), report in reports.items():
        for service, statuses in report.dependencies.items():
            for status in statuses:
                seen.setdefault((service, status.endpoint.address), []).append(Observation(caller, status))
    return [_service(name, statuses, reports, seen) for name, statuses in sorted(services.items())]


def _service(
    name: str,
    statuses: Sequence[EndpointStatus],
    reports: Mapping[tuple[str, str], SelfReport],
    seen: Mapping[tuple[str, str], Sequence[Observation]],
) -> ServiceState:
    endpoints = []
    for status in statuses:
        where = (name, status.endpoint.address)
        observations = tuple(sorted(seen.get(where, ()), key=lambda each: each.caller))
        breakers = {each.status.breaker for each in observations}
        endpoints.append(
            EndpointState(
                endpoint=status.endpoint,
                health=_health(status, reports.get(where)),
                breaker=next((state for state in WORST_FIRST if state in breakers), None),
                serving=any(each.status.serving for each in observations) if observations else status.serving,
                observations=observations,
            )
        )
    return ServiceState(name, *_overall(endpoints), tuple(endpoints))


def _health(status: EndpointStatus, report: SelfReport | None) -> HealthCheck:
    if not status.alive:
        return status.health
    if report is not None:
        return replace(status.health, status=report.status, error_message=report.error_message)
    if status.health.status is ServiceHealth.UNHEALTHY:
        # It answers, if only that it is not ready.
        return replace(status.health, status=ServiceHealth.DEGRADED)
    return status.health


def _overall(endpoints: Sequence[EndpointState]) -> tuple[ServiceHealth, str]:
    messages = [
        each.health.error_message if len(endpoints) == 1 else f"{each.endpoint.address}: {each.health.error_message}"
        for each in endpoints
        if each.health.error_message
    ]
    states = {each.health.status for each in endpoints}
    primaries = {each.health.status for each in endpoints if each.endpoint.role is Role.PRIMARY}
    if states <= {ServiceHealth.UNHEALTHY}:
        return ServiceHealth.UNHEALTHY, "; ".join(messages)
    if primaries == {ServiceHealth.HEALTHY}:
        return ServiceHealth.HEALTHY, ""
    return ServiceHealth.DEGRADED, "; ".join(messages)


def _comparable(state: Sequence[ServiceState]) -> list[object]:
    """What is worth telling: not that a check took a millisecond longer, or that a call more is on its way."""
    return [
        (
            service.service_name,
            service.status,
            service.error_message,
            [
                (
                    each.endpoint,
                    each.health.status,
                    each.health.error_message,
                    each.breaker,
                    each.serving,
                    [(o.caller, o.status.health.status, o.status.breaker, o.status.serving) for o in each.observations],
                )
                for each in service.endpoints
            ],
        )
        for service in state
    ]
