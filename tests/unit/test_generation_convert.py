"""Between the wire and the domain of generation."""

from __future__ import annotations

import pytest

from groundwire.generation.v1 import generation_service_pb2 as pb
from services.corpus.coverage import Notice
from services.corpus.errors import InvalidRequest
from services.generation.convert import (
    MAX_PASSAGE_CHARS,
    MAX_PASSAGES,
    event_to_pb,
    parse_request,
    result_to_pb,
    status_to_pb,
)
from services.generation.endpoint import EndpointStatus
from services.generation.generation import Attempt, Delta, Final, GenerationResult, Reset
from services.generation.ports import Citation, Passage, Usage
from services.resilience.breaker import BreakerState
from services.resilience.endpoints import Role
from services.runtime.wire_request import MAX_QUERY

RESULT = GenerationResult(
    "It is so. [1]", (Citation("[1]", "p", 2, 9),), 0.8, False, False, "a", Usage(3, 4), (Notice("CODE", "words"),)
)


def test_a_request_is_read_with_its_defaults() -> None:
    parsed = parse_request(
        pb.GenerateRequest(query="why?", passages=[pb.Passage(passage_id="p", title="t", text="x", score=0.5)])
    )
    assert parsed.passages == (Passage("p", "t", "x", 0.5),)
    assert (parsed.query, parsed.max_tokens, parsed.min_confidence) == ("why?", 1000, 0.0)


def test_the_limits_themselves_are_allowed() -> None:
    request = pb.GenerateRequest(query="é" * MAX_QUERY, max_tokens=8192, min_confidence=1.0)
    request.passages.extend(
        pb.Passage(passage_id=str(number), text="x" * MAX_PASSAGE_CHARS) for number in range(MAX_PASSAGES)
    )
    assert len(parse_request(request, MAX_PASSAGES * MAX_PASSAGE_CHARS).passages) == MAX_PASSAGES


def test_the_passages_together_have_a_limit() -> None:
    """Titles count (X1)."""
    request = pb.GenerateRequest(query="why?")
    request.passages.add(passage_id="a", title="é" * 60, text="é" * 40)
    request.passages.add(passage_id="b", text="x" * 50)
    assert len(parse_request(request, 150).passages) == 2
    with pytest.raises(InvalidRequest) as caught:
        parse_request(request, 149)
    assert [violation.field for violation in caught.value.violations] == ["passages"]
    assert "generation.max_passages_chars" in caught.value.violations[0].description


def test_every_wrong_field_is_named() -> None:
    request = pb.GenerateRequest(query="a\0b" * MAX_QUERY, max_tokens=-1, min_confidence=float("nan"))
    request.passages.add(passage_id="p", title="x" * 2000)
    request.passages.add(passage_id="p", text="x" * (MAX_PASSAGE_CHARS + 1))
    request.passages.add(passage_id="", score=float("inf"))
    with pytest.raises(InvalidRequest) as caught:
        parse_request(request)
    assert [violation.field for violation in caught.value.violations] == [
        "query",
        "query",
        "passages[0].title",
        "passages[1].passage_id",
        "passages[1].text",
        "passages[2].passage_id",
        "passages[2].score",
        "max_tokens",
        "min_confidence",
    ]


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.GenerateRequest(), "query"),
        (pb.GenerateRequest(query=" \n"), "query"),
        (pb.GenerateRequest(query="q", max_tokens=8193), "max_tokens"),
        (pb.GenerateRequest(query="q", min_confidence=1.01), "min_confidence"),
        (pb.GenerateRequest(query="q", min_confidence=-0.01), "min_confidence"),
        (
            pb.GenerateRequest(query="q", passages=[pb.Passage(passage_id=str(n)) for n in range(MAX_PASSAGES + 1)]),
            "passages",
        ),
    ],
)
def test_a_wrong_field_is_refused(request_: pb.GenerateRequest, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_request(request_)
    assert [violation.field for violation in caught.value.violations] == [field]


def test_a_result_is_written() -> None:
    written = result_to_pb(RESULT)
    assert (written.answer, written.confidence, written.endpoint) == ("It is so. [1]", 0.8, "a")
    assert (written.citations[0].marker, written.citations[0].passage_id) == ("[1]", "p")
    assert (written.citations[0].start_offset, written.citations[0].end_offset) == (2, 9)
    assert (written.usage.input_tokens, written.usage.output_tokens) == (3, 4)
    assert (written.warnings[0].code, written.warnings[0].message) == ("CODE", "words")


def test_every_event_is_written() -> None:
    kinds = [event_to_pb(event) for event in (Attempt("a", 2), Delta("x"), Reset("why"), Final(RESULT))]
    assert [kind.WhichOneof("event") for kind in kinds] == ["attempt", "delta", "reset", "final"]
    assert (kinds[0].attempt.endpoint, kinds[0].attempt.number) == ("a", 2)
    assert (kinds[1].delta.text, kinds[2].reset.reason) == ("x", "why")
    assert kinds[3].final == result_to_pb(RESULT)


def test_a_status_is_written() -> None:
    status = EndpointStatus("a", "openai", "m", False, 2, 1.5, "down", Role.BACKUP, BreakerState.HALF_OPEN, True)
    written = status_to_pb(status)
    assert (written.name, written.kind, written.model, written.breaker) == ("a", "openai", "m", "half-open")
    assert (written.healthy, written.in_flight, written.error_message) == (False, 2, "down")
    assert (written.role, written.serving) == ("backup", True)
    assert written.latency.ToTimedelta().total_seconds() == 1.5
