"""IngestionService messages to and from the domain. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from groundwire.ingestion.v1 import ingestion_service_pb2 as pb
from services.corpus.document import Collection
from services.corpus.erasure import Erasure, ErasureStep
from services.corpus.errors import Violations
from services.corpus.filter import Filter
from services.corpus.principal import Access
from services.ingestion.batch import Draft, Failure, Outcome
from services.ingestion.library import CollectionChanges
from services.ingestion.parsed import FailureReason
from services.runtime import paging, wire, wire_request

MAX_BATCH = 256
MAX_TITLE = 512
MAX_URI = 2048
MAX_RETENTION_DAYS = 36_500
_DAY = 86_400
_DEFAULT_PAGE = 50

FAILURES: dict[str, pb.FailureReason.ValueType] = {
    **{reason.value: pb.FailureReason.Value(f"FAILURE_REASON_{reason.name}") for reason in FailureReason},
    **{failure.value: pb.FailureReason.Value(f"FAILURE_REASON_{failure.name}") for failure in Failure},
}


@dataclass(frozen=True)
class Batch:
    """An IngestDocuments request."""

    collection: str
    drafts: tuple[Draft, ...]
    request_id: str


def read_batch(message: pb.IngestDocumentsRequest) -> Batch:
    """A batch; InvalidRequest for what is wrong with it as a whole. A wrong document is only that one's failure."""
    violations = Violations()
    collection = wire_request.read_collection(message.collection, violations)
    request_id = wire_request.read_request_id(message.request_id, violations)
    violations.require(1 <= len(message.documents) <= MAX_BATCH, "documents", f"must be 1 to {MAX_BATCH}")
    violations.raise_if_any()
    drafts = tuple(_read_draft(document, f"documents[{i}]") for i, document in enumerate(message.documents))
    return Batch(collection, drafts, request_id)


def _read_draft(message: pb.DocumentInput, path: str) -> Draft:
    violations = Violations()
    document_id = message.document_id
    if document_id:
        document_id = wire_request.read_identifier(document_id, f"{path}.document_id", violations)
    wire_request.check_text(message.title, f"{path}.title", MAX_TITLE, violations)
    wire_request.check_text(message.uri, f"{path}.uri", MAX_URI, violations)
    metadata = wire.read_metadata(message.metadata, f"{path}.metadata", violations)
    access = None
    if message.HasField("access"):
        access = wire.read_access(message.access, f"{path}.access", violations)
    return Draft(
        content=message.content,
        document_id=document_id,
        title=message.title,
        uri=message.uri,
        media_type=message.media_type,
        metadata=metadata,
        access=access,
        violations=violations.found,
    )


def write_batch_result(batch: Batch, outcomes: Sequence[Outcome], seconds: float) -> pb.IngestDocumentsResponse:
    """What became of a batch."""
    taken = [outcome for outcome in outcomes if outcome.reason is None]
    return pb.IngestDocumentsResponse(
        processed=len(taken),
        failed=len(outcomes) - len(taken),
        processing_time=wire.write_duration(seconds),
        document_ids=[outcome.document_id for outcome in taken],
        results=map(_write_outcome, outcomes),
        request_id=batch.request_id,
    )


def _write_outcome(outcome: Outcome) -> pb.DocumentResult:
    return pb.DocumentResult(
        index=outcome.index,
        document_id=outcome.document_id,
        version=outcome.version,
        chunks=outcome.chunks,
        unchanged=outcome.unchanged,
        failure_reason=FAILURES[outcome.reason] if outcome.reason else pb.FAILURE_REASON_UNSPECIFIED,
        failure_message=outcome.message,
        field_problems=[pb.FieldProblem(field=v.field, description=v.description) for v in outcome.violations],
        retryable=outcome.retryable,
    )


def read_document_name(message: pb.GetDocumentRequest | pb.DeleteDocumentRequest) -> tuple[str, str]:
    """A collection and a document id."""
    violations = Violations()
    collection = wire_request.read_collection(message.collection, violations)
    document_id = wire_request.read_identifier(message.document_id, "document_id", violations)
    violations.raise_if_any()
    return collection, document_id


def read_receipt_id(message: pb.GetErasureReceiptRequest) -> str:
    """A receipt's id."""
    violations = Violations()
    receipt_id = wire_request.read_identifier(message.receipt_id, "receipt_id", violations)
    violations.raise_if_any()
    return receipt_id


