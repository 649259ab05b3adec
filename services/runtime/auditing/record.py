"""What one call leaves in the audit log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from groundwire.audit.v1 import audit_service_pb2 as pb
from groundwire.policy.v1 import policy_pb2
from interceptors import current
from interceptors._shapes import Call
from services.corpus.errors import GroundwireError, Unavailable
from services.corpus.principal import Caller
from services.journal.spool import Kind
from services.security.mesh_tokens import MESH_TENANT

if TYPE_CHECKING:
    from services.runtime.auditing.recorder import Recorder

MAX_IDS = 1000
"""How many ids one list of an event holds; the log refuses longer ones."""
_DENIED = frozenset({grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED})


@dataclass(frozen=True, slots=True)
class Policy:
    """What the rule of a method says to its record. ``level`` is an ``AuditLevel`` of policy/v1."""

    level: int
    permission: str
    version: str


class Notes:
    """What those who serve a call know of it, all of it optional.

    ``resource`` is what the call is about, ``changes`` what it has changed; ``withheld`` are ids of documents that
    were found and not shown.
    """

    resource: str = ""
    query_hmac: bytes = b""
    answer_sha256: bytes = b""
    model_endpoint: str = ""
    document_ids: Sequence[str] = ()
    chunk_ids: Sequence[str] = ()
    withheld: Sequence[str] = ()
    changes: Sequence[str] = ()

    def changed(self, resource: str, document_ids: Sequence[str] = ()) -> None:
        """Note that ``resource`` was changed."""
        self.changes = [*self.changes, resource]
        self.document_ids = [*self.document_ids, *document_ids]


class CallRecord(Notes):
    """What one call leaves behind: its notes, and events that say how it began and ended."""

    _announced = 0
    _ended = False
    _pending: set[asyncio.Future[Any]] | None = None

    def __init__(self, recorder: Recorder, call: Call | None, policy: Policy, tenant: str = "") -> None:
        """``tenant`` is for work that no call waits for: then the service itself is who does it."""
        self._recorder = recorder
        self.call = call
        # Asked for now: once the handler has ended, gRPC's context points to nothing, and asking it ends the process.
        self.address = "" if call is None else _address(call.context.peer())
        self._policy = policy
        self._tenant = tenant
        self._key = recorder.new_key()
        self._start = time.time_ns()

    async def begin(self, resource: str = "", document_ids: Sequence[str] = ()) -> None:
        """Make it durable that ``resource`` is about to be changed, or that a stream is about to be sent.

        Raises Unavailable (AUDIT_UNAVAILABLE) when that is impossible, and when the call has ended meanwhile, which a
        thread may find out late: then nothing may be begun.
        """
        if self._ended:
            raise Unavailable("the call has ended")
        self._announced += 1
        event = self._event(pb.STAGE_BEGUN, 0)
        event.event_id = f"{self._key}.{self._announced}"
        event.time.CopyFrom(timestamp(time.time_ns()))
        event.resource = resource or self.resource
        event.document_ids[:] = document_ids[:MAX_IDS]
        await self._recorder.keep(Kind.OPENS, self._key, event)

    def wait_for(self, work: asyncio.Future[Any]) -> None:
        """Do not end before ``work`` has: it will say what was changed."""
        if self._pending is None:
            self._pending = set()
        self._pending.add(work)
        work.add_done_callback(self._pending.discard)

    def end(self, code: grpc.StatusCode) -> Awaitable[None] | None:
        """See :class:`interceptors.audit.Record`. What the call has begun to change is waited for."""
        self._ended = True
        if self._pending:
            return asyncio.shield(self._recorder.spawn(self._end_after(code)))
        return self._end(code)

    def _end(self, code: grpc.StatusCode) -> asyncio.Future[None] | None:
        denied = code in _DENIED or (self.call is not None and not self.call.known)
        if self._policy.level == policy_pb2.AUDIT_DENIALS and not denied and not self._announced:
            return None
        event = self._event(pb.STAGE_ENDED, code.value[0], denied=denied)
        return self._recorder.keep(Kind.CLOSES if self._announced else Kind.PLAIN, self._key, event)

    async def _end_after(self, code: grpc.StatusCode) -> None:
        while self._pending:
            await asyncio.wait(list(self._pending))
        ended = self._end(code)
        if ended is not None:
            await ended

    def _event(self, stage: pb.Stage.ValueType, code: int, *, denied: bool = False) -> pb.AuditEvent:
        policy, call = self._policy, self.call
        event = pb.AuditEvent(
            event_id=self._key,
            decision=pb.DECISION_DENIED if denied else pb.DECISION_ALLOWED,
            policy_version=policy.version,
            stage=stage,
        )
        began = event.time
        began.seconds, began.nanos = divmod(self._start, 1_000_000_000)
        # Most are empty, and setting what is empty costs as much as setting what is not.
        if code:
            event.code = code
        if self.resource:
            event.resource = self.resource
        if call is not None:
            self.attribute(event)
            event.reason = _reason(call.error) or policy.permission
        else:
            event.request_id = current.request_id.get()
            event.tenant = self._tenant
            event.principal = f"service:{self._recorder.service}"
        if stage == pb.STAGE_ENDED:
            self._add_facts(event)
        return event

    def attribute(self, event: pb.AuditEvent) -> None:
        """Say in ``event`` who calls what, and from where, as far as it is known."""
        call = self.call
        if call is not None:
            event.request_id = call.request_id
            event.method = call.method
            event.client_address = self.address
            if call.trace_id:
                event.trace_id = f"{call.trace_id:032x}"
        caller = current.caller.get()
        if isinstance(caller, Caller):
            event.tenant = caller.tenant
            if caller.acting_service:
                event.acting_service = caller.acting_service
            event.principal = _principal(caller)

    def _add_facts(self, event: pb.AuditEvent) -> None:
        elapsed = time.time_ns() - self._start
        if elapsed > 0:
            duration = event.duration
            duration.seconds, duration.nanos = divmod(elapsed, 1_000_000_000)
        if self.query_hmac:
            event.query_hmac = self.query_hmac
        if self.answer_sha256:
            event.answer_sha256 = self.answer_sha256
        if self.model_endpoint:
            event.model_endpoint = self.model_endpoint
        if self.document_ids:
            event.document_ids.extend(_unique(self.document_ids))
        if self.chunk_ids:
            event.chunk_ids.extend(_unique(self.chunk_ids))
        if self.withheld:
            event.denied_document_ids.extend(_unique(self.withheld))
        if self.changes:
            event.changes.extend(_unique(self.changes))


def current_record() -> Notes:
    """Where to note what is known of the call that is being served; nobody reads it where there is none."""
    record = current.record.get()
    return record if isinstance(record, CallRecord) else Notes()


def _unique(ids: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(ids))[:MAX_IDS]


def timestamp(nanoseconds: int) -> Timestamp:
    """A time that is given in nanoseconds since 1970."""
    seconds, nanos = divmod(nanoseconds, 1_000_000_000)
    return Timestamp(seconds=seconds, nanos=nanos)


def _reason(error: Exception | None) -> str:
    if error is None:
        return ""
    if not isinstance(error, GroundwireError):
        return GroundwireError.reason
    permission = error.metadata.get("permission")
    return f"{error.reason}: {permission}" if permission else error.reason


def _principal(caller: Caller) -> str:
    return f"service:{caller.acting_service}" if caller.tenant == MESH_TENANT else caller.user


@lru_cache(maxsize=1024)
def _address(peer: str) -> str:
    kind, _, rest = unquote(peer).partition(":")
    return rest if kind in ("ipv4", "ipv6") else kind
