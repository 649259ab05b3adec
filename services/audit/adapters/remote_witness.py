"""The Witness port over gRPC."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import grpc

from groundwire.audit.v1 import audit_service_pb2 as pb
from groundwire.audit.v1 import audit_service_pb2_grpc as rpc
from services.audit.ports import CheckpointRefused
from services.corpus.errors import FailedPrecondition, GroundwireError

if TYPE_CHECKING:
    from groundwire.audit.v1.audit_service_pb2_grpc import AuditServiceAsyncStub

_TIMEOUT = 5.0


class RemoteWitness:
    """Asks over ``channel``, which it owns."""

    def __init__(self, channel: grpc.aio.Channel, to_error: Callable[[grpc.aio.AioRpcError], GroundwireError]) -> None:
        self._channel = channel
        self._to_error = to_error
        self._stub: AuditServiceAsyncStub = rpc.AuditServiceStub(channel)

    async def cosign(self, old_size: int, proof: Sequence[bytes], note: str) -> str:
        """See the port."""
        request = pb.CosignCheckpointRequest(old_size=old_size, consistency_proof=proof, note=note)
        try:
            response = await self._stub.CosignCheckpoint(request, timeout=_TIMEOUT)
        except grpc.aio.AioRpcError as failed:
            error = self._to_error(failed)
            if isinstance(error, FailedPrecondition) and error.metadata.get("witnessed_size", "").isdigit():
                raise CheckpointRefused(error.message, int(error.metadata["witnessed_size"])) from failed
            raise error from failed
        return response.cosignature

    async def close(self) -> None:
        """See the port."""
        await self._channel.close()
