"""The standard health service (grpc.health.v1) over a HealthBoard.

Only the protocol and stubs of grpcio-health-checking are used: its own aio servicer writes to watchers while it
holds a lock, so that one client that never reads can keep everybody else from learning that a service went down.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from interceptors._shapes import Context
from services.corpus.errors import ResourceExhausted, Unavailable
from services.resilience.health import HealthBoard, ServingStatus

SERVICE = "grpc.health.v1.Health"

_WIRE = {
    ServingStatus.SERVING: health_pb2.HealthCheckResponse.SERVING,
    ServingStatus.NOT_SERVING: health_pb2.HealthCheckResponse.NOT_SERVING,
    ServingStatus.UNKNOWN: health_pb2.HealthCheckResponse.SERVICE_UNKNOWN,
}


class HealthServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc] # published without types
    """Answers Check, List and Watch from the board."""

    def __init__(self, board: HealthBoard) -> None:
        self._board = board

    async def Check(  # noqa: N802 - the protocol's name
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> health_pb2.HealthCheckResponse:
        """Check returns the status of one service; NOT_FOUND for an unknown one, as the protocol says."""
        status = self._board.status(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return health_pb2.HealthCheckResponse(status=_WIRE[status])

    async def List(  # noqa: N802 - the protocol's name
        self, _request: health_pb2.HealthListRequest, _context: Context
    ) -> health_pb2.HealthListResponse:
        """List returns the status of every service."""
        statuses = {
            name: health_pb2.HealthCheckResponse(status=_WIRE[status])
            for name, status in self._board.statuses().items()
        }
        return health_pb2.HealthListResponse(statuses=statuses)

    async def Watch(  # noqa: N802 - the protocol's name
        self, request: health_pb2.HealthCheckRequest, _context: Context
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """Watch sends the status at once and again whenever it changes."""
        watcher = self._board.watch(request.service)
        if watcher is None and self._board.closed:
            # Clients watch again as soon as a watch ends: accepting that would hold a drain for its whole grace.
            raise Unavailable("this server is shutting down", reason="DRAINING")
        if watcher is None:
            raise ResourceExhausted("too many health watchers", retry_after=5.0)
        try:
            while (status := await watcher.next()) is not None:
                yield health_pb2.HealthCheckResponse(status=_WIRE[status])
        finally:
            self._board.unwatch(request.service, watcher)
