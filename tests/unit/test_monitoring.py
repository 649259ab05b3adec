"""Who is in the mesh: what is watched and what servers say of themselves and of each other, as one picture."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from groundwire.monitoring.v1 import monitoring_service_pb2 as pb
from services.monitoring import convert
from services.monitoring.adapters.memory import ScriptedMesh
from services.monitoring.ports import SelfReport
from services.monitoring.topology import ServiceState, Topology, combine
from services.resilience.breaker import BreakerState
from services.resilience.endpoints import Endpoint, EndpointStatus, Role
from services.resilience.health import HealthCheck, ServiceHealth

NOW = datetime(2026, 1, 2, tzinfo=UTC)
HEALTHY, DEGRADED, UNHEALTHY = ServiceHealth.HEALTHY, ServiceHealth.DEGRADED, ServiceHealth.UNHEALTHY


def seen(
    address: str = "a:1",
    status: ServiceHealth = HEALTHY,
    message: str = "",
    *,
    role: Role = Role.PRIMARY,
    alive: bool = True,
    serving: bool = True,
    breaker: BreakerState = BreakerState.CLOSED,
) -> EndpointStatus:
    check = HealthCheck("x", status, 0.001, NOW, message)
    return EndpointStatus(Endpoint(address, role), check, breaker, serving, 2, alive)


def says(status: ServiceHealth, message: str = "", **dependencies: Sequence[EndpointStatus]) -> SelfReport:
    return SelfReport(status, message, dependencies)


def one(
    endpoints: Sequence[EndpointStatus], reports: Mapping[tuple[str, str], SelfReport] | None = None
) -> ServiceState:
    (state,) = combine({"retrieval": endpoints}, reports or {})
    return state


DOWN = seen(status=UNHEALTHY, message="nothing answers there", alive=False)
NOT_READY = seen(status=UNHEALTHY, message="it is not ready")


@pytest.mark.parametrize(
    ("watched", "report", "status", "message"),
    [
        (seen(), None, HEALTHY, ""),
        (seen(), says(HEALTHY), HEALTHY, ""),
        (seen(), says(DEGRADED, "store: b is down"), DEGRADED, "store: b is down"),
        (NOT_READY, None, DEGRADED, "it is not ready"),
        (NOT_READY, says(DEGRADED, "the spool is full"), DEGRADED, "the spool is full"),
        (DOWN, None, UNHEALTHY, "nothing answers there"),
        # Its last word does not count once it is frozen.
        (seen(status=UNHEALTHY, message="late", alive=False), says(HEALTHY), UNHEALTHY, "late"),
    ],
)
def test_an_only_endpoint(
    watched: EndpointStatus, report: SelfReport | None, status: ServiceHealth, message: str
) -> None:
    state = one([watched], {("retrieval", "a:1"): report} if report else None)
    assert (state.status, state.error_message) == (status, message)
    assert (state.endpoints[0].health.status, state.endpoints[0].health.error_message) == (status, message)


@pytest.mark.parametrize(
    ("primary", "backup", "status"),
    [(True, True, HEALTHY), (True, False, HEALTHY), (False, True, DEGRADED), (False, False, UNHEALTHY)],
)
def test_primary_and_backup(primary: bool, backup: bool, status: ServiceHealth) -> None:
    def endpoint(address: str, role: Role, up: bool) -> EndpointStatus:
        if up:
            return seen(address, role=role)
        return seen(address, UNHEALTHY, "gone", role=role, alive=False)

    state = one([endpoint("p:1", Role.PRIMARY, primary), endpoint("b:1", Role.BACKUP, backup)])
    assert state.status is status
    assert ("p:1: gone" in state.error_message) == (not primary)


def test_callers_say_who_serves_and_whose_breaker_is_open() -> None:
    open_, closed = seen(breaker=BreakerState.OPEN, serving=False), seen(serving=True)
    state = one(
        [seen(serving=True), seen("b:1", serving=True)],
        {("query", "q:1"): says(HEALTHY, retrieval=[open_]), ("ingestion", "i:1"): says(HEALTHY, retrieval=[closed])},
    )
    called, uncalled = state.endpoints
    assert called.breaker is BreakerState.OPEN
    assert called.serving
    assert [each.caller for each in called.observations] == ["ingestion", "query"]
    assert (uncalled.breaker, uncalled.observations, uncalled.serving) == (None, (), True)
    nobody = one([seen(serving=True)], {("query", "q:1"): says(HEALTHY, retrieval=[open_])})
    assert not nobody.endpoints[0].serving


def test_services_come_by_name() -> None:
    states = combine({name: [seen()] for name in ("query", "audit", "store")}, {})
    assert [state.service_name for state in states] == ["audit", "query", "store"]


async def test_looking_asks_everybody_first() -> None:
    mesh = ScriptedMesh()
    mesh.put({"query": [seen()]})
    assert [state.status for state in await Topology(mesh).look()] == [HEALTHY]
    assert mesh.checks == 1


async def test_watching_tells_changes_and_only_those() -> None:
    mesh = ScriptedMesh()
    mesh.put({"query": [seen()]})
    told: list[ServiceHealth] = []

    async def follow() -> None:
        async for states in Topology(mesh).watch():
            told.extend(state.status for state in states)

    following = asyncio.create_task(follow())
    await settle()
    assert told == [HEALTHY]
    later = replace(seen(), health=replace(seen().health, response_time=0.5, last_check=NOW + timedelta(seconds=1)))
    mesh.put({"query": [replace(later, in_flight=7)]})
    await settle()
    assert told == [HEALTHY], "numbers alone are no change"
    mesh.put({"query": [DOWN]})
    await settle()
    assert told == [HEALTHY, UNHEALTHY]
    following.cancel()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_on_the_wire() -> None:
    report = says(DEGRADED, "slow", retrieval=[seen(breaker=BreakerState.HALF_OPEN, serving=False)])
    (message,) = convert.write_services([one([NOT_READY], {("query", "q:1"): report})])
    assert (message.service_name, message.status) == ("retrieval", pb.SERVICE_HEALTH_DEGRADED)
    assert message.error_message == "it is not ready"
    (endpoint,) = message.endpoints
    assert (endpoint.address, endpoint.role) == ("a:1", pb.ENDPOINT_ROLE_PRIMARY)
    assert (endpoint.breaker, endpoint.serving, endpoint.in_flight) == ("half-open", False, 2)
    assert endpoint.health.response_time.ToMilliseconds() == 1
    assert endpoint.health.last_check.ToDatetime(tzinfo=UTC) == NOW
    (observation,) = endpoint.observations
    assert (observation.caller, observation.breaker, observation.status) == (
        "query",
        "half-open",
        pb.SERVICE_HEALTH_HEALTHY,
    )
    (alone,) = convert.write_services([one([seen()])])
    assert alone.endpoints[0].breaker == ""
