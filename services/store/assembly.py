"""The store's composition root."""

from __future__ import annotations

from urllib.parse import urlsplit

import grpc

from groundwire.store.v1 import store_service_pb2 as pb
from groundwire.store.v1 import store_service_pb2_grpc as rpc
from services.runtime.process import Process
from services.runtime.server import MIB, Service
from services.store.servicer import StoreServicer
from services.store.settings import StoreSettings
from services.vectorstores.ports import ChunkStore


async def assemble(settings: StoreSettings, process: Process, *, store: ChunkStore | None = None) -> Service:
    """Open the engines that the settings name (or take ``store``) and put the servicer before them."""
    opened = store or await open_store(settings)
    servicer = StoreServicer(opened)

    def register(server: grpc.aio.Server) -> None:
        rpc.add_StoreServiceServicer_to_server(servicer, server)

    async def ready() -> None:
        await opened.capabilities()

    return Service(
        name="store",
        descriptors=[pb.DESCRIPTOR.services_by_name["StoreService"]],
        register=register,
        ready=ready,
        close=opened.close,
        recorder=await process.recorder(settings, "store"),
        max_request_bytes=64 * MIB,
    )


async def open_store(settings: StoreSettings) -> ChunkStore:
    """The engines that the settings name; FailedPrecondition while another process has them open."""
    # Chroma takes a second to import: only the process that owns the index pays for it.
    from services.vectorstores.embedded import open_embedded, open_with_chroma_server  # noqa: PLC0415

    directory = settings.data_dir / "store"
    if settings.store.vectors_url == "chroma:":
        return await open_embedded(directory)
    url = urlsplit(settings.store.vectors_url.removeprefix("chroma+"))
    return await open_with_chroma_server(
        directory, url.hostname or "localhost", url.port or 8000, ssl=url.scheme == "https"
    )
