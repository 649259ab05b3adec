"""The VectorStore port's types to and from the messages of store/v1; pure, used by both ends of a StoreService."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from groundwire.store.v1 import store_service_pb2 as pb
from services.corpus.errors import Violations
from services.vectorstores.ports import (
    FetchedChunk,
    KeptPayload,
    Partition,
    PayloadChange,
    StoredChunk,
    StoreHit,
    Vector,
)

MAX_LIMIT = 10_000
MAX_PAYLOADS = 1_000
_FLOAT32 = np.dtype("<f4")


def partition_to_pb(partition: Partition) -> pb.Partition:
    """Shape a partition for the wire."""
    return pb.Partition(tenant=partition.tenant, collection=partition.collection)


def vector_to_bytes(vector: Vector) -> bytes:
    """Little-endian float32, packed."""
    return vector.astype(_FLOAT32, copy=False).tobytes()


def vector_from_bytes(data: bytes) -> Vector:
    """The reverse of :func:`vector_to_bytes`; the result cannot be written to."""
    return np.frombuffer(data, dtype=_FLOAT32)


def chunk_to_pb(chunk: StoredChunk) -> pb.StoredChunk:
    """Shape a chunk for the wire."""
    return pb.StoredChunk(
        chunk_id=chunk.chunk_id,
        document_id=chunk.document_id,
        version=chunk.version,
        ordinal=chunk.ordinal,
        reader_set=chunk.reader_set,
        payload=chunk.payload,
        vector=vector_to_bytes(chunk.vector),
        terms=chunk.terms,
    )


def chunk_from_pb(message: pb.StoredChunk) -> StoredChunk:
    """Read a chunk; validate with :func:`check_chunks` first."""
    return StoredChunk(
        chunk_id=message.chunk_id,
        document_id=message.document_id,
        version=message.version,
        ordinal=message.ordinal,
        reader_set=message.reader_set,
        payload=message.payload,
        vector=vector_from_bytes(message.vector),
        terms=tuple(message.terms),
    )


def hit_to_pb(hit: StoreHit) -> pb.StoreHit:
    """Shape a hit for the wire."""
    return pb.StoreHit(chunk_id=hit.chunk_id, document_id=hit.document_id, version=hit.version, score=hit.score)


def hits_from_pb(messages: Iterable[pb.StoreHit]) -> list[StoreHit]:
    """Read hits."""
    return [StoreHit(hit.chunk_id, hit.document_id, hit.version, hit.score) for hit in messages]


def fetched_to_pb(chunk: FetchedChunk) -> pb.FetchedChunk:
    """Shape a fetched chunk for the wire."""
    return pb.FetchedChunk(
        chunk_id=chunk.chunk_id,
        document_id=chunk.document_id,
        version=chunk.version,
        ordinal=chunk.ordinal,
        reader_set=chunk.reader_set,
        payload=chunk.payload,
    )


def fetched_from_pb(message: pb.FetchedChunk) -> FetchedChunk:
    """Read a fetched chunk."""
    return FetchedChunk(
        chunk_id=message.chunk_id,
        document_id=message.document_id,
        version=message.version,
        ordinal=message.ordinal,
        reader_set=message.reader_set,
        payload=message.payload,
    )


def kept_to_pb(kept: KeptPayload) -> pb.KeptPayload:
    """Shape a kept payload for the wire."""
    return pb.KeptPayload(collection=kept.collection, chunk=fetched_to_pb(kept.chunk))


def kept_from_pb(message: pb.KeptPayload) -> KeptPayload:
    """Read a kept payload."""
    return KeptPayload(message.collection, fetched_from_pb(message.chunk))


def change_to_pb(change: PayloadChange) -> pb.PayloadChange:
    """Shape a change for the wire."""
    place = pb.PayloadPlace(collection=change.collection, chunk_id=change.chunk_id)
    return pb.PayloadChange(place=place, expected=change.expected, payload=change.payload)


def change_from_pb(message: pb.PayloadChange) -> PayloadChange:
    """Read a change."""
    return PayloadChange(message.place.collection, message.place.chunk_id, message.expected, message.payload)


def reader_sets_to_pb(reader_sets: frozenset[int] | None) -> pb.ReaderSets | None:
    """Shape a narrowing for the wire; None (all) is an absent message."""
    return None if reader_sets is None else pb.ReaderSets(ids=sorted(reader_sets))


def parse_partition(message: pb.Partition, violations: Violations) -> Partition:
    """Read a partition, noting what is wrong with it."""
    violations.require(bool(message.tenant), "partition.tenant", "must not be empty")
    violations.require(bool(message.collection), "partition.collection", "must not be empty")
    return Partition(message.tenant, message.collection)


def parse_limit(limit: int, violations: Violations) -> int:
    """Read a limit, noting when it is out of range."""
    violations.require(1 <= limit <= MAX_LIMIT, "limit", f"must be 1 to {MAX_LIMIT:,}")
    return limit


def parse_vector(data: bytes, path: str, violations: Violations) -> Vector:
    """Read a vector, noting when it is not packed float32 or not finite."""
    if not data or len(data) % _FLOAT32.itemsize:
        violations.add(path, "must be packed little-endian float32")
        return np.zeros(0, dtype=_FLOAT32)
    vector = vector_from_bytes(data)
    violations.require(bool(np.isfinite(vector).all()), path, "must be finite")
    return vector


def parse_chunks(messages: Sequence[pb.StoredChunk], violations: Violations) -> list[StoredChunk]:
    """Read chunks, noting what is wrong with each."""
    for place, message in enumerate(messages):
        path = f"chunks[{place}]"
        violations.require(bool(message.chunk_id), f"{path}.chunk_id", "must not be empty")
        violations.require(bool(message.document_id), f"{path}.document_id", "must not be empty")
        for name in ("version", "ordinal", "reader_set"):
            violations.require(getattr(message, name) >= 0, f"{path}.{name}", "must not be negative")
        parse_vector(message.vector, f"{path}.vector", violations)
    violations.raise_if_any()
    return [chunk_from_pb(message) for message in messages]
