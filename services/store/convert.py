"""Requests of store/v1 to the VectorStore port's arguments; parsing is validation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from groundwire.store.v1 import store_service_pb2 as pb
from services.corpus.errors import Violations
from services.vectorstores import wire
from services.vectorstores.ports import Partition, PayloadChange, StoredChunk, Vector


def parse_deletion(request: pb.DeleteChunksRequest) -> tuple[Partition, str | None, int | None]:
    """The partition, the document (None for everything) and the version to keep, if any."""
    violations = Violations()
    partition = wire.parse_partition(request.partition, violations)
    violations.require(bool(request.document_id) or request.everything, "target", "a document or everything")
    violations.require(request.before_version >= 0, "before_version", "must not be negative")
    violations.raise_if_any()
    return partition, request.document_id or None, request.before_version or None


def parse_assignment(request: pb.AssignReadersRequest) -> Partition:
    """The partition of a request about one document's readers."""
    violations = Violations()
    partition = wire.parse_partition(request.partition, violations)
    violations.require(bool(request.document_id), "document_id", "must not be empty")
    violations.require(request.reader_set >= 0, "reader_set", "must not be negative")
    violations.raise_if_any()
    return partition


def parse_dense(request: pb.SearchDenseRequest) -> tuple[Partition, Vector, int, frozenset[int] | None]:
    """The partition, the question's vector, the limit, and the reader sets (None for all)."""
    violations = Violations()
    partition, limit = _parse_search(request, violations)
    vector = wire.parse_vector(request.vector, "vector", violations)
    violations.raise_if_any()
    return partition, vector, limit, _reader_sets(request)


def parse_lexical(request: pb.SearchLexicalRequest) -> tuple[Partition, int, frozenset[int] | None]:
    """The partition, the limit, and the reader sets (None for all)."""
    violations = Violations()
    partition, limit = _parse_search(request, violations)
    violations.raise_if_any()
    return partition, limit, _reader_sets(request)


def _parse_search(
    request: pb.SearchDenseRequest | pb.SearchLexicalRequest, violations: Violations
) -> tuple[Partition, int]:
    return wire.parse_partition(request.partition, violations), wire.parse_limit(request.limit, violations)


def _reader_sets(request: pb.SearchDenseRequest | pb.SearchLexicalRequest) -> frozenset[int] | None:
    return frozenset(request.reader_sets.ids) if request.HasField("reader_sets") else None


def parse_fetch(request: pb.FetchChunksRequest) -> Partition:
    """The partition of a fetch."""
    violations = Violations()
    partition = wire.parse_partition(request.partition, violations)
    violations.require(len(request.chunk_ids) <= wire.MAX_LIMIT, "chunk_ids", f"at most {wire.MAX_LIMIT:,}")
    violations.raise_if_any()
    return partition


def parse_count(request: pb.CountChunksRequest) -> tuple[Partition, str | None, int | None]:
    """The partition, the document (None for everything) and the version before which to count, if any."""
    violations = Violations()
    partition = wire.parse_partition(request.partition, violations)
    violations.require(request.before_version >= 0, "before_version", "must not be negative")
    violations.require(
        bool(request.document_id) or request.before_version <= 0, "document_id", "versions are those of a document"
    )
    violations.raise_if_any()
    return partition, request.document_id or None, request.before_version or None


def parse_listing(request: pb.ListPayloadsRequest) -> tuple[str, tuple[str, str], int]:
    """The tenant, the place after which the page begins, and the limit."""
    violations = Violations()
    violations.require(bool(request.tenant), "tenant", "must not be empty")
    violations.require(1 <= request.limit <= wire.MAX_PAYLOADS, "limit", f"must be 1 to {wire.MAX_PAYLOADS:,}")
    violations.raise_if_any()
    return request.tenant, (request.after.collection, request.after.chunk_id), request.limit


def parse_walk(request: pb.ListChunksRequest) -> tuple[Partition, str | None, str, int]:
    """The partition, the document (None for all), the chunk after which the page begins, and the limit."""
    violations = Violations()
    partition = wire.parse_partition(request.partition, violations)
    violations.require(1 <= request.limit <= wire.MAX_PAYLOADS, "limit", f"must be 1 to {wire.MAX_PAYLOADS:,}")
    violations.raise_if_any()
    return partition, request.document_id or None, request.after, request.limit


def within(chunks: Sequence[StoredChunk], most_bytes: int) -> Iterator[pb.StoredChunk]:
    """The first chunks, as many as one message should hold; at least one, if there is any."""
    size = 0
    for message in map(wire.chunk_to_pb, chunks):
        size += message.ByteSize()
        if size > most_bytes and message.chunk_id != chunks[0].chunk_id:
            return
        yield message


def parse_changes(request: pb.ReplacePayloadsRequest) -> tuple[str, list[PayloadChange]]:
    """The tenant, and what to replace."""
    violations = Violations()
    violations.require(bool(request.tenant), "tenant", "must not be empty")
    violations.require(len(request.changes) <= wire.MAX_PAYLOADS, "changes", f"at most {wire.MAX_PAYLOADS:,}")
    for i, change in enumerate(request.changes[: wire.MAX_PAYLOADS]):
        violations.require(bool(change.place.collection), f"changes[{i}].place.collection", "must not be empty")
        violations.require(bool(change.place.chunk_id), f"changes[{i}].place.chunk_id", "must not be empty")
    violations.raise_if_any()
    return request.tenant, list(map(wire.change_from_pb, request.changes))
