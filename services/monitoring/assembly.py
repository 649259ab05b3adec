"""The monitoring service's composition root."""

from __future__ import annotations

import grpc

from groundwire.monitoring.v1 import monitoring_service_pb2 as pb
from groundwire.monitoring.v1 import monitoring_service_pb2_grpc as rpc
from services.monitoring.adapters.watched_mesh import WatchedMesh
from services.monitoring.servicer import MonitoringServicer
from services.monitoring.settings import MonitoringSettings
from services.monitoring.topology import Topology
from services.runtime.process import Process
from services.runtime.server import Service
from services.runtime.settings import SERVICES


async def assemble(settings: MonitoringSettings, process: Process) -> Service:
    """Watch every service that the settings name."""
    watched = {name: process.channel_to(name, settings.targets(name), "monitoring", settings) for name in SERVICES}
    topology = Topology(WatchedMesh(watched))
    servicer = MonitoringServicer(topology)

    def register(server: grpc.aio.Server) -> None:
        rpc.add_MonitoringServiceServicer_to_server(servicer, server)

    async def ready() -> None:
        """Monitoring is most needed when others are not well: it depends on nobody."""

    return Service(
        name="monitoring",
        descriptors=[pb.DESCRIPTOR.services_by_name["MonitoringService"]],
        register=register,
        ready=ready,
        close=topology.close,
        recorder=await process.recorder(settings, "monitoring"),
    )
