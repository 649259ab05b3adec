"""MonitoringService on the wire."""

from __future__ import annotations

from collections.abc import Sequence

from groundwire.monitoring.v1 import monitoring_service_pb2 as pb
from groundwire.monitoring.v1 import monitoring_service_pb2_grpc as rpc
from interceptors._shapes import Context
from services.monitoring import convert
from services.monitoring.topology import Topology
from services.runtime.unbuilt import unbuilt


class MonitoringServicer(rpc.MonitoringServiceServicer):
    """Translates and delegates."""

    WatchTopology = unbuilt
    RecordMetrics = unbuilt
    GetMetricHistory = unbuilt
    CreateAlertRule = unbuilt
    ListAlertRules = unbuilt
    DeleteAlertRule = unbuilt
    ListAlerts = unbuilt
    WatchAlerts = unbuilt

    def __init__(self, topology: Topology) -> None:
        self._topology = topology

    async def GetTopology(self, request: pb.GetTopologyRequest, context: Context) -> pb.GetTopologyResponse:
        """See the contract."""
        checks: Sequence[pb.ServiceTopology] = [convert.write_service(state) for state in await self._topology.look()]
        return pb.GetTopologyResponse(services=checks)
