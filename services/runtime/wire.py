"""Shared messages (``common/v1``) to and from the domain. Pure.

Reading is validating: a ``read_`` function adds every wrong field to the ``violations`` it is given, under the path
that the contract spells, and returns what it could read; callers raise once at the end. ``write_`` functions take
domain values, which are right by construction. Writing and reading again gives the same value.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from groundwire.common.v1 import core_pb2
from services.corpus.coverage import Coverage, Notice, StoreCoverage, StoreState
from services.corpus.document import Document, DocumentState, MediaType
from services.corpus.errors import InvalidField, Violations
from services.corpus.principal import Access
from services.runtime.wire_filter import (
    read_filter,
    read_metadata,
    read_metadata_value,
    write_filter,
    write_metadata,
    write_metadata_value,
)

__all__ = [
    "read_access",
    "read_coverage",
    "read_document",
    "read_duration",
    "read_filter",
    "read_metadata",
    "read_metadata_value",
    "read_notices",
    "read_timestamp",
    "write_access",
    "write_coverage",
    "write_document",
    "write_duration",
    "write_filter",
    "write_metadata",
    "write_metadata_value",
    "write_notices",
    "write_timestamp",
]

_DOCUMENT_STATES = {
    DocumentState.ACTIVE: core_pb2.DOCUMENT_STATE_ACTIVE,
    DocumentState.DELETED: core_pb2.DOCUMENT_STATE_DELETED,
}
_STORE_STATES = {
    StoreState.ASKED: core_pb2.StoreCoverage.STATE_ASKED,
    StoreState.ANSWERED: core_pb2.StoreCoverage.STATE_ANSWERED,
    StoreState.TIMED_OUT: core_pb2.StoreCoverage.STATE_TIMED_OUT,
    StoreState.FAILED: core_pb2.StoreCoverage.STATE_FAILED,
    StoreState.SKIPPED: core_pb2.StoreCoverage.STATE_SKIPPED,
}
_DOCUMENT_STATES_READ = {wire: state for state, wire in _DOCUMENT_STATES.items()}
_STORE_STATES_READ = {wire: state for state, wire in _STORE_STATES.items()}


# --- time -----------------------------------------------------------------------------------------------------------


def write_duration(seconds: float) -> Duration:
    """Seconds, to the nanosecond."""
    whole = math.floor(seconds)
    nanos = round((seconds - whole) * 1_000_000_000)
    return Duration(seconds=whole + nanos // 1_000_000_000, nanos=nanos % 1_000_000_000)


def read_duration(message: Duration) -> float:
    """Seconds."""
    return message.seconds + message.nanos / 1_000_000_000


def write_timestamp(moment: datetime) -> Timestamp:
    """A moment with a time zone."""
    message = Timestamp()
    message.FromDatetime(moment)
    return message


def read_timestamp(message: Timestamp) -> datetime:
    """A moment in UTC, to the microsecond."""
    return message.ToDatetime(UTC)


# --- documents ------------------------------------------------------------------------------------------------------


def write_access(access: Access) -> core_pb2.Access:
    """Readers, sorted."""
    return core_pb2.Access(readers=sorted(access.readers))


def read_access(message: core_pb2.Access, path: str, violations: Violations) -> Access | None:
    """Who may read, or None if a principal is malformed; ``path`` is that of the Access message."""
    try:
        return Access.of(message.readers, f"{path}.readers")
    except InvalidField as error:
        violations.add(error.path, error.why)
        return None


def write_document(document: Document) -> core_pb2.Document:
    """A document; its tenant does not travel, because it is the caller's own."""
    message = core_pb2.Document(
        name=document.name,
        collection=document.collection,
        document_id=document.document_id,
        version=document.version,
        title=document.title,
        uri=document.uri,
        media_type=document.media_type.value,
        access=write_access(document.access),
        state=_DOCUMENT_STATES[document.state],
        content_sha256=document.content_sha256,
        create_time=write_timestamp(document.create_time),
        update_time=write_timestamp(document.update_time),
        chunk_count=document.chunk_count,
        owner=document.owner,
    )
    write_metadata(document.metadata, message.metadata)
    return message


def read_document(message: core_pb2.Document, path: str, violations: Violations, *, tenant: str) -> Document | None:
    """A document of ``tenant`` as a service of the mesh sent it, or None if a part of it cannot be read."""
    metadata = read_metadata(message.metadata, f"{path}.metadata", violations)
    access = read_access(message.access, f"{path}.access", violations)
    state = _DOCUMENT_STATES_READ.get(message.state)
    violations.require(state is not None, f"{path}.state", "must be a known state")
    try:
        media_type = MediaType(message.media_type)
    except ValueError:
        violations.add(f"{path}.media_type", "must be a known media type")
        return None
    if access is None or state is None:
        return None
    return Document(
        tenant=tenant,
        collection=message.collection,
        document_id=message.document_id,
        version=message.version,
        title=message.title,
        uri=message.uri,
        media_type=media_type,
        metadata=metadata,
        access=access,
        owner=message.owner,
        state=state,
        content_sha256=message.content_sha256,
        chunk_count=message.chunk_count,
        create_time=read_timestamp(message.create_time),
        update_time=read_timestamp(message.update_time),
    )


# --- what stands behind a result ------------------------------------------------------------------------------------


def write_coverage(coverage: Coverage) -> core_pb2.Coverage:
    """Every store's part, and whether one is missing."""
    stores = [
        core_pb2.StoreCoverage(
            store=part.store,
            state=_STORE_STATES[part.state],
            hits=part.hits,
            duration=write_duration(part.duration),
            reason=part.reason,
        )
        for part in coverage.stores
    ]
    return core_pb2.Coverage(stores=stores, degraded=coverage.degraded)


def read_coverage(message: core_pb2.Coverage) -> Coverage:
    """Coverage as another service reported it; a state that is not known here counts as failed."""
    return Coverage(
        tuple(
            StoreCoverage(
                store=part.store,
                state=_STORE_STATES_READ.get(part.state, StoreState.FAILED),
                hits=part.hits,
                duration=read_duration(part.duration),
                reason=part.reason,
            )
            for part in message.stores
        )
    )


def write_notices(notices: Iterable[Notice]) -> list[core_pb2.Warning]:
    """Notices, which the contract calls warnings."""
    return [core_pb2.Warning(code=notice.code, message=notice.message) for notice in notices]


def read_notices(messages: Iterable[core_pb2.Warning]) -> tuple[Notice, ...]:
    """Notices, in the order given."""
    return tuple(Notice(message.code, message.message) for message in messages)
