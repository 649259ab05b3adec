"""How a server is: what its own readiness says, and whom of those that it depends on it cannot reach."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from groundwire.monitoring.v1 import dependency_service_pb2 as pb
from groundwire.monitoring.v1 import dependency_service_pb2_grpc as rpc
from interceptors._shapes import Context
from services.resilience.endpoints import EndpointStatus
from services.resilience.health import ServiceHealth
from services.resilience.pool import Pool, PoolEvent
from services.runtime import wire_topology

SERVICE = pb.DESCRIPTOR.services_by_name["DependencyService"]
# Changes that come together are told together, and numbers that change all the time now and then; in seconds.
_TOGETHER = 0.05
_REFRESH = 2.0


@dataclass(frozen=True, slots=True)
class Dependency:
    """A service that is called, as its caller sees it."""

    service: str
    status: ServiceHealth
    endpoints: Sequence[EndpointStatus]


@dataclass(frozen=True, slots=True)
class Report:
    """A server's state. ``message`` says what is wrong, in a few safe words."""

    status: ServiceHealth
    message: str
    dependencies: Sequence[Dependency]


class Standing:
    """What one server says of itself. Belongs to one event loop.

    ``pools`` are those that it calls; ``impairment`` says what else it works without, and is asked now and then.
    """

    def __init__(self, pools: Sequence[Pool] = (), impairment: Callable[[], str] = str) -> None:
        self._pools = list(pools)
        self._impairment = impairment
        self._problem: str | None = "it is starting"
        self._changed = asyncio.Event()
        for pool in self._pools:
            pool.listeners.append(self._on_event)

    def set_problem(self, problem: str | None) -> None:
        """Why it is not ready; None once it is."""
        if problem != self._problem:
            self._problem = problem
            self._tell()

    def report(self) -> Report:
        """How it is now."""
        dependencies = [Dependency(pool.service, pool.status, pool.statuses()) for pool in self._pools]
        problems = dict.fromkeys((*(pool.problem for pool in self._pools), self._impairment()))
        message = self._problem or "; ".join(filter(None, problems))
        return Report(ServiceHealth.DEGRADED if message else ServiceHealth.HEALTHY, message, dependencies)

    async def reports(self) -> AsyncIterator[Report]:
        """How it is, at once and whenever that changes."""
        while True:
            changed = self._changed
            yield self.report()
            try:
                async with asyncio.timeout(_REFRESH):
                    await changed.wait()
            except TimeoutError:
                continue
            await asyncio.sleep(_TOGETHER)

    def _on_event(self, _event: PoolEvent) -> None:
        self._tell()

    def _tell(self) -> None:
        # Each waiter holds the event of its own last report: none can miss a change.
        self._changed.set()
        self._changed = asyncio.Event()


class DependencyServicer(rpc.DependencyServiceServicer):
    """DependencyService on the wire."""

    def __init__(self, standing: Standing) -> None:
        self._standing = standing

    async def WatchDependencies(  # noqa: N802 - the contract's name
        self, request: pb.WatchDependenciesRequest, context: Context
    ) -> AsyncIterator[pb.WatchDependenciesResponse]:
        """See the contract."""
        del request, context
        async for report in self._standing.reports():
            yield pb.WatchDependenciesResponse(
                status=wire_topology.write_health(report.status),
                error_message=report.message,
                dependencies=[
                    wire_topology.write_service(each.service, each.status, each.endpoints)
                    for each in report.dependencies
                ],
            )
