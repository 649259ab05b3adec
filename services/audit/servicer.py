"""AuditService on the wire."""

from __future__ import annotations

from groundwire.audit.v1 import audit_service_pb2_grpc as rpc
from services.runtime.unbuilt import unbuilt


class AuditServicer(rpc.AuditServiceServicer):
    """Stands at its address, reports its health, and says of each RPC that it is not built yet."""

    AppendEvents = unbuilt
    ListEvents = unbuilt
    WatchEvents = unbuilt
    GetCheckpoint = unbuilt
    GetInclusionProof = unbuilt
    GetConsistencyProof = unbuilt
    VerifyLog = unbuilt
    CosignCheckpoint = unbuilt
