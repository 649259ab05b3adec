"""QueryService's messages to and from the domain."""

from __future__ import annotations

import math

import pytest

from groundwire.common.v1 import core_pb2, filter_pb2
from groundwire.query.v1 import query_service_pb2 as pb
from services.corpus.coverage import Notice
from services.corpus.errors import InvalidRequest
from services.corpus.filter import Equals
from services.query import convert
from services.query.ports import Attempt, Citation, Delta, Reset
from services.query.query import Abstention, Answer, Question, Retrieved, Step
from services.query.sources import cited_sources
from tests.support.answers import COVERAGE, FOUND

SOURCES = cited_sources(FOUND.passages, [Citation("[1]", 0, 4, 33)])
ANSWER = Answer(
    text="It has 38 spaces. [1]",
    sources=SOURCES,
    confidence=0.75,
    processing_time=1.25,
    request_id="r-1",
    abstention=None,
    coverage=COVERAGE,
    endpoint="llm",
    input_tokens=20,
    output_tokens=5,
    notices=(Notice("SESSION_NOT_KEPT", "not kept"),),
)


def violated(message: pb.QueryRequest) -> list[str]:
    with pytest.raises(InvalidRequest) as caught:
        convert.read_request(message)
    return [violation.field for violation in caught.value.violations]


@pytest.mark.usefixtures("served_request")
def test_defaults() -> None:
    assert convert.read_request(pb.QueryRequest(query="Why?")) == Question("Why?", "from-the-call")


def test_everything_that_can_be_asked() -> None:
    filter_ = filter_pb2.Filter(
        equals=filter_pb2.Comparison(key="lang", value=filter_pb2.MetadataValue(string_value="en"))
    )
    message = pb.QueryRequest(
        query="Why?",
        user_id="alice",
        session_id="s-1",
        context_filters=filter_,
        max_tokens=8192,
        collections=["b", "a"],
        top_k=50,
        min_confidence=1.0,
        request_id="r-1",
    )
    assert convert.read_request(message) == Question(
        query="Why?",
        request_id="r-1",
        user_id="alice",
        session_id="s-1",
        filter_=Equals("lang", "en"),
        max_tokens=8192,
        collections=("b", "a"),
        top_k=50,
        min_confidence=1.0,
    )


def test_everything_wrong_is_named() -> None:
    message = pb.QueryRequest(
        query=" ",
        user_id="u" * 257,
        session_id="s\n",
        context_filters=filter_pb2.Filter(),
        max_tokens=8193,
        collections=["fine", "a b"],
        top_k=-1,
        min_confidence=math.nan,
        request_id="ü",
    )
    assert violated(message) == [
        "query",
        "user_id",
        "session_id",
        "context_filters",
        "request_id",
        "max_tokens",
        "collections[1]",
        "top_k",
        "min_confidence",
    ]


def test_an_answer_on_the_wire() -> None:
    written = convert.write_response(ANSWER)
    assert (written.answer, written.confidence, written.request_id) == ("It has 38 spaces. [1]", 0.75, "r-1")
    assert (written.processing_time.seconds, written.processing_time.nanos) == (1, 250_000_000)
    assert (written.abstained, written.abstention_reason) == (False, pb.ABSTENTION_REASON_UNSPECIFIED)
    assert (written.endpoint, written.usage) == ("llm", core_pb2.Usage(input_tokens=20, output_tokens=5))
    assert written.coverage.stores[0].state == core_pb2.StoreCoverage.STATE_ANSWERED
    assert [(w.code, w.message) for w in written.warnings] == [("SESSION_NOT_KEPT", "not kept")]
    assert written.sources[0] == core_pb2.Source(
        marker="[1]",
        document_id="garage",
        version=1,
        chunk_id="garage#1.0",
        title="Garage",
        uri="https://intranet/garage",
        snippet="garage has 38 parking spaces.",
        start_offset=11,
        end_offset=40,
        score=0.9,
        stores=["one"],
        collection="default",
        cited=True,
        page=2,
    )
    assert [source.cited for source in written.sources] == [True, False]


def test_every_abstention_has_a_number() -> None:
    numbers = set()
    for abstention in Abstention:
        written = convert.write_response(
            Answer("-", (), 0.0, 0.0, "r", abstention, COVERAGE),
        )
        assert written.abstained
        numbers.add(written.abstention_reason)
    assert numbers == set(pb.AbstentionReason.values()) - {pb.ABSTENTION_REASON_UNSPECIFIED}


def test_every_step_has_an_event() -> None:
    steps: list[Step] = [Retrieved(SOURCES, COVERAGE), Attempt("llm", 2), Delta("It "), Reset("over"), ANSWER]
    events = [convert.write_event(step) for step in steps]
    assert [event.WhichOneof("event") for event in events] == ["retrieval", "attempt", "delta", "reset", "final"]
    assert set(pb.QueryEvent.DESCRIPTOR.oneofs_by_name["event"].fields) == {
        pb.QueryEvent.DESCRIPTOR.fields_by_name[str(event.WhichOneof("event"))] for event in events
    }
    retrieval, attempt, delta, reset, final = events
    assert len(retrieval.retrieval.sources) == 2
    assert retrieval.retrieval.coverage.stores[0].hits == 3
    assert (attempt.attempt.endpoint, attempt.attempt.number) == ("llm", 2)
    assert (delta.delta.text, reset.reset.reason) == ("It ", "over")
    assert final.final == convert.write_response(ANSWER)
