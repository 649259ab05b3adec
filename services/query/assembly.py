"""The query service's composition root."""

from __future__ import annotations

import asyncio
from functools import partial

import grpc

from groundwire.query.v1 import query_service_pb2 as pb
from groundwire.query.v1 import query_service_pb2_grpc as rpc
from services.query.adapters.generation_service import GenerationOverGrpc
from services.query.adapters.retrieval_service import RetrievalOverGrpc
from services.query.query import Answerer
from services.query.servicer import QueryServicer
from services.query.settings import QuerySettings
from services.runtime.identity import current_caller
from services.runtime.process import Process
from services.runtime.server import Service
from services.runtime.status import from_rpc_error


async def assemble(settings: QuerySettings, process: Process) -> Service:
    """Wire the front door to the retrieval and generation services that the settings name."""
    to_retrieval = process.channel(settings, "retrieval", "query")
    to_generation = process.channel(settings, "generation", "query")
    answerer = Answerer(
        RetrievalOverGrpc(to_retrieval, partial(from_rpc_error, dependency="retrieval")),
        GenerationOverGrpc(to_generation, partial(from_rpc_error, dependency="generation")),
    )
    servicer = QueryServicer(answerer, current_caller)

    def register(server: grpc.aio.Server) -> None:
        rpc.add_QueryServiceServicer_to_server(servicer, server)

    async def ready() -> None:
        await asyncio.gather(to_retrieval.require_ready(), to_generation.require_ready())

    return Service(
        name="query",
        descriptors=[pb.DESCRIPTOR.services_by_name["QueryService"]],
        register=register,
        ready=ready,
        close=answerer.close,
        recorder=await process.recorder(settings, "query", several=True),
        deadline_cap=settings.query.timeout,
    )
