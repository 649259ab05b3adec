"""MonitoringService messages to and from the domain. Pure."""

from __future__ import annotations

from groundwire.monitoring.v1 import monitoring_service_pb2 as pb
from services.monitoring.topology import EndpointState, HealthCheck, ServiceHealth
from services.runtime import wire

_HEALTH = {
    ServiceHealth.HEALTHY: pb.SERVICE_HEALTH_HEALTHY,
    ServiceHealth.DEGRADED: pb.SERVICE_HEALTH_DEGRADED,
    ServiceHealth.UNHEALTHY: pb.SERVICE_HEALTH_UNHEALTHY,
}


def write_service(state: EndpointState) -> pb.ServiceTopology:
    """A service and its one endpoint on the wire."""
    status = _HEALTH[state.health.status]
    endpoint = pb.EndpointTopology(
        address=state.address,
        role=pb.ENDPOINT_ROLE_PRIMARY,
        health=_write_check(state.health),
        serving=state.health.status is not ServiceHealth.UNHEALTHY,
    )
    return pb.ServiceTopology(service_name=state.service_name, status=status, endpoints=[endpoint])


def _write_check(check: HealthCheck) -> pb.HealthCheck:
    return pb.HealthCheck(
        service_name=check.service_name,
        status=_HEALTH[check.status],
        response_time=wire.write_duration(check.response_time),
        last_check=wire.write_timestamp(check.last_check),
        error_message=check.error_message,
    )
