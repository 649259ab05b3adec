"""The standard health service (grpc.health.v1) over a HealthBoard.

Only the protocol and stubs of grpcio-health-checking are used: its own aio servicer writes to watchers while it
holds a lock, so that one client that never reads can keep everybody else from learning that a service went down.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from ipaddress import IPv4Address, ip_address, ip_network
from urllib.parse import unquote

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from interceptors._shapes import Context
from services.corpus.errors import NotYetImplemented, Unavailable
from services.resilience.health import HealthBoard, ServingStatus

SERVICE = "grpc.health.v1.Health"
WATCH = f"/{SERVICE}/Watch"

# UNIMPLEMENTED, because gRPC's clients go on without watching then. Any other status makes them take the server for dead:
# whoever holds all the watches would have shut out everybody else.
_TOO_MANY = "too many health watchers: use Check"

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
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """Watch sends the status at once and again whenever it changes."""
        watcher = self._board.watch(request.service, _peer(context.peer()))
        if watcher is None and self._board.closed:
            # Clients watch again as soon as a watch ends: accepting that would hold a drain for its whole grace.
            raise Unavailable("this server is shutting down", reason="DRAINING")
        if watcher is None:
            raise NotYetImplemented(_TOO_MANY)
        try:
            while (status := await watcher.next()) is not None:
                yield health_pb2.HealthCheckResponse(status=_WIRE[status])
            if watcher.displaced:
                raise NotYetImplemented(_TOO_MANY)
        finally:
            self._board.unwatch(watcher)


def _peer(peer: str) -> str:
    """Whom a connection counts for: gRPC's ``ipv4:HOST:PORT`` without the port, and of IPv6 the network."""
    kind, _, rest = unquote(peer).partition(":")
    if kind not in ("ipv4", "ipv6"):
        return kind
    try:
        address = ip_address(rest.rpartition(":")[0].strip("[]"))
    except ValueError:
        return rest
    if isinstance(address, IPv4Address):
        return str(address)
    # Whoever has one address of a /64 has them all; a port for both kinds of addresses shows the old as the new.
    return str(address.ipv4_mapped or ip_network((address, 64), strict=False))
