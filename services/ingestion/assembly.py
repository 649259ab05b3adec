"""The ingestion service's composition root."""

from __future__ import annotations

from datetime import timedelta

import grpc

from groundwire.ingestion.v1 import ingestion_service_pb2 as pb
from groundwire.ingestion.v1 import ingestion_service_pb2_grpc as rpc
from services.catalog.ports import Catalog
from services.catalog.recorded import recorded
from services.ingestion.adapters.parsing.pool import SubprocessParser
from services.ingestion.eraser import Eraser, ErasingPolicy
from services.ingestion.erasure import Erasures
from services.ingestion.ingestion import IngestionLimits, Ingestor
from services.ingestion.library import Library
from services.ingestion.parsed import ChunkLimits, DocumentParser
from services.ingestion.servicer import IngestionServicer
from services.ingestion.settings import IngestionOptions, IngestionSettings
from services.ingestion.store_writer import MOST_WRITE
from services.runtime.auditing.effects import Effects
from services.runtime.identity import current_caller
from services.runtime.process import Process
from services.runtime.server import MIB, Service
from services.vectorstores.ports import VectorStore

# What receipts and errors call the store that chunks go to.
_STORE = "store"


async def assemble(
    settings: IngestionSettings,
    process: Process,
    *,
    catalog: Catalog | None = None,
    store: VectorStore | None = None,
    parser: DocumentParser | None = None,
) -> Service:
    """Wire ingestion to its parser processes, the embedding model, the store and the catalog.

    Tests hand in other adapters; the service owns, and closes, whatever it is given.
    """
    options = settings.ingestion
    recorder = await process.recorder(settings, "ingestion")
    opened_catalog = recorded(catalog or await process.catalog(settings), Effects(recorder))
    opened_parser = parser or SubprocessParser(
        workers=options.parser_workers,
        timeout_s=options.parser_timeout,
        memory_limit_bytes=options.parser_memory_mib * MIB,
    )
    opened_store = store or await process.sealed_store(
        settings, process.store_channel(options.vector_store_url, "ingestion", _STORE, settings)
    )
    embedder = await process.embedder(settings)
    keys = await process.encryption(settings)
    ingestor = Ingestor(
        catalog=opened_catalog,
        parser=opened_parser,
        embedder=embedder,
        store=opened_store,
        limits=_limits(options),
        require_keys=keys.keyring.load if keys else None,
    )
    library = Library(opened_catalog, opened_store, embedder.model)
    eraser = Eraser(opened_catalog, {_STORE: opened_store}, _erasing(options))
    servicer = IngestionServicer(ingestor, library, Erasures(opened_catalog, eraser), current_caller)

    def register(server: grpc.aio.Server) -> None:
        rpc.add_IngestionServiceServicer_to_server(servicer, server)

    async def ready() -> None:
        await opened_store.capabilities()
        await opened_catalog.check()

    async def close() -> None:
        await eraser.close()
        await ingestor.close()
        await opened_parser.close()
        await opened_store.close()
        await opened_catalog.close()

    eraser.start()
    return Service(
        name="ingestion",
        descriptors=[pb.DESCRIPTOR.services_by_name["IngestionService"]],
        register=register,
        ready=ready,
        close=close,
        recorder=recorder,
        deadline_cap=options.timeout,
        # Room for the largest document and its description; a larger message is refused by gRPC itself.
        max_request_bytes=64 * MIB,
    )


def _erasing(options: IngestionOptions) -> ErasingPolicy:
    # A version that was on its way when its document was deleted may be written as late as this, if its process lives;
    # a caller who sets a longer deadline may make it later.
    return ErasingPolicy(latest_write=timedelta(seconds=options.timeout + 2 * MOST_WRITE))


def _limits(options: IngestionOptions) -> IngestionLimits:
    return IngestionLimits(
        max_document_bytes=options.max_document_mib * MIB,
        in_flight=options.in_flight,
        chunks=ChunkLimits(options.chunk_target_chars, options.chunk_max_chars, options.chunk_overlap_chars),
    )
