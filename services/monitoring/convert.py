"""MonitoringService messages to and from the domain. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from groundwire.monitoring.v1 import dependency_service_pb2
from groundwire.monitoring.v1 import monitoring_service_pb2 as pb
from services.monitoring.ports import SelfReport
from services.monitoring.topology import EndpointState, Observation, ServiceState
from services.resilience.breaker import BreakerState
from services.resilience.endpoints import EndpointStatus
from services.runtime import wire_topology


def write_services(states: Sequence[ServiceState]) -> list[pb.ServiceTopology]:
    """The mesh on the wire."""
    return [
        pb.ServiceTopology(
            service_name=state.service_name,
            status=wire_topology.write_health(state.status),
            endpoints=map(_endpoint, state.endpoints),
            error_message=state.error_message,
        )
        for state in states
    ]


def read_report(message: dependency_service_pb2.WatchDependenciesResponse) -> SelfReport:
    """What a server says of itself."""
    dependencies: dict[str, list[EndpointStatus]] = {}
    for each in message.dependencies:
        # Two stores may be called by one name, by different paths.
        dependencies.setdefault(each.service_name, []).extend(map(wire_topology.read_endpoint, each.endpoints))
    return SelfReport(wire_topology.read_health(message.status), message.error_message, dependencies)


def _endpoint(state: EndpointState) -> pb.EndpointTopology:
    breaker = state.breaker or BreakerState.CLOSED
    calls = sum(each.status.in_flight for each in state.observations)
    shown = wire_topology.write_endpoint(EndpointStatus(state.endpoint, state.health, breaker, state.serving, calls))
    if state.breaker is None:
        shown.breaker = ""
    shown.observations.extend(map(_observation, state.observations))
    return shown


def _observation(observation: Observation) -> pb.EndpointObservation:
    status = observation.status
    return pb.EndpointObservation(
        caller=observation.caller,
        status=wire_topology.write_health(status.health.status),
        breaker=status.breaker.value,
        serving=status.serving,
        in_flight=status.in_flight,
    )
