"""The Keeper port over the log itself: the audit service's own events need no spool."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from google.protobuf.message import DecodeError

from groundwire.audit.v1 import audit_service_pb2 as pb
from services.audit import convert
from services.audit.log import AuditLog
from services.corpus.errors import DataLoss, GroundwireError, Unavailable
from services.journal.spool import DISK_PATIENCE, Kind, Then


class OwnLog:
    """See the port. What the service itself was doing when it was killed stays BEGUN in the log."""

    def __init__(self, log: AuditLog) -> None:
        self._log = log
        self._appending: set[asyncio.Task[list[int]]] = set()

    @property
    def failure(self) -> Unavailable | None:
        """See the port."""
        return self._log.failure

    @property
    def fill(self) -> float:
        """See the port."""
        return 0.0

    @property
    def left_open(self) -> Mapping[bytes, Sequence[bytes]]:
        """See the port."""
        return {}

    def start(self) -> None:
        """See the port."""

    def submit(self, kind: Kind, key: bytes, payload: bytes, then: Then) -> None:
        """See the port."""
        del kind, key
        if self._log.failure is not None:
            raise Unavailable(self._log.failure.message)
        task = asyncio.create_task(append_serialized(self._log, [payload]))
        self._appending.add(task)

        def ended(task: asyncio.Task[list[int]]) -> None:
            self._appending.discard(task)
            error = asyncio.CancelledError() if task.cancelled() else task.exception()
            if error is None or isinstance(error, GroundwireError):
                then(error)
            else:
                then(Unavailable("the event could not be written"))

        task.add_done_callback(ended)
        timer = task.get_loop().call_later(DISK_PATIENCE, then, Unavailable("the disk does not answer"))
        task.add_done_callback(lambda _: timer.cancel())

    async def close(self) -> None:
        """See the port."""


async def append_serialized(log: AuditLog, events: Sequence[bytes]) -> list[int]:
    """Append events as services spool them."""
    try:
        read = [convert.read_event(pb.AuditEvent.FromString(event)) for event in events]
    except DecodeError as error:
        raise DataLoss("what was spooled is not an event") from error
    return await log.append(read)
