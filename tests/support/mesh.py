"""The whole mesh in one process: the real services through their own assemblies, with light models and no disk.

Every service has its own server on a unix socket and calls the others over gRPC, as in production; only the parser
(no subprocesses), the models (hashing, word overlap), the catalog and the store (memory) are the light adapters.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from google.rpc import error_details_pb2, status_pb2

from groundwire.generation.v1 import generation_service_pb2_grpc
from groundwire.ingestion.v1 import ingestion_service_pb2_grpc
from groundwire.monitoring.v1 import monitoring_service_pb2_grpc
from groundwire.query.v1 import query_service_pb2_grpc
from groundwire.retrieval.v1 import retrieval_service_pb2_grpc
from groundwire.store.v1 import store_service_pb2_grpc
from services.audit import assembly as audit
from services.audit.settings import AuditSettings
from services.audit.witness import assembly as witness
from services.audit.witness.settings import WitnessSettings
from services.catalog.memory import MemoryCatalog
from services.catalog.ports import Catalog
from services.embedding.memory import HashingEmbedder, OverlapCrossEncoder
from services.generation import assembly as generation
from services.generation.settings import GenerationSettings
from services.ingestion import assembly as ingestion
from services.ingestion.adapters.parsing.in_process import InProcessParser
from services.ingestion.settings import IngestionSettings
from services.monitoring import assembly as monitoring
from services.monitoring.settings import MonitoringSettings
from services.query import assembly as query
from services.query.settings import QuerySettings
from services.retrieval import assembly as retrieval
from services.retrieval.settings import RetrievalSettings
from services.runtime.identity import development_identity
from services.runtime.options import Addresses, DevelopmentOptions
from services.runtime.process import Process
from services.runtime.server import Server, Service
from services.runtime.settings import Settings
from services.store import assembly as store
from services.store.settings import StoreSettings
from services.vectorstores.memory import MemoryVectorStore
from services.vectorstores.ports import ChunkStore

if TYPE_CHECKING:
    from groundwire.generation.v1.generation_service_pb2_grpc import GenerationServiceAsyncStub
    from groundwire.ingestion.v1.ingestion_service_pb2_grpc import IngestionServiceAsyncStub
    from groundwire.monitoring.v1.monitoring_service_pb2_grpc import MonitoringServiceAsyncStub
    from groundwire.query.v1.query_service_pb2_grpc import QueryServiceAsyncStub
    from groundwire.retrieval.v1.retrieval_service_pb2_grpc import RetrievalServiceAsyncStub
    from groundwire.store.v1.store_service_pb2_grpc import StoreServiceAsyncStub

SUBJECT = "alice"
GROUP = "staff"
# From the back to the front, so that a service finds those that it calls.
NAMES = ("store", "witness", "audit", "retrieval", "generation", "ingestion", "query", "monitoring")
_SETTINGS: dict[str, type[Settings]] = {
    "audit": AuditSettings,
    "generation": GenerationSettings,
    "ingestion": IngestionSettings,
    "monitoring": MonitoringSettings,
    "query": QuerySettings,
    "retrieval": RetrievalSettings,
    "store": StoreSettings,
    "witness": WitnessSettings,
}


@dataclass
class Mesh:
    """A running mesh. Everybody who calls it is ``SUBJECT``, member of ``GROUP``."""

    catalog: Catalog
    vectors: ChunkStore
    servers: dict[str, Server] = field(default_factory=dict)
    channels: dict[str, grpc.aio.Channel] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.addresses: dict[str, str] = {}
        self.process: Process
        self.directory: Path

    @property
    def query(self) -> QueryServiceAsyncStub:
        """The front door."""
        return query_service_pb2_grpc.QueryServiceStub(self.channels["query"])

    @property
    def ingestion(self) -> IngestionServiceAsyncStub:
        """Where documents go in."""
        return ingestion_service_pb2_grpc.IngestionServiceStub(self.channels["ingestion"])

    @property
    def retrieval(self) -> RetrievalServiceAsyncStub:
        """Search."""
        return retrieval_service_pb2_grpc.RetrievalServiceStub(self.channels["retrieval"])

    @property
    def generation(self) -> GenerationServiceAsyncStub:
        """Answers."""
        return generation_service_pb2_grpc.GenerationServiceStub(self.channels["generation"])

    @property
    def monitoring(self) -> MonitoringServiceAsyncStub:
        """Who is up."""
        return monitoring_service_pb2_grpc.MonitoringServiceStub(self.channels["monitoring"])

    @property
    def store(self) -> StoreServiceAsyncStub:
        """The chunks."""
        return store_service_pb2_grpc.StoreServiceStub(self.channels["store"])

    async def stop(self, name: str) -> None:
        """End one service."""
        await self.servers[name].drain(delay=0, grace=0)

    async def start(self, name: str) -> None:
        """Begin one service, or begin it again after it was stopped."""
        if (channel := self.channels.pop(name, None)) is not None:
            await channel.close()
        await _start(self, name, self.process, self.directory)

    async def raw(self, service: str, method: str, *messages: bytes, **options: Any) -> Ended:
        """Call ``/package.Service/Method`` of ``service`` with bytes as they are; any shape of call fits."""
        if len(messages) == 1:
            return await ended(raw(self.channels[service], method)(messages[0], **options))
        make: Any = self.channels[service].stream_stream(method)
        return await ended(make(iter(messages), **options))


@dataclass(frozen=True)
class Ended:
    """What a caller saw of a call."""

    code: grpc.StatusCode
    details: str
    responses: Sequence[Any]
    trailing: dict[str, str | bytes]

    @property
    def reason(self) -> str:
        """The reason in the status's ErrorInfo, with its domain checked."""
        info = self._detail(error_details_pb2.ErrorInfo())
        assert info is None or info.domain == "groundwire"
        return info.reason if info is not None else ""

    @property
    def fields(self) -> list[str]:
        """The violated fields, in the order given."""
        bad_request = self._detail(error_details_pb2.BadRequest())
        return [violation.field for violation in bad_request.field_violations] if bad_request is not None else []

    def _detail(self, message: Any) -> Any:
        packed = self.trailing.get("grpc-status-details-bin")
        if not isinstance(packed, bytes):
            return None
        return next(
            (message for detail in status_pb2.Status.FromString(packed).details if detail.Unpack(message)), None
        )


