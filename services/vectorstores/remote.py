"""A VectorStore behind a StoreService: the port over gRPC."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import grpc

from groundwire.store.v1 import store_service_pb2 as pb
from groundwire.store.v1 import store_service_pb2_grpc as rpc
from services.corpus.errors import GroundwireError
from services.vectorstores import wire
from services.vectorstores.ports import (
    FetchedChunk,
    KeptPayload,
    Partition,
    PayloadChange,
    StoreCapabilities,
    StoredChunk,
    StoreHit,
    Vector,
)

if TYPE_CHECKING:
    from groundwire.store.v1.store_service_pb2_grpc import StoreServiceAsyncStub

_T = TypeVar("_T")
# A message holds about this many chunks' worth of bytes; more are sent in several calls.
_BYTES_PER_CALL = 8 * 1024 * 1024
_IDS_PER_CALL = 5_000
_PAYLOADS_PER_CALL = 500


class RemoteVectorStore:
    """Implements the ChunkStore port by calling a StoreService over ``channel``, which it owns.

    ``to_error`` says what a failed call means.
    """

    def __init__(self, channel: grpc.aio.Channel, to_error: Callable[[grpc.aio.AioRpcError], GroundwireError]) -> None:
        self._channel = channel
        self._stub: StoreServiceAsyncStub = rpc.StoreServiceStub(channel)
        self._to_error = to_error

    async def upsert_chunks(self, partition: Partition, chunks: Sequence[StoredChunk]) -> None:
        """See the port."""
        where = wire.partition_to_pb(partition)
        batch: list[pb.StoredChunk] = []
        size = 0
        for message in map(wire.chunk_to_pb, chunks):
            length = message.ByteSize()
            if batch and size + length > _BYTES_PER_CALL:
                await self._call(self._stub.UpsertChunks(pb.UpsertChunksRequest(partition=where, chunks=batch)))
                batch, size = [], 0
            batch.append(message)
            size += length
        if batch:
            await self._call(self._stub.UpsertChunks(pb.UpsertChunksRequest(partition=where, chunks=batch)))

    async def delete_chunks(self, partition: Partition, document_id: str, *, before_version: int | None = None) -> int:
        """See the port."""
        request = pb.DeleteChunksRequest(
            partition=wire.partition_to_pb(partition), document_id=document_id, before_version=before_version or 0
        )
        return (await self._call(self._stub.DeleteChunks(request))).removed

    async def delete_partition(self, partition: Partition) -> None:
        """See the port."""
        request = pb.DeleteChunksRequest(partition=wire.partition_to_pb(partition), everything=True)
        await self._call(self._stub.DeleteChunks(request))

    async def assign_readers(self, partition: Partition, document_id: str, reader_set: int) -> None:
        """See the port."""
        where = wire.partition_to_pb(partition)
        request = pb.AssignReadersRequest(partition=where, document_id=document_id, reader_set=reader_set)
        await self._call(self._stub.AssignReaders(request))

    async def search_dense(
        self, partition: Partition, vector: Vector, limit: int, reader_sets: frozenset[int] | None
    ) -> list[StoreHit]:
        """See the port."""
        if limit <= 0:
            return []
        request = pb.SearchDenseRequest(
            partition=wire.partition_to_pb(partition),
            vector=wire.vector_to_bytes(vector),
            limit=min(limit, wire.MAX_LIMIT),
            reader_sets=wire.reader_sets_to_pb(reader_sets),
        )
        return wire.hits_from_pb((await self._call(self._stub.SearchDense(request))).hits)

    async def search_lexical(
        self, partition: Partition, terms: Sequence[str], limit: int, reader_sets: frozenset[int] | None
    ) -> list[StoreHit]:
        """See the port."""
        if limit <= 0:
            return []
        request = pb.SearchLexicalRequest(
            partition=wire.partition_to_pb(partition),
            terms=terms,
            limit=min(limit, wire.MAX_LIMIT),
            reader_sets=wire.reader_sets_to_pb(reader_sets),
        )
        return wire.hits_from_pb((await self._call(self._stub.SearchLexical(request))).hits)

    async def fetch_chunks(self, partition: Partition, chunk_ids: Sequence[str]) -> list[FetchedChunk]:
        """See the port."""
        where = wire.partition_to_pb(partition)
        fetched: list[FetchedChunk] = []
        for start in range(0, len(chunk_ids), _IDS_PER_CALL):
            request = pb.FetchChunksRequest(partition=where, chunk_ids=chunk_ids[start : start + _IDS_PER_CALL])
            response = await self._call(self._stub.FetchChunks(request))
            fetched.extend(map(wire.fetched_from_pb, response.chunks))
        return fetched

    async def list_payloads(
        self, tenant: str, *, after: tuple[str, str] = ("", ""), limit: int = 100
    ) -> list[KeptPayload]:
        """See the port."""
        place = pb.PayloadPlace(collection=after[0], chunk_id=after[1])
        request = pb.ListPayloadsRequest(tenant=tenant, after=place, limit=min(limit, wire.MAX_PAYLOADS))
        return list(map(wire.kept_from_pb, (await self._call(self._stub.ListPayloads(request))).payloads))

    async def replace_payloads(self, tenant: str, changes: Sequence[PayloadChange]) -> int:
        """See the port."""
        replaced = 0
        for start in range(0, len(changes), _PAYLOADS_PER_CALL):
            batch = map(wire.change_to_pb, changes[start : start + _PAYLOADS_PER_CALL])
            request = pb.ReplacePayloadsRequest(tenant=tenant, changes=batch)
            replaced += (await self._call(self._stub.ReplacePayloads(request))).replaced
        return replaced

    async def list_chunks(
        self, partition: Partition, *, document_id: str | None = None, after: str = "", limit: int = 100
    ) -> list[StoredChunk]:
        """See the port."""
        request = pb.ListChunksRequest(
            partition=wire.partition_to_pb(partition),
            document_id=document_id or "",
            after=after,
            limit=min(limit, wire.MAX_PAYLOADS),
        )
        return list(map(wire.chunk_from_pb, (await self._call(self._stub.ListChunks(request))).chunks))

    async def count_chunks(
        self, partition: Partition, document_id: str | None = None, *, before_version: int | None = None
    ) -> int:
        """See the port."""
        request = pb.CountChunksRequest(
            partition=wire.partition_to_pb(partition), document_id=document_id or "", before_version=before_version or 0
        )
        return (await self._call(self._stub.CountChunks(request))).count

    async def capabilities(self) -> StoreCapabilities:
        """See the port."""
        found = await self._call(self._stub.GetCapabilities(pb.GetCapabilitiesRequest()))
        return StoreCapabilities(found.engine, found.dense, found.lexical)

    async def close(self) -> None:
        """See the port."""
        await self._channel.close()

    async def _call(self, call: Awaitable[_T]) -> _T:
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            raise self._to_error(error) from error
