"""A service that works without all of its parts says so, and why; one that cannot work says that it is not ready."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from groundwire.generation.v1 import generation_service_pb2 as generation_pb
from groundwire.monitoring.v1 import monitoring_service_pb2 as pb
from services.resilience.breaker import BreakerState
from services.resilience.endpoints import MethodClass
from services.runtime.channels import open_channel
from tests.support.audit_reader import events_of
from tests.support.mesh import Mesh, open_mesh
from tests.support.serving import until

HEALTHY, DEGRADED, UNHEALTHY = (
    pb.SERVICE_HEALTH_HEALTHY,
    pb.SERVICE_HEALTH_DEGRADED,
    pb.SERVICE_HEALTH_UNHEALTHY,
)
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
async def mesh() -> AsyncIterator[Mesh]:
    async with open_mesh() as opened:
        await states(opened, dict.fromkeys(opened.addresses, HEALTHY))
        yield opened


async def states(mesh: Mesh, wanted: dict[str, int]) -> dict[str, pb.ServiceTopology]:
    """Wait until monitoring tells these states."""
    async for seen in mesh.monitoring.WatchTopology(pb.WatchTopologyRequest()):
        found = {service.service_name: service for service in seen.services}
        if all(found[name].status == status for name, status in wanted.items()):
            return found
    raise AssertionError("the watch ended")


async def readiness(mesh: Mesh, name: str, wanted: int) -> None:
    """Wait until a service says so of its readiness."""
    request = health_pb2.HealthCheckRequest(service="readiness")
    async for answer in health_pb2_grpc.HealthStub(mesh.channels[name]).Watch(request):
        if answer.status == wanted:
            return
    raise AssertionError("the watch ended")


async def test_what_can_be_done_without_degrades(mesh: Mesh) -> None:
    await mesh.stop("audit")
    # Events are kept in spools meanwhile.
    seen = await states(mesh, {"audit": UNHEALTHY, "query": DEGRADED, "ingestion": DEGRADED})
    assert "audit does not answer" in seen["query"].error_message
    await readiness(mesh, "query", SERVING)
    await mesh.start("audit")
    await states(mesh, dict.fromkeys(mesh.addresses, HEALTHY))


async def test_what_cannot_be_done_without_makes_not_ready(mesh: Mesh) -> None:
    await mesh.stop("store")
    await readiness(mesh, "retrieval", NOT_SERVING)
    await readiness(mesh, "query", NOT_SERVING)
    seen = await states(mesh, {"store": UNHEALTHY, "retrieval": DEGRADED, "query": DEGRADED})
    assert seen["retrieval"].error_message == "no vector store answers"
    await mesh.start("store")
    await readiness(mesh, "query", SERVING)
    await states(mesh, dict.fromkeys(mesh.addresses, HEALTHY))


async def test_who_calls_and_whose_breaker_is_open_is_seen(mesh: Mesh) -> None:
    seen = await states(mesh, dict.fromkeys(mesh.addresses, HEALTHY))
    (generation,) = seen["generation"].endpoints
    assert [(each.caller, each.breaker, each.serving) for each in generation.observations] == [
        ("query", "closed", True)
    ]
    (channel,) = (each for each in mesh.process.dependencies("query") if each.pool.service == "generation")
    breaker = channel.pool.members[0].breaker(MethodClass.READ)
    while breaker.state is not BreakerState.OPEN:
        permit = breaker.acquire()
        assert permit is not None
        permit.fail(0.1)
    async for topology in mesh.monitoring.WatchTopology(pb.WatchTopologyRequest()):
        (found,) = (service for service in topology.services if service.service_name == "generation")
        if found.endpoints[0].breaker == "open":
            break
    assert mesh.process.telemetry.endpoints.changes["query", "generation", "open"] == 1

    def recorded() -> bool:
        found = [event for event in events_of(mesh.directory) if event.reason == "BREAKER: closed -> open"]
        return [(event.acting_service, event.resource) for event in found] == [
            ("query", f"services/generation/endpoints/{mesh.addresses['generation']}")
        ]

    await until(recorded)


async def test_a_target_for_grpcs_xds_client_is_taken() -> None:
    channel = open_channel("xds:///retrieval", health_checked=False)
    make: Any = channel.unary_unary("/S/M")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await make(generation_pb.ListEndpointsRequest().SerializeToString(), timeout=10)
    # There is nobody to ask for endpoints here; what counts is that gRPC knows the scheme.
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "xds" in (caught.value.details() or "").lower() or "bootstrap" in (caught.value.details() or "").lower()
    await channel.close()
