"""Who is in the mesh: everybody is asked at the same time, and no failure hides another."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from groundwire.monitoring.v1 import monitoring_service_pb2 as pb
from services.monitoring import convert
from services.monitoring.adapters.memory import ScriptedProbe
from services.monitoring.topology import EndpointState, HealthCheck, ServiceHealth, Topology

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def topology(probes: dict[str, ScriptedProbe]) -> Topology:
    ticks = iter(range(1000))
    return Topology(probes, clock=lambda: next(ticks) / 2, now=lambda: NOW)


async def states(probes: dict[str, ScriptedProbe]) -> dict[str, tuple[ServiceHealth, str]]:
    found = await topology(probes).look()
    return {state.service_name: (state.health.status, state.health.error_message) for state in found}


def probe(*, alive: bool = True, ready: bool = True) -> ScriptedProbe:
    return ScriptedProbe("there:1", {"": alive, "readiness": ready})


class BrokenProbe(ScriptedProbe):
    """Fails in a way that no port allows."""

    async def check(self, service: str) -> bool:
        raise RuntimeError(f"a defect: {service}")


@pytest.mark.parametrize(
    ("alive", "ready", "status", "message"),
    [
        (True, True, ServiceHealth.HEALTHY, ""),
        (True, False, ServiceHealth.DEGRADED, "something that it depends on is missing"),
        (False, True, ServiceHealth.UNHEALTHY, "it says that it is not serving"),
        (False, False, ServiceHealth.UNHEALTHY, "it says that it is not serving"),
    ],
)
async def test_what_a_service_says(alive: bool, ready: bool, status: ServiceHealth, message: str) -> None:
    assert await states({"query": probe(alive=alive, ready=ready)}) == {"query": (status, message)}


async def test_one_failure_never_hides_another() -> None:
    found = await states(
        {
            "query": probe(),
            "audit": ScriptedProbe("gone", None),
            "store": probe(ready=False),
            "retrieval": BrokenProbe("there", {}),
            "generation": ScriptedProbe("gone too", None),
        }
    )
    assert {name: status for name, (status, _) in found.items()} == {
        "audit": ServiceHealth.UNHEALTHY,
        "generation": ServiceHealth.UNHEALTHY,
        "query": ServiceHealth.HEALTHY,
        "retrieval": ServiceHealth.UNHEALTHY,
        "store": ServiceHealth.DEGRADED,
    }
    assert list(found) == sorted(found)
    assert "defect" not in found["retrieval"][1]


async def test_all_are_asked_at_the_same_time() -> None:
    everybody = asyncio.Barrier(6)

    class Meeting(ScriptedProbe):
        async def check(self, service: str) -> bool:
            await everybody.wait()  # passes when all three are being asked both questions
            return await super().check(service)

    found = await states({name: Meeting("there", {"": True, "readiness": True}) for name in "abc"})
    assert {status for status, _ in found.values()} == {ServiceHealth.HEALTHY}


async def test_a_look_that_is_cancelled_ends() -> None:
    class Silent(ScriptedProbe):
        async def check(self, service: str) -> bool:
            del service
            asked.set()
            await asyncio.Event().wait()
            return True

    asked = asyncio.Event()
    task = asyncio.create_task(topology({"a": Silent("there", {})}).look())
    await asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_check_has_a_time_and_an_address() -> None:
    (state,) = await topology({"query": probe()}).look()
    assert state == EndpointState("query", "there:1", HealthCheck("query", ServiceHealth.HEALTHY, 0.5, NOW))


async def test_close_closes_every_probe() -> None:
    closed: list[str] = []

    class Closing(ScriptedProbe):
        async def close(self) -> None:
            closed.append(self.address)

    await Topology({name: Closing(name, None) for name in "abc"}).close()
    assert sorted(closed) == ["a", "b", "c"]


@pytest.mark.parametrize("status", ServiceHealth)
def test_every_status_on_the_wire(status: ServiceHealth) -> None:
    written = convert.write_service(
        EndpointState(
            "query", "unix:/x", HealthCheck("query", status, 0.25, NOW, "" if status.value == "healthy" else "why")
        )
    )
    assert pb.ServiceHealth.Name(written.status) == f"SERVICE_HEALTH_{status.name}"
    (endpoint,) = written.endpoints
    assert (endpoint.address, endpoint.role) == ("unix:/x", pb.ENDPOINT_ROLE_PRIMARY)
    assert endpoint.serving == (status is not ServiceHealth.UNHEALTHY)
    assert (endpoint.health.service_name, endpoint.health.status) == ("query", written.status)
    assert endpoint.health.response_time.nanos == 250_000_000
    assert endpoint.health.last_check.ToDatetime(UTC) == NOW
    assert endpoint.health.error_message == ("" if status is ServiceHealth.HEALTHY else "why")


def test_the_contract_has_no_status_that_nobody_reports() -> None:
    assert len(pb.ServiceHealth.values()) == len(ServiceHealth) + 1
