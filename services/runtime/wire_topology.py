"""Endpoints and their health, to and from the wire. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from groundwire.monitoring.v1 import monitoring_service_pb2 as pb
from services.resilience.breaker import BreakerState
from services.resilience.endpoints import Endpoint, EndpointStatus, Role
from services.resilience.health import HealthCheck, ServiceHealth
from services.runtime import wire

_HEALTH = {
    ServiceHealth.HEALTHY: pb.SERVICE_HEALTH_HEALTHY,
    ServiceHealth.DEGRADED: pb.SERVICE_HEALTH_DEGRADED,
    ServiceHealth.UNHEALTHY: pb.SERVICE_HEALTH_UNHEALTHY,
}
_ROLES = {Role.PRIMARY: pb.ENDPOINT_ROLE_PRIMARY, Role.BACKUP: pb.ENDPOINT_ROLE_BACKUP}
_FROM_HEALTH = {value: health for health, value in _HEALTH.items()}
_FROM_ROLE = {value: role for role, value in _ROLES.items()}


def write_health(health: ServiceHealth) -> pb.ServiceHealth.ValueType:
    """A state."""
    return _HEALTH[health]


def read_health(value: pb.ServiceHealth.ValueType) -> ServiceHealth:
    """A state; what a later release may call otherwise is not healthy."""
    return _FROM_HEALTH.get(value, ServiceHealth.UNHEALTHY)


def write_check(check: HealthCheck) -> pb.HealthCheck:
    """The result of a check."""
    return pb.HealthCheck(
        service_name=check.service_name,
        status=_HEALTH[check.status],
        response_time=wire.write_duration(check.response_time),
        last_check=wire.write_timestamp(check.last_check),
        error_message=check.error_message,
    )


def write_endpoint(status: EndpointStatus) -> pb.EndpointTopology:
    """An endpoint, as somebody sees it."""
    return pb.EndpointTopology(
        address=status.endpoint.address,
        role=_ROLES[status.endpoint.role],
        health=write_check(status.health),
        breaker=status.breaker.value,
        serving=status.serving,
        zone=status.endpoint.zone,
        in_flight=status.in_flight,
    )


def write_service(name: str, health: ServiceHealth, endpoints: Sequence[EndpointStatus]) -> pb.ServiceTopology:
    """A service, as one that calls it sees it."""
    return pb.ServiceTopology(service_name=name, status=_HEALTH[health], endpoints=map(write_endpoint, endpoints))


def read_endpoint(message: pb.EndpointTopology) -> EndpointStatus:
    """An endpoint, as the one who sent the message sees it."""
    check = message.health
    when = check.last_check.ToDatetime(tzinfo=UTC) if check.HasField("last_check") else datetime.fromtimestamp(0, UTC)
    breakers = {state.value: state for state in BreakerState}
    return EndpointStatus(
        endpoint=Endpoint(message.address, _FROM_ROLE.get(message.role, Role.PRIMARY), message.zone),
        health=HealthCheck(
            check.service_name,
            read_health(check.status),
            check.response_time.ToNanoseconds() / 1e9,
            when,
            check.error_message,
        ),
        breaker=breakers.get(message.breaker, BreakerState.CLOSED),
        serving=message.serving,
        in_flight=message.in_flight,
    )
