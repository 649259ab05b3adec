"""AuditService messages to and from the domain. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from groundwire.audit.v1 import audit_service_pb2 as pb
from services.audit.event import EVENT_ID, MAX_IDS, NANOSECONDS, AuditEvent, Decision, Stage, escape
from services.audit.log import LoggedEvent
from services.audit.note import Checkpoint, Note
from services.audit.records import SignedCheckpoint
from services.audit.search import EventFilter
from services.audit.verify import Report
from services.corpus.errors import Violations
from services.runtime import paging, wire_request

MAX_BATCH = 1000
_DEFAULT_PAGE = 100
_MAX_PROOF = 64
_MAX_NOTE = 16 * 1024
# The years that RFC 3339 can spell with four digits: 1970 to 9999.
_MAX_SECONDS = 253_402_300_799
_MAX_DURATION = 315_576_000_000  # seconds; that of protobuf's Duration
_POSITION = re.compile(r"[0-9]{1,18}")
_DECISIONS = {pb.DECISION_ALLOWED: Decision.ALLOWED, pb.DECISION_DENIED: Decision.DENIED}
_STAGES = {
    pb.STAGE_UNSPECIFIED: Stage.ENDED,
    pb.STAGE_ENDED: Stage.ENDED,
    pb.STAGE_BEGUN: Stage.BEGUN,
    pb.STAGE_INTERRUPTED: Stage.INTERRUPTED,
}
_STAGES_WRITTEN = {stage: wire for wire, stage in _STAGES.items()}
_DECISIONS_WRITTEN = {decision: wire for wire, decision in _DECISIONS.items()}


def read_events(message: pb.AppendEventsRequest) -> list[AuditEvent]:
    """Events to write. A text is never too long here: it is cut."""
    violations = Violations()
    violations.require(1 <= len(message.events) <= MAX_BATCH, "events", f"must be 1 to {MAX_BATCH:,}")
    violations.raise_if_any()
    events = [_read_event(event, place, violations) for place, event in enumerate(message.events)]
    violations.raise_if_any()
    return events


def read_event(message: pb.AuditEvent) -> AuditEvent:
    """One event; InvalidRequest."""
    violations = Violations()
    event = _read_event(message, 0, violations)
    violations.raise_if_any()
    return event


def _read_event(message: pb.AuditEvent, place: int, violations: Violations) -> AuditEvent:
    decision, stage = _DECISIONS.get(message.decision), _STAGES.get(message.stage)
    time, duration = message.time, message.duration
    lists = (message.document_ids, message.chunk_ids, message.denied_document_ids, message.changes)
    if (
        decision is None
        or stage is None
        or not EVENT_ID.fullmatch(message.event_id)
        or not _is_moment(time)
        or len(message.query_hmac) not in (0, 32)
        or len(message.answer_sha256) not in (0, 32)
        or not _is_duration(duration)
        or not 0 <= message.code <= 16
        or max(map(len, lists)) > MAX_IDS
    ):
        _add_violations(message, f"events[{place}]", violations)
    return AuditEvent(
        event_id=message.event_id,
        time=time.seconds * NANOSECONDS + time.nanos,
        tenant=message.tenant,
        principal=message.principal,
        method=message.method,
        decision=decision or Decision.DENIED,
        code=message.code,
        request_id=message.request_id,
        trace_id=message.trace_id,
        acting_service=message.acting_service,
        client_address=message.client_address,
        resource=message.resource,
        reason=message.reason,
        policy_version=message.policy_version,
        query_hmac=message.query_hmac,
        document_ids=tuple(message.document_ids),
        chunk_ids=tuple(message.chunk_ids),
        denied_document_ids=tuple(message.denied_document_ids),
        model_endpoint=message.model_endpoint,
        answer_sha256=message.answer_sha256,
        duration=duration.seconds * NANOSECONDS + duration.nanos,
        stage=stage or Stage.ENDED,
        changes=tuple(message.changes),
    )


def _add_violations(message: pb.AuditEvent, path: str, violations: Violations) -> None:
    violations.require(message.decision in _DECISIONS, f"{path}.decision", "must be a known decision")
    named = EVENT_ID.fullmatch(message.event_id) is not None
    violations.require(named, f"{path}.event_id", "must be 1 to 128 of [A-Za-z0-9._-]")
    violations.require(_is_moment(message.time), f"{path}.time", "must be set, after 1970, with 0 to 999,999,999 nanos")
    violations.require(
        _is_duration(message.duration), f"{path}.duration", "must not be negative, with 0 to 999,999,999 nanos"
    )
    violations.require(0 <= message.code <= 16, f"{path}.code", "must be a gRPC status code")
    for name in ("query_hmac", "answer_sha256"):
        violations.require(len(getattr(message, name)) in (0, 32), f"{path}.{name}", "must have 32 bytes")
    violations.require(message.stage in _STAGES, f"{path}.stage", "must be a known stage")
    for name in ("document_ids", "chunk_ids", "denied_document_ids", "changes"):
        violations.require(len(getattr(message, name)) <= MAX_IDS, f"{path}.{name}", f"at most {MAX_IDS:,}")


def write_event(logged: LoggedEvent) -> pb.LoggedEvent:
    """An event in its place."""
    event = logged.event
    return pb.LoggedEvent(
        index=logged.index,
        leaf_hash=logged.leaf_hash,
        event=pb.AuditEvent(
            event_id=event.event_id,
            time=Timestamp(seconds=event.time // NANOSECONDS, nanos=event.time % NANOSECONDS),
            request_id=event.request_id,
            trace_id=event.trace_id,
            principal=event.principal,
            acting_service=event.acting_service,
            tenant=event.tenant,
            client_address=event.client_address,
            method=event.method,
            resource=event.resource,
            decision=_DECISIONS_WRITTEN[event.decision],
            reason=event.reason,
            policy_version=event.policy_version,
            query_hmac=event.query_hmac,
            document_ids=event.document_ids,
            chunk_ids=event.chunk_ids,
            denied_document_ids=event.denied_document_ids,
            model_endpoint=event.model_endpoint,
            answer_sha256=event.answer_sha256,
            code=event.code,
            duration=Duration(seconds=event.duration // NANOSECONDS, nanos=event.duration % NANOSECONDS),
            stage=_STAGES_WRITTEN[event.stage],
            changes=event.changes,
        ),
    )


@dataclass(frozen=True)
class Listing:
    """A page of events to find. ``scope`` binds its page tokens; ``start`` is None for the first page."""

    wanted: EventFilter
    start: int | None
    limit: int
    newest_first: bool
    scope: tuple[str, ...]


def read_listing(message: pb.ListEventsRequest, tenant: str) -> Listing:
    """A page of events to find."""
    violations = Violations()
    wanted = _read_filter(message.filter, violations)
    limit = wire_request.read_count(
        message.page_size, "page_size", default=_DEFAULT_PAGE, most=wire_request.MAX_PAGE, violations=violations
    )
    order = "newest first" if message.newest_first else "oldest first"
    scope = ("events", order, tenant, message.filter.SerializeToString(deterministic=True).hex())
    after = paging.read_token(message.page_token, violations, *scope)
    # The check sum of a token is no secret: a caller can make one for a position that no event has.
    known = not after or _POSITION.fullmatch(after) is not None
    violations.require(known, "page_token", "is not a token of an earlier response to this request")
    violations.raise_if_any()
    return Listing(wanted, int(after) if after else None, limit, message.newest_first, scope)


def read_watch(message: pb.WatchEventsRequest, size: int) -> tuple[EventFilter, int]:
    """Which events to send, and the index to begin at; ``size`` is how many there are."""
    violations = Violations()
    wanted = _read_filter(message.filter, violations)
    violations.raise_if_any()
    return wanted, message.start_index if message.start_index >= 0 else size


def _read_filter(message: pb.EventFilter, violations: Violations) -> EventFilter:
    known = message.decision == pb.DECISION_UNSPECIFIED or message.decision in _DECISIONS
    violations.require(known, "filter.decision", "must be a known decision")
    for name in ("principal", "method", "document_id", "request_id"):
        violations.require(len(getattr(message, name)) <= 512, f"filter.{name}", "at most 512 characters")
    return EventFilter(
        start_time=_nanoseconds(message.start_time) if message.HasField("start_time") else None,
        end_time=_nanoseconds(message.end_time) if message.HasField("end_time") else None,
        # As they are written: what is compared is escaped, too.
        principal=escape(message.principal) or None,
        method=escape(message.method) or None,
        decision=_DECISIONS.get(message.decision),
        document_id=escape(message.document_id) or None,
        request_id=escape(message.request_id) or None,
    )


def _is_moment(time: Timestamp) -> bool:
    return 0 < time.seconds <= _MAX_SECONDS and 0 <= time.nanos < NANOSECONDS


def _is_duration(duration: Duration) -> bool:
    return 0 <= duration.seconds <= _MAX_DURATION and 0 <= duration.nanos < NANOSECONDS


def _nanoseconds(message: Timestamp) -> int:
    return message.seconds * NANOSECONDS + message.nanos


def write_signed(signed: SignedCheckpoint) -> pb.Checkpoint:
    """A checkpoint of the log."""
    message = write_checkpoint(signed.note, signed.checkpoint)
    message.time.CopyFrom(Timestamp(seconds=signed.time // 1_000_000, nanos=signed.time % 1_000_000 * 1000))
    return message


def write_checkpoint(note: Note, checkpoint: Checkpoint) -> pb.Checkpoint:
    """A checkpoint, without the time of its signature."""
    return pb.Checkpoint(origin=checkpoint.origin, tree_size=checkpoint.size, root_hash=checkpoint.root, note=str(note))


def read_inclusion(message: pb.GetInclusionProofRequest) -> tuple[int, int | None]:
    """An index and a size, None for the newest checkpoint's."""
    violations = Violations()
    violations.require(message.index >= 0, "index", "must not be negative")
    violations.require(message.tree_size >= 0, "tree_size", "must not be negative")
    violations.raise_if_any()
    return message.index, message.tree_size or None