def raw(channel: grpc.aio.Channel, method: str) -> Any:
    """A call of ``/package.Service/Method`` with one message of bytes; whatever its shape is, this fits.

    Not as a stream of requests: grpc.aio's client makes INTERNAL ("Internal error from Core") of a refusal that comes
    while it is still writing.
    """
    return channel.unary_stream(method)


async def ended(call: Any) -> Ended:
    """How a call of any shape went."""
    responses: list[Any] = []
    try:
        if hasattr(call, "__aiter__"):
            responses.extend([response async for response in call])
        else:
            responses.append(await call)
    except grpc.aio.AioRpcError:
        pass
    return Ended(await call.code(), await call.details() or "", responses, dict(await call.trailing_metadata() or ()))


@asynccontextmanager
async def open_mesh(
    *, catalog: Catalog | None = None, vectors: ChunkStore | None = None, names: Sequence[str] = NAMES
) -> AsyncIterator[Mesh]:
    """Start the mesh (or some of its services); everything ends with the context."""
    # A directory of its own with a short name: a unix socket's path must not exceed 108 bytes.
    with tempfile.TemporaryDirectory(prefix="gw-") as directory:
        mesh = Mesh(catalog or MemoryCatalog(), vectors or MemoryVectorStore())
        mesh.addresses.update({name: f"unix:{directory}/{name}.sock" for name in NAMES})
        process = mesh.process = Process(embedder=HashingEmbedder(), cross_encoder=OverlapCrossEncoder())
        mesh.directory = Path(directory)
        try:
            for name in names:
                await mesh.start(name)
            yield mesh
        finally:
            for channel in mesh.channels.values():
                await channel.close()
            for name in reversed(list(mesh.servers)):
                await mesh.stop(name)
            await process.close()


async def _start(mesh: Mesh, name: str, process: Process, directory: Path) -> None:
    settings = _SETTINGS[name](
        data_dir=directory,
        addresses=Addresses(**mesh.addresses),
        development=DevelopmentOptions(subject=SUBJECT, groups=(GROUP,)),
    )
    assemble: dict[str, Callable[..., Awaitable[Service]]] = {
        "store": partial(store.assemble, store=mesh.vectors),
        "audit": audit.assemble,
        "witness": witness.assemble,
        "retrieval": partial(retrieval.assemble, catalog=mesh.catalog),
        "generation": generation.assemble,
        "ingestion": partial(ingestion.assemble, catalog=mesh.catalog, parser=InProcessParser()),
        "query": query.assemble,
        "monitoring": monitoring.assemble,
    }
    server = Server(
        await assemble[name](settings, process),
        settings,
        development_identity(settings),
        process.telemetry.tracer(name),
        dependencies=process.dependencies(name),
    )
    await server.start(mesh.addresses[name])
    mesh.servers[name] = server
    mesh.channels[name] = grpc.aio.insecure_channel(
        mesh.addresses[name],
        options=[
            ("grpc.default_authority", "localhost"),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", -1),
        ],
    )
