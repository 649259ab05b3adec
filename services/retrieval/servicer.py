"""RetrievalService on the wire: one domain call per RPC. Domain errors become statuses in an interceptor."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc

from groundwire.retrieval.v1 import retrieval_service_pb2 as pb
from groundwire.retrieval.v1 import retrieval_service_pb2_grpc as pb_grpc
from services.corpus.principal import Caller
from services.retrieval import convert
from services.retrieval.retrieval import Retriever
from services.runtime.auditing.record import current_record

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class RetrievalServicer(pb_grpc.RetrievalServiceServicer):
    """Translates and delegates; ``caller_of`` gives the verified identity behind the current call."""

    def __init__(
        self,
        retriever: Retriever,
        *,
        caller_of: Callable[[], Caller],
        digest: Callable[[str, str], Awaitable[bytes]],
    ) -> None:
        """``digest`` makes of a tenant and a query what the audit log keeps of the query."""
        self._retriever = retriever
        self._digest = digest
        self._caller_of = caller_of

    async def Retrieve(self, request: pb.RetrieveRequest, context: Context) -> pb.RetrieveResponse:
        """Retrieve finds, fuses, deduplicates and reranks chunks."""
        caller, query = self._caller_of(), convert.read_request(request)
        record = current_record()
        record.query_hmac = await self._digest(caller.tenant, query.query)
        result = await self._retriever.retrieve(caller, query)
        keys = [passage.key for passage in result.passages]
        record.document_ids = [key.document_id for key in keys]
        record.chunk_ids = [key.chunk_id for key in keys]
        record.withheld = result.withheld
        # Who asks for themselves knows the query, and could learn what others asked by comparing.
        return convert.write_result(result, query_hmac=record.query_hmac if caller.acting_service else b"")

    async def CheckSources(self, request: pb.CheckSourcesRequest, context: Context) -> pb.CheckSourcesResponse:
        """CheckSources says which sources of an answer under way the caller may still read."""
        references = convert.read_references(request)
        return convert.write_references(await self._retriever.check_sources(self._caller_of(), references))

    async def ListStores(self, request: pb.ListStoresRequest, context: Context) -> pb.ListStoresResponse:
        """ListStores says what each vector store can do and how it is."""
        return convert.write_statuses(await self._retriever.list_stores(self._caller_of()))
