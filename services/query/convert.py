"""QueryService messages to and from the domain. Pure."""

from __future__ import annotations

from groundwire.common.v1 import core_pb2
from groundwire.query.v1 import query_service_pb2 as pb
from services.corpus.errors import Violations
from services.query.ports import Attempt, Delta, Reset
from services.query.query import Abstention, Answer, Question, Retrieved, Step
from services.query.sources import CitedSource
from services.runtime import wire, wire_request

MAX_TOKENS = 8192
MAX_TOP_K = 50
MAX_USER_ID = 256
MAX_SESSION_ID = 128

_ABSTENTIONS = {
    Abstention.NOTHING_FOUND: pb.ABSTENTION_REASON_NOTHING_FOUND,
    Abstention.NOT_SUPPORTED: pb.ABSTENTION_REASON_NOT_SUPPORTED,
    Abstention.LOW_CONFIDENCE: pb.ABSTENTION_REASON_LOW_CONFIDENCE,
    Abstention.SOURCES_WITHDRAWN: pb.ABSTENTION_REASON_SOURCES_WITHDRAWN,
}


def read_request(message: pb.QueryRequest) -> Question:
    """The domain's question; raises InvalidRequest with every wrong field."""
    violations = Violations()
    wire_request.check_query(message.query, violations)
    wire_request.check_text(message.user_id, "user_id", MAX_USER_ID, violations)
    wire_request.check_text(message.session_id, "session_id", MAX_SESSION_ID, violations)
    filter_ = None
    if message.HasField("context_filters"):
        filter_ = wire.read_filter(message.context_filters, "context_filters", violations)
    question = Question(
        query=message.query,
        request_id=wire_request.read_request_id(message.request_id, violations),
        user_id=message.user_id,
        session_id=message.session_id,
        filter_=filter_,
        max_tokens=wire_request.read_count(
            message.max_tokens, "max_tokens", default=1000, most=MAX_TOKENS, violations=violations
        ),
        collections=wire_request.read_collections(message.collections, violations),
        top_k=wire_request.read_count(message.top_k, "top_k", default=8, most=MAX_TOP_K, violations=violations),
        min_confidence=wire_request.read_share(message.min_confidence, "min_confidence", violations),
    )
    violations.raise_if_any()
    return question


def write_response(answer: Answer) -> pb.QueryResponse:
    """An answer on the wire."""
    return pb.QueryResponse(
        answer=answer.text,
        sources=map(_write_source, answer.sources),
        confidence=answer.confidence,
        processing_time=wire.write_duration(answer.processing_time),
        request_id=answer.request_id,
        abstained=answer.abstention is not None,
        abstention_reason=_ABSTENTIONS[answer.abstention] if answer.abstention else pb.ABSTENTION_REASON_UNSPECIFIED,
        coverage=wire.write_coverage(answer.coverage),
        endpoint=answer.endpoint,
        usage=core_pb2.Usage(input_tokens=answer.input_tokens, output_tokens=answer.output_tokens),
        warnings=wire.write_notices(answer.notices),
    )


def write_event(step: Step) -> pb.QueryEvent:
    """A step of a streamed answer on the wire."""
    match step:
        case Retrieved(sources, coverage):
            found = pb.RetrievalEvent(sources=map(_write_source, sources), coverage=wire.write_coverage(coverage))
            return pb.QueryEvent(retrieval=found)
        case Attempt(endpoint, number):
            return pb.QueryEvent(attempt=pb.AttemptEvent(endpoint=endpoint, number=number))
        case Delta(text):
            return pb.QueryEvent(delta=pb.DeltaEvent(text=text))
        case Reset(reason):
            return pb.QueryEvent(reset=pb.ResetEvent(reason=reason))
        case Answer():
            return pb.QueryEvent(final=write_response(step))


def _write_source(source: CitedSource) -> core_pb2.Source:
    passage = source.passage
    return core_pb2.Source(
        marker=source.marker,
        document_id=passage.document_id,
        version=passage.version,
        chunk_id=passage.chunk_id,
        title=passage.title,
        uri=passage.uri,
        snippet=source.snippet,
        start_offset=source.start,
        end_offset=source.end,
        score=passage.score,
        stores=passage.stores,
        collection=passage.collection,
        cited=source.cited,
        page=passage.page,
    )