def write_receipt(erasure: Erasure) -> pb.ErasureReceipt:
    """An erasure on the wire."""
    return pb.ErasureReceipt(
        receipt_id=erasure.receipt_id,
        collection=erasure.collection,
        document_id=erasure.document_id,
        block_time=wire.write_timestamp(erasure.block_time),
        steps=map(_write_step, erasure.steps),
        complete_time=_write_moment(erasure.complete_time),
    )


def _write_step(step: ErasureStep) -> pb.ErasureStep:
    return pb.ErasureStep(
        place=step.place,
        removed=step.removed,
        remaining=step.remaining,
        complete_time=_write_moment(step.complete_time),
    )


def _write_moment(moment: datetime | None) -> Timestamp | None:
    return None if moment is None else wire.write_timestamp(moment)


@dataclass(frozen=True)
class Listing:
    """A page of documents to find. ``scope`` binds its page tokens."""

    collection: str
    filter_: Filter | None
    after: str
    limit: int
    scope: tuple[str, ...]


def read_listing(message: pb.ListDocumentsRequest) -> Listing:
    """A page of documents to find."""
    violations = Violations()
    collection = wire_request.read_collection(message.collection, violations)
    filter_ = wire.read_filter(message.filter, "filter", violations) if message.HasField("filter") else None
    limit = _read_page_size(message.page_size, violations)
    scope = ("documents", collection, message.filter.SerializeToString(deterministic=True).hex())
    after = paging.read_token(message.page_token, violations, *scope)
    violations.raise_if_any()
    return Listing(collection, filter_, after, limit, scope)


def read_access_change(message: pb.UpdateDocumentAccessRequest) -> tuple[str, str, Access]:
    """A collection, a document id, and its new readers."""
    violations = Violations()
    collection = wire_request.read_collection(message.collection, violations)
    document_id = wire_request.read_identifier(message.document_id, "document_id", violations)
    access = None
    if message.HasField("access"):
        access = wire.read_access(message.access, "access", violations)
    else:
        violations.add("access", "must be set; an empty list of readers admits nobody")
    violations.raise_if_any()
    return collection, document_id, access or Access(frozenset())


def read_new_collection(message: pb.CreateCollectionRequest) -> tuple[str, Access | None, int | None]:
    """A name, default readers and a retention in days."""
    violations = Violations()
    name = wire_request.read_identifier(message.name, "name", violations)
    access = _read_default_access(message, violations)
    days = _read_retention(message.retention, violations) if message.HasField("retention") else None
    violations.raise_if_any()
    return name, access, days


def read_collection_changes(message: pb.UpdateCollectionRequest) -> tuple[str, CollectionChanges]:
    """A name and what to change."""
    violations = Violations()
    name = wire_request.read_identifier(message.name, "name", violations)
    access = _read_default_access(message, violations)
    days = _read_retention(message.retention, violations) if message.HasField("retention") else None
    violations.raise_if_any()
    return name, CollectionChanges(access, days)


def read_collection_name(message: pb.GetCollectionRequest) -> str:
    """A collection's name."""
    violations = Violations()
    name = wire_request.read_collection(message.name, violations, "name")
    violations.raise_if_any()
    return name


def read_collection_page(message: pb.ListCollectionsRequest) -> tuple[str, int]:
    """Where to go on, and how many."""
    violations = Violations()
    limit = _read_page_size(message.page_size, violations)
    after = paging.read_token(message.page_token, violations, "collections")
    violations.raise_if_any()
    return after, limit


def write_collection(collection: Collection) -> pb.Collection:
    """A collection on the wire."""
    return pb.Collection(
        name=collection.name,
        embedding_model=collection.embedding_model,
        dimension=collection.dimension,
        default_access=wire.write_access(collection.default_access) if collection.default_access else None,
        retention=Duration(seconds=collection.retention_days * _DAY) if collection.retention_days else None,
        create_time=wire.write_timestamp(collection.create_time),
        document_count=collection.document_count,
    )


def _read_default_access(
    message: pb.CreateCollectionRequest | pb.UpdateCollectionRequest, violations: Violations
) -> Access | None:
    if not message.HasField("default_access"):
        return None
    return wire.read_access(message.default_access, "default_access", violations)


def _read_retention(message: Duration, violations: Violations) -> int:
    whole = message.nanos == 0 and message.seconds % _DAY == 0
    days = message.seconds // _DAY
    violations.require(
        whole and 0 <= days <= MAX_RETENTION_DAYS, "retention", f"must be 0 to {MAX_RETENTION_DAYS:,} whole days"
    )
    return days


def _read_page_size(value: int, violations: Violations) -> int:
    return wire_request.read_count(
        value, "page_size", default=_DEFAULT_PAGE, most=wire_request.MAX_PAGE, violations=violations
    )
