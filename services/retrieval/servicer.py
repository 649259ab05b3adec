"""RetrievalService on the wire: one domain call per RPC. Domain errors become statuses in an interceptor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import grpc

from groundwire.retrieval.v1 import retrieval_service_pb2 as pb
from groundwire.retrieval.v1 import retrieval_service_pb2_grpc as pb_grpc
from services.corpus.principal import Caller
from services.retrieval import convert
from services.retrieval.retrieval import Retriever

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class RetrievalServicer(pb_grpc.RetrievalServiceServicer):
    """Translates and delegates; ``caller_of`` gives the verified identity behind the current call."""

    def __init__(self, retriever: Retriever, *, caller_of: Callable[[], Caller]) -> None:
        self._retriever = retriever
        self._caller_of = caller_of

    async def Retrieve(self, request: pb.RetrieveRequest, context: Context) -> pb.RetrieveResponse:
        """Retrieve finds, fuses, deduplicates and reranks chunks."""
        result = await self._retriever.retrieve(self._caller_of(), convert.read_request(request))
        return convert.write_result(result)

    async def CheckSources(self, request: pb.CheckSourcesRequest, context: Context) -> pb.CheckSourcesResponse:
        """CheckSources says which sources of an answer under way the caller may still read."""
        references = convert.read_references(request)
        return convert.write_references(await self._retriever.check_sources(self._caller_of(), references))

    async def ListStores(self, request: pb.ListStoresRequest, context: Context) -> pb.ListStoresResponse:
        """ListStores says what each vector store can do and how it is."""
        return convert.write_statuses(await self._retriever.list_stores(self._caller_of()))
