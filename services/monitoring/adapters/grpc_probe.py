"""The Probe port over the standard health protocol."""

from __future__ import annotations

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.corpus.errors import Unavailable

_TIMEOUT = 2.0


class GrpcProbe:
    """Asks over ``channel``, which it owns."""

    def __init__(self, channel: grpc.aio.Channel, address: str) -> None:
        self._channel = channel
        self._stub = health_pb2_grpc.HealthStub(channel)
        self.address = address

    async def check(self, service: str) -> bool:
        """See the port."""
        try:
            response = await self._stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=_TIMEOUT)
        except grpc.aio.AioRpcError as error:
            raise Unavailable("it does not answer") from error
        return bool(response.status == health_pb2.HealthCheckResponse.SERVING)

    async def close(self) -> None:
        """See the port."""
        await self._channel.close()
