"""The audit service's composition root."""

from __future__ import annotations

import grpc

from groundwire.audit.v1 import audit_service_pb2 as pb
from groundwire.audit.v1 import audit_service_pb2_grpc as rpc
from services.audit.servicer import AuditServicer
from services.audit.settings import AuditSettings
from services.runtime.process import Process
from services.runtime.server import Service


async def assemble(_settings: AuditSettings, _process: Process) -> Service:
    """Stand at the address: the log itself comes with the RPCs."""
    servicer = AuditServicer()

    def register(server: grpc.aio.Server) -> None:
        rpc.add_AuditServiceServicer_to_server(servicer, server)

    async def nothing() -> None:
        """Nothing is held yet, and nothing is needed."""

    return Service(
        name="audit",
        descriptors=[pb.DESCRIPTOR.services_by_name["AuditService"]],
        register=register,
        ready=nothing,
        close=nothing,
    )