def read_consistency(message: pb.GetConsistencyProofRequest) -> tuple[int, int | None]:
    """Two sizes, the second None for the newest checkpoint's."""
    violations = Violations()
    violations.require(message.first_tree_size >= 0, "first_tree_size", "must not be negative")
    violations.require(message.second_tree_size >= 0, "second_tree_size", "must not be negative")
    violations.raise_if_any()
    return message.first_tree_size, message.second_tree_size or None


def read_cosigning(message: pb.CosignCheckpointRequest) -> tuple[int, Sequence[bytes], str]:
    """An old size, a proof and a note."""
    violations = Violations()
    violations.require(message.old_size >= 0, "old_size", "must not be negative")
    shaped = len(message.consistency_proof) <= _MAX_PROOF and all(len(one) == 32 for one in message.consistency_proof)
    violations.require(shaped, "consistency_proof", f"at most {_MAX_PROOF} hashes of 32 bytes")
    violations.require(0 < len(message.note) <= _MAX_NOTE, "note", f"must be 1 to {_MAX_NOTE:,} characters")
    violations.raise_if_any()
    return message.old_size, tuple(message.consistency_proof), message.note


def write_report(report: Report) -> pb.VerifyLogResponse:
    """What a verification found."""
    return pb.VerifyLogResponse(
        intact=report.intact, events=report.events, checkpoints=report.checkpoints, problems=report.problems
    )
