"""Whom ``groundwire status`` asks, and what they answer."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cli.client import open_channel
from cli.errors import usage
from cli.rpc_errors import connection_problem, explain, said_by_service
from cli.services import MESH, NAMES
from cli.status_view import DEGRADED, HEALTHY, UNHEALTHY, EndpointView, Llms, ServiceView, Stores, read_services
from cli.text import one_line
from groundwire.generation.v1 import generation_service_pb2 as generation_pb
from groundwire.generation.v1 import generation_service_pb2_grpc as generation_rpc
from groundwire.monitoring.v1 import monitoring_service_pb2 as monitoring_pb
from groundwire.monitoring.v1 import monitoring_service_pb2_grpc as monitoring_rpc
from groundwire.retrieval.v1 import retrieval_service_pb2 as retrieval_pb
from groundwire.retrieval.v1 import retrieval_service_pb2_grpc as retrieval_rpc
from services.runtime.addresses import address_problem
from services.runtime.options import TlsOptions
from services.runtime.settings import Settings

if TYPE_CHECKING:
    from groundwire.generation.v1.generation_service_pb2_grpc import GenerationServiceAsyncStub
    from groundwire.monitoring.v1.monitoring_service_pb2_grpc import MonitoringServiceAsyncStub
    from groundwire.retrieval.v1.retrieval_service_pb2_grpc import RetrievalServiceAsyncStub

_SERVING = health_pb2.HealthCheckResponse.SERVING


@dataclass(frozen=True)
class Where:
    """Where each service is. ``given`` are those whose address the command line says: they are asked there.

    ``patience`` is how many seconds each answer may take.
    """

    addresses: Mapping[str, str]
    patience: float
    tls: TlsOptions | None = None
    given: frozenset[str] = frozenset()


def find(settings: Settings, given: Sequence[str], port_base: int | None, patience: float) -> Where:
    """Where each service is: from the settings, unless the command line says otherwise."""
    found = {name: settings.address(name) for name in NAMES}
    if port_base:
        found |= {name: f"127.0.0.1:{port_base + n}" for n, name in enumerate(MESH)}
    named = set()
    for text in given:
        name, _, address = text.partition("=")
        if name not in found or not address:
            raise usage(f"--address {text!r}: write NAME=ADDR with a name of {', '.join(found)}")
        if problem := address_problem(address, lowest=1):
            raise usage(f"--address {name}: {problem}")
        found[name] = address
        named.add(name)
    return Where(found, patience, settings.tls, frozenset(named))


class Peers:
    """The services, over a channel to each that is opened when it is needed and closed at the end of the context."""

    def __init__(self, where: Where) -> None:
        self.where = where
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for channel in self._channels.values():
            await channel.close()

    async def check(self, name: str) -> ServiceView:
        """Ask one service's health, and whether it is ready."""
        patience = self.where.patience
        stub = health_pb2_grpc.HealthStub(self._channel(name))
        start = time.perf_counter()
        took: float | None = None
        try:
            alive = await stub.Check(health_pb2.HealthCheckRequest(service=""), timeout=patience)
            took = round((time.perf_counter() - start) * 1000, 1)
            ready = await stub.Check(health_pb2.HealthCheckRequest(service="readiness"), timeout=patience)
        except grpc.aio.AioRpcError as error:
            state, detail = UNHEALTHY, self.why(error, name)
        else:
            if alive.status != _SERVING:
                state, detail = DEGRADED, "it is starting or draining"
            elif ready.status != _SERVING:
                state, detail = DEGRADED, "it waits for something that it needs; its log says what"
            else:
                state, detail = HEALTHY, ""
        return ServiceView(name, state, detail, (EndpointView(self.where.addresses[name], state, milliseconds=took),))

    async def topology(self) -> tuple[ServiceView, ...]:
        """What monitoring says of all services; raises AioRpcError if it does not tell."""
        request = monitoring_pb.GetTopologyRequest()
        return read_services((await self._monitoring().GetTopology(request, timeout=self.where.patience)).services)

    async def topologies(self) -> AsyncIterator[tuple[ServiceView, ...]]:
        """What monitoring says of all services, now and after each change; raises like :meth:`topology`."""
        async for message in self._monitoring().WatchTopology(monitoring_pb.WatchTopologyRequest()):
            yield read_services(message.services)

    async def stores(self) -> Stores:
        """What retrieval says of its stores; None if it does not tell."""
        stub: RetrievalServiceAsyncStub = retrieval_rpc.RetrievalServiceStub(self._channel("retrieval"))
        try:
            found = await stub.ListStores(retrieval_pb.ListStoresRequest(), timeout=self.where.patience)
        except grpc.aio.AioRpcError:
            return None
        return list(found.stores)

    async def llms(self) -> Llms:
        """What generation says of its endpoints; None if it does not tell."""
        stub: GenerationServiceAsyncStub = generation_rpc.GenerationServiceStub(self._channel("generation"))
        try:
            found = await stub.ListEndpoints(generation_pb.ListEndpointsRequest(), timeout=self.where.patience)
        except grpc.aio.AioRpcError:
            return None
        return list(found.endpoints)

    def why(self, error: grpc.aio.AioRpcError, name: str) -> str:
        """Why the service ``name`` did not answer, in a few words."""
        match error.code():
            case grpc.StatusCode.UNAVAILABLE if said_by_service(error):
                return one_line(error.details() or "")
            case grpc.StatusCode.UNAVAILABLE:
                return connection_problem(error) or "nothing answers there"
            case grpc.StatusCode.DEADLINE_EXCEEDED:
                return "it does not answer in time"
            case _:
                return one_line(explain(error, name, self.where.addresses[name]).message, 400)

    def _monitoring(self) -> MonitoringServiceAsyncStub:
        stub: MonitoringServiceAsyncStub = monitoring_rpc.MonitoringServiceStub(self._channel("monitoring"))
        return stub

    def _channel(self, name: str) -> grpc.aio.Channel:
        if name not in self._channels:
            self._channels[name] = open_channel(self.where.addresses[name], self.where.tls)
        return self._channels[name]
