"""Audit logs for tests: events, keys, and logs in memory with their witness."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from services.audit.event import AuditEvent, Decision
from services.audit.log import AuditLog
from services.audit.note import Algorithm, Signer
from services.audit.verify import Report, verify_files
from services.audit.witness.witness import CheckpointWitness
from services.journal.memory import MemoryFiles

LOG = Signer("groundwire.test/audit", Algorithm.ED25519, bytes(range(32)))
WITNESS = Signer("groundwire.test/witness", Algorithm.COSIGNATURE_V1, bytes(range(1, 33)))
START = 1_780_000_000 * 1_000_000_000


def event(number: int, **changes: object) -> AuditEvent:
    """An event with everything that an event can have."""
    values: dict[str, object] = {
        "event_id": f"event-{number}",
        "time": START + number * 1_000_001,
        "tenant": "default",
        "principal": "user:alice",
        "method": "/groundwire.query.v1.QueryService/Query",
        "decision": Decision.ALLOWED,
        "request_id": f"request-{number}",
        "trace_id": f"{number:032x}",
        "acting_service": "query",
        "client_address": "ipv4:127.0.0.1:40000",
        "resource": "collections/default",
        "policy_version": "1",
        "query_hmac": bytes([number % 256]) * 32,
        "document_ids": (f"doc-{number}",),
        "chunk_ids": (f"doc-{number}:1:0", f"doc-{number}:1:1"),
        "model_endpoint": "extractive",
        "answer_sha256": bytes([number % 251]) * 32,
        "duration": 1_500_000 + number,
    }
    return AuditEvent(**(values | changes))  # type: ignore[arg-type] # whatever a test changes


@dataclass
class World:
    """A log in memory, and its witness's memory."""

    events: MemoryFiles = field(default_factory=MemoryFiles)
    checkpoints: MemoryFiles = field(default_factory=MemoryFiles)
    remembered: MemoryFiles = field(default_factory=MemoryFiles)

    def __post_init__(self) -> None:
        self._clock = itertools.count(1_790_000_000)

    async def open(self, signer: Signer = LOG, **options: int) -> AuditLog:
        return await AuditLog.open(
            self.events, self.checkpoints, signer, now=lambda: float(next(self._clock)), **options
        )

    def witness(self) -> CheckpointWitness:
        return CheckpointWitness(self.remembered, WITNESS, lambda: LOG.verifier, now=lambda: float(next(self._clock)))

    def verify(self, *known: str) -> Report:
        return verify_files(self.checkpoints, self.events, [LOG.verifier], [WITNESS.verifier], known)


async def cosign(log: AuditLog, witness: CheckpointWitness) -> str:
    """Have the newest checkpoint cosigned from whatever the witness saw last."""
    last = log.last
    assert last is not None
    seen = witness.last[1].size if witness.last else 0
    proof = log.consistency_proof(min(seen, last.checkpoint.size), last.checkpoint.size)[0]
    line, _ = witness.cosign(seen, proof, str(last.note))
    await log.add_cosignature(last.checkpoint.size, line)
    return line
