"""A recorder whose events can be looked at, and whose disk can be full."""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence

from groundwire.audit.v1 import audit_service_pb2 as pb
from services.corpus.errors import Unavailable
from services.journal.spool import Kind, Then
from services.runtime.auditing.recorder import Recorder


class MemoryKeeper:
    """Keeps events in memory; with ``hold`` only when :meth:`release` says so, with a ``failure`` not at all."""

    def __init__(self) -> None:
        self.events: list[pb.AuditEvent] = []
        self.kinds: list[Kind] = []
        self.failure: Unavailable | None = None
        self.fill = 0.0
        self.hold = False
        self.left_open: Mapping[bytes, Sequence[bytes]] = {}
        self._held: list[tuple[Kind, bytes, Then]] = []

    @property
    def held(self) -> int:
        return len(self._held)

    def start(self) -> None:
        pass

    def submit(self, kind: Kind, key: bytes, payload: bytes, then: Then) -> None:
        if self.failure is not None:
            raise Unavailable(self.failure.message)
        if self.hold:
            self._held.append((kind, payload, then))
            return
        self._keep(kind, payload)
        then(None)

    def release(self) -> None:
        """Keep what was held, and from now on everything at once."""
        self.hold = False
        held, self._held = self._held, []
        for kind, payload, then in held:
            if self.failure is None:
                self._keep(kind, payload)
                then(None)
            else:
                then(Unavailable(self.failure.message))

    async def close(self) -> None:
        pass

    def _keep(self, kind: Kind, payload: bytes) -> None:
        self.kinds.append(kind)
        self.events.append(pb.AuditEvent.FromString(payload))


def memory_recorder(service: str = "echo", keeper: MemoryKeeper | None = None) -> tuple[Recorder, MemoryKeeper]:
    """For a running event loop."""
    keeper = keeper or MemoryKeeper()
    return Recorder(service, keeper), keeper


async def digest(tenant: str, query: str) -> bytes:
    """What the audit log keeps of a query."""
    return hmac.digest(tenant.encode(), query.encode(), "sha256")
