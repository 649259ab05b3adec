"""The Retrieval port over gRPC: a RetrievalService."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Collection as Some
from typing import TYPE_CHECKING

import grpc

from groundwire.retrieval.v1 import retrieval_service_pb2 as pb
from groundwire.retrieval.v1 import retrieval_service_pb2_grpc as rpc
from services.corpus.errors import GroundwireError
from services.query.ports import Found, FoundPassage, Reference, Search
from services.runtime import wire
from services.runtime.auditing.record import current_record

if TYPE_CHECKING:
    from groundwire.retrieval.v1.retrieval_service_pb2_grpc import RetrievalServiceAsyncStub


class RetrievalOverGrpc:
    """Implements the port over ``channel``, which it owns. ``to_error`` says what a failed call means."""

    def __init__(self, channel: grpc.aio.Channel, to_error: Callable[[grpc.aio.AioRpcError], GroundwireError]) -> None:
        self._channel = channel
        self._stub: RetrievalServiceAsyncStub = rpc.RetrievalServiceStub(channel)
        self._to_error = to_error

    async def retrieve(self, search: Search) -> Found:
        """See the port."""
        request = pb.RetrieveRequest(
            query=search.query,
            filter=wire.write_filter(search.filter_) if search.filter_ is not None else None,
            collections=search.collections,
            top_k=search.top_k,
        )
        try:
            response = await self._stub.Retrieve(request)
        except grpc.aio.AioRpcError as error:
            raise self._to_error(error) from error
        current_record().query_hmac = response.query_hmac
        return Found(
            passages=tuple(map(_passage, response.chunks)),
            coverage=wire.read_coverage(response.coverage),
            notices=wire.read_notices(response.warnings),
        )

    async def still_readable(self, references: Some[Reference]) -> frozenset[Reference]:
        """See the port."""
        asked = frozenset(references)
        request = pb.CheckSourcesRequest(sources=[pb.SourceReference(**it._asdict()) for it in sorted(asked)])
        try:
            response = await self._stub.CheckSources(request)
        except grpc.aio.AioRpcError as error:
            raise self._to_error(error) from error
        readable = asked & {Reference(it.collection, it.document_id, it.version) for it in response.readable}
        if withheld := sorted(reference.document_id for reference in asked - readable):
            record = current_record()
            record.withheld = [*record.withheld, *withheld]
        return readable

    async def close(self) -> None:
        """See the port."""
        await self._channel.close()


def _passage(found: pb.RetrievedChunk) -> FoundPassage:
    chunk = found.chunk
    return FoundPassage(
        chunk_id=chunk.chunk_id,
        collection=chunk.collection,
        document_id=chunk.document_id,
        version=chunk.version,
        title=chunk.title,
        uri=chunk.uri,
        text=chunk.text,
        headings=tuple(chunk.headings),
        start=chunk.start_offset,
        page=chunk.page,
        score=found.score,
        stores=tuple(found.stores),
    )
