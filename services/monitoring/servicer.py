"""MonitoringService on the wire."""

from __future__ import annotations

from collections.abc import AsyncIterator

from groundwire.monitoring.v1 import monitoring_service_pb2 as pb
from groundwire.monitoring.v1 import monitoring_service_pb2_grpc as rpc
from interceptors._shapes import Context
from services.monitoring import convert
from services.monitoring.topology import Topology
from services.runtime.unbuilt import unbuilt


class MonitoringServicer(rpc.MonitoringServiceServicer):
    """Translates and delegates."""

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
        del request, context
        return pb.GetTopologyResponse(services=convert.write_services(await self._topology.look()))

    async def WatchTopology(
        self, request: pb.WatchTopologyRequest, context: Context
    ) -> AsyncIterator[pb.WatchTopologyResponse]:
        """See the contract."""
        del request, context
        async for states in self._topology.watch():
            yield pb.WatchTopologyResponse(services=convert.write_services(states))
