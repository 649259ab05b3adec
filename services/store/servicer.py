"""StoreService on the wire: the ports of a chunk store, one to one."""

from __future__ import annotations

from groundwire.store.v1 import store_service_pb2 as pb
from groundwire.store.v1 import store_service_pb2_grpc as rpc
from interceptors._shapes import Context
from services.corpus.errors import Violations
from services.store import convert
from services.vectorstores import wire
from services.vectorstores.ports import ChunkStore

# Far from what a channel takes, whatever the length of a chunk.
_PAGE_BYTES = 8 * 1024 * 1024


class StoreServicer(rpc.StoreServiceServicer):
    """Translates and delegates."""

    def __init__(self, store: ChunkStore) -> None:
        self._store = store

    async def UpsertChunks(self, request: pb.UpsertChunksRequest, context: Context) -> pb.UpsertChunksResponse:
        """See the contract."""
        violations = Violations()
        partition = wire.parse_partition(request.partition, violations)
        await self._store.upsert_chunks(partition, wire.parse_chunks(request.chunks, violations))
        return pb.UpsertChunksResponse()

    async def DeleteChunks(self, request: pb.DeleteChunksRequest, context: Context) -> pb.DeleteChunksResponse:
        """See the contract."""
        partition, document_id, before_version = convert.parse_deletion(request)
        if document_id is None:
            await self._store.delete_partition(partition)
            return pb.DeleteChunksResponse()
        removed = await self._store.delete_chunks(partition, document_id, before_version=before_version)
        return pb.DeleteChunksResponse(removed=removed)

    async def AssignReaders(self, request: pb.AssignReadersRequest, context: Context) -> pb.AssignReadersResponse:
        """See the contract."""
        partition = convert.parse_assignment(request)
        await self._store.assign_readers(partition, request.document_id, request.reader_set)
        return pb.AssignReadersResponse()

    async def SearchDense(self, request: pb.SearchDenseRequest, context: Context) -> pb.SearchDenseResponse:
        """See the contract."""
        partition, vector, limit, reader_sets = convert.parse_dense(request)
        hits = await self._store.search_dense(partition, vector, limit, reader_sets)
        return pb.SearchDenseResponse(hits=map(wire.hit_to_pb, hits))

    async def SearchLexical(self, request: pb.SearchLexicalRequest, context: Context) -> pb.SearchLexicalResponse:
        """See the contract."""
        partition, limit, reader_sets = convert.parse_lexical(request)
        hits = await self._store.search_lexical(partition, list(request.terms), limit, reader_sets)
        return pb.SearchLexicalResponse(hits=map(wire.hit_to_pb, hits))

    async def FetchChunks(self, request: pb.FetchChunksRequest, context: Context) -> pb.FetchChunksResponse:
        """See the contract."""
        partition = convert.parse_fetch(request)
        chunks = await self._store.fetch_chunks(partition, list(request.chunk_ids))
        return pb.FetchChunksResponse(chunks=map(wire.fetched_to_pb, chunks))

    async def CountChunks(self, request: pb.CountChunksRequest, context: Context) -> pb.CountChunksResponse:
        """See the contract."""
        partition, document_id, before_version = convert.parse_count(request)
        count = await self._store.count_chunks(partition, document_id, before_version=before_version)
        return pb.CountChunksResponse(count=count)

    async def ListPayloads(self, request: pb.ListPayloadsRequest, context: Context) -> pb.ListPayloadsResponse:
        """See the contract."""
        tenant, after, limit = convert.parse_listing(request)
        kept = await self._store.list_payloads(tenant, after=after, limit=limit)
        return pb.ListPayloadsResponse(payloads=map(wire.kept_to_pb, kept))

    async def ReplacePayloads(self, request: pb.ReplacePayloadsRequest, context: Context) -> pb.ReplacePayloadsResponse:
        """See the contract."""
        tenant, changes = convert.parse_changes(request)
        return pb.ReplacePayloadsResponse(replaced=await self._store.replace_payloads(tenant, changes))

    async def ListChunks(self, request: pb.ListChunksRequest, context: Context) -> pb.ListChunksResponse:
        """See the contract."""
        partition, document_id, after, limit = convert.parse_walk(request)
        found = await self._store.list_chunks(partition, document_id=document_id, after=after, limit=limit)
        return pb.ListChunksResponse(chunks=convert.within(found, _PAGE_BYTES))

    async def GetCapabilities(self, request: pb.GetCapabilitiesRequest, context: Context) -> pb.GetCapabilitiesResponse:
        """See the contract."""
        found = await self._store.capabilities()
        return pb.GetCapabilitiesResponse(engine=found.engine, dense=found.dense, lexical=found.lexical)
