"""RetrievalService messages to and from the domain. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from groundwire.common.v1 import core_pb2
from groundwire.retrieval.v1 import retrieval_service_pb2 as pb
from services.corpus.errors import Violations
from services.retrieval.request import (
    DEFAULT_TOP_K,
    MAX_TOP_K,
    RerankMode,
    RetrievalMode,
    RetrieveQuery,
)
from services.retrieval.result import Reference, RetrievedPassage, RetrieveResult, StageTimings, StoreStatus
from services.runtime import wire, wire_request

MAX_STORES = 64
MAX_SOURCES = 100

_MODES = {
    pb.RETRIEVAL_MODE_UNSPECIFIED: RetrievalMode.HYBRID,
    pb.RETRIEVAL_MODE_HYBRID: RetrievalMode.HYBRID,
    pb.RETRIEVAL_MODE_DENSE: RetrievalMode.DENSE,
    pb.RETRIEVAL_MODE_LEXICAL: RetrievalMode.LEXICAL,
}
_RERANK_MODES = {
    pb.RERANK_MODE_UNSPECIFIED: RerankMode.AUTO,
    pb.RERANK_MODE_AUTO: RerankMode.AUTO,
    pb.RERANK_MODE_ON: RerankMode.ON,
    pb.RERANK_MODE_OFF: RerankMode.OFF,
}


def read_request(message: pb.RetrieveRequest) -> RetrieveQuery:
    """The domain's request; raises InvalidRequest with every wrong field."""
    violations = Violations()
    wire_request.check_query(message.query, violations)
    filter_ = wire.read_filter(message.filter, "filter", violations) if message.HasField("filter") else None
    collections = wire_request.read_collections(message.collections, violations)
    violations.require(0 <= message.top_k <= MAX_TOP_K, "top_k", f"must be 1 to {MAX_TOP_K}, or 0 for the default")
    mode = _MODES.get(message.mode)
    violations.require(mode is not None, "mode", "must be a known retrieval mode")
    rerank = _RERANK_MODES.get(message.rerank)
    violations.require(rerank is not None, "rerank", "must be a known rerank mode")
    violations.require(len(message.stores) <= MAX_STORES, "stores", f"at most {MAX_STORES} stores")
    violations.raise_if_any()
    return RetrieveQuery(
        query=message.query,
        filter_=filter_,
        collections=collections,
        top_k=message.top_k or DEFAULT_TOP_K,
        mode=mode or RetrievalMode.HYBRID,
        rerank=rerank or RerankMode.AUTO,
        stores=tuple(message.stores),
    )


def read_references(message: pb.CheckSourcesRequest) -> tuple[Reference, ...]:
    """The sources to check; raises InvalidRequest with every wrong field."""
    violations = Violations()
    violations.require(len(message.sources) <= MAX_SOURCES, "sources", f"at most {MAX_SOURCES} sources")
    references = []
    for place, source in enumerate(message.sources[:MAX_SOURCES]):
        path = f"sources[{place}]"
        collection = wire_request.read_identifier(source.collection, f"{path}.collection", violations)
        document_id = wire_request.read_identifier(source.document_id, f"{path}.document_id", violations)
        violations.require(source.version >= 1, f"{path}.version", "must be at least 1")
        references.append(Reference(collection, document_id, source.version))
    violations.raise_if_any()
    return tuple(references)


def write_references(readable: Iterable[Reference]) -> pb.CheckSourcesResponse:
    """The response of CheckSources."""
    return pb.CheckSourcesResponse(
        readable=[pb.SourceReference(**reference._asdict()) for reference in sorted(readable)]
    )


def write_result(result: RetrieveResult, *, query_hmac: bytes = b"") -> pb.RetrieveResponse:
    """The response of Retrieve."""
    return pb.RetrieveResponse(
        chunks=[_write_passage(passage) for passage in result.passages],
        coverage=wire.write_coverage(result.coverage),
        timings=_write_timings(result.timings),
        warnings=wire.write_notices(result.notices),
        query_hmac=query_hmac,
    )


def write_statuses(statuses: Sequence[StoreStatus]) -> pb.ListStoresResponse:
    """The response of ListStores."""
    return pb.ListStoresResponse(
        stores=[
            pb.StoreStatus(
                name=status.name,
                engine=status.engine,
                dense=status.dense,
                lexical=status.lexical,
                healthy=status.healthy,
                breaker=status.breaker,
                chunk_count=status.chunk_count,
                error_message=status.error,
                in_flight=status.in_flight,
            )
            for status in statuses
        ]
    )


def _write_passage(found: RetrievedPassage) -> pb.RetrievedChunk:
    key, passage, scores = found.key, found.passage, found.scores
    return pb.RetrievedChunk(
        chunk=core_pb2.Chunk(
            chunk_id=key.chunk_id,
            collection=key.collection,
            document_id=key.document_id,
            version=key.version,
            title=found.title,
            uri=found.uri,
            text=passage.text,
            start_offset=passage.start,
            end_offset=passage.end,
            headings=passage.headings,
            page=passage.page,
        ),
        score=found.score,
        scores=pb.StageScores(dense=scores.dense, lexical=scores.lexical, fused=scores.fused, rerank=scores.rerank),
        stores=found.stores,
    )


def _write_timings(timings: StageTimings) -> pb.StageTimings:
    return pb.StageTimings(
        embed=wire.write_duration(timings.embed),
        search=wire.write_duration(timings.search),
        check=wire.write_duration(timings.check),
        rerank=wire.write_duration(timings.rerank),
        total=wire.write_duration(timings.total),
    )
