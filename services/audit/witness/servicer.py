"""The witness on the wire: two methods of AuditService."""

from __future__ import annotations

import asyncio

from groundwire.audit.v1 import audit_service_pb2 as pb
from groundwire.audit.v1 import audit_service_pb2_grpc as rpc
from interceptors._shapes import Context
from services.audit import convert
from services.audit.witness.witness import CheckpointWitness
from services.corpus.errors import FailedPrecondition, NotFound


async def _elsewhere(_self: object, _request: object, _context: Context) -> None:
    raise FailedPrecondition("this is the witness; the audit service itself answers this")


class WitnessServicer(rpc.AuditServiceServicer):
    """Translates and delegates."""

    AppendEvents = ListEvents = WatchEvents = GetInclusionProof = GetConsistencyProof = VerifyLog = _elsewhere  # type: ignore[assignment]  # it stands for methods of every shape

    def __init__(self, witness: CheckpointWitness) -> None:
        self._witness = witness

    async def CosignCheckpoint(
        self,
        request: pb.CosignCheckpointRequest,
        context: Context,
    ) -> pb.CosignCheckpointResponse:
        """See the contract."""
        line, size = await asyncio.to_thread(self._witness.cosign, *convert.read_cosigning(request))
        return pb.CosignCheckpointResponse(cosignature=line, witnessed_size=size)

    async def GetCheckpoint(
        self,
        request: pb.GetCheckpointRequest,
        context: Context,
    ) -> pb.GetCheckpointResponse:
        """The last checkpoint that was cosigned."""
        if self._witness.last is None:
            raise NotFound("no checkpoint was seen yet")
        note, checkpoint = self._witness.last
        return pb.GetCheckpointResponse(checkpoint=convert.write_checkpoint(note, checkpoint))
