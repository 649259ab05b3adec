"""AuditService on the wire."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from groundwire.audit.v1 import audit_service_pb2 as pb
from groundwire.audit.v1 import audit_service_pb2_grpc as rpc
from interceptors._shapes import Context
from services.audit import convert, search
from services.audit.log import AuditLog
from services.audit.verify import Report
from services.corpus.errors import FailedPrecondition, NotFound
from services.corpus.principal import Caller
from services.runtime import paging


class AuditServicer(rpc.AuditServiceServicer):
    """Translates and delegates. Whatever a caller's permissions are, events are those of their own tenant."""

    def __init__(self, log: AuditLog, verify: Callable[[], Awaitable[Report]], caller_of: Callable[[], Caller]) -> None:
        self._log = log
        self._verify = verify
        self._caller_of = caller_of
        self._verifying = asyncio.Lock()

    async def AppendEvents(self, request: pb.AppendEventsRequest, context: Context) -> pb.AppendEventsResponse:
        """See the contract."""
        return pb.AppendEventsResponse(indexes=await self._log.append(convert.read_events(request)))

    async def ListEvents(self, request: pb.ListEventsRequest, context: Context) -> pb.ListEventsResponse:
        """See the contract."""
        tenant = self._caller_of().tenant
        listing = convert.read_listing(request, tenant)
        page = await search.find(
            self._log,
            tenant,
            listing.wanted,
            start=listing.start,
            limit=listing.limit,
            newest_first=listing.newest_first,
        )
        token = "" if page.next_index is None else paging.write_token(str(page.next_index), *listing.scope)
        return pb.ListEventsResponse(events=map(convert.write_event, page.events), next_page_token=token)

    async def WatchEvents(
        self, request: pb.WatchEventsRequest, context: Context
    ) -> AsyncIterator[pb.WatchEventsResponse]:
        """See the contract."""
        wanted, start = convert.read_watch(request, self._log.size)
        async for logged in search.watch(self._log, self._caller_of().tenant, wanted, start=start):
            yield pb.WatchEventsResponse(event=convert.write_event(logged))

    async def GetCheckpoint(self, request: pb.GetCheckpointRequest, context: Context) -> pb.GetCheckpointResponse:
        """See the contract."""
        if self._log.last is None:
            raise NotFound("no checkpoint was signed yet")
        return pb.GetCheckpointResponse(checkpoint=convert.write_signed(self._log.last))

    async def GetInclusionProof(
        self, request: pb.GetInclusionProofRequest, context: Context
    ) -> pb.GetInclusionProofResponse:
        """See the contract."""
        leaf_hash, proof, size = self._log.inclusion_proof(*convert.read_inclusion(request))
        return pb.GetInclusionProofResponse(leaf_hash=leaf_hash, hashes=proof, tree_size=size)

    async def GetConsistencyProof(
        self, request: pb.GetConsistencyProofRequest, context: Context
    ) -> pb.GetConsistencyProofResponse:
        """See the contract."""
        proof, size = self._log.consistency_proof(*convert.read_consistency(request))
        return pb.GetConsistencyProofResponse(hashes=proof, second_tree_size=size)

    async def VerifyLog(self, request: pb.VerifyLogRequest, context: Context) -> pb.VerifyLogResponse:
        """See the contract."""
        async with self._verifying:  # it reads the whole log: one at a time
            return convert.write_report(await self._verify())

    async def CosignCheckpoint(
        self, request: pb.CosignCheckpointRequest, context: Context
    ) -> pb.CosignCheckpointResponse:
        """A log that cosigned its own checkpoints would prove nothing."""
        raise FailedPrecondition("this is the log; `addresses.witness` says where its witness is")
