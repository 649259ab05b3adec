"""Between the wire and the domain of generation. Parsing is validation: it names every field that is wrong.

Text of endpoints is made well-formed here at the latest: protobuf takes no lone surrogate, and a call must not fail for one.
"""

from __future__ import annotations

import math
from datetime import timedelta

from groundwire.common.v1 import core_pb2
from groundwire.generation.v1 import generation_service_pb2 as pb
from services.corpus.errors import Violations
from services.generation.completions.wellformed import well_formed
from services.generation.endpoint import EndpointStatus
from services.generation.generation import (
    Attempt,
    Delta,
    Final,
    GenerationEvent,
    GenerationRequest,
    GenerationResult,
    Reset,
)
from services.generation.ports import Passage
from services.runtime import wire_request

MAX_PASSAGES = 50
MAX_PASSAGE_CHARS = 32_768
MAX_TITLE_CHARS = 1024
MAX_PASSAGES_CHARS_TOGETHER = 256 * 1024
"""The most characters of all passages' titles and texts together, unless the settings say otherwise."""
MAX_ID_CHARS = 512
DEFAULT_MAX_TOKENS = 1000
MOST_MAX_TOKENS = 8192


def parse_request(request: pb.GenerateRequest, most_characters: int = MAX_PASSAGES_CHARS_TOGETHER) -> GenerationRequest:
    """Read a request; raise InvalidRequest with every violated field.

    ``most_characters`` is the most characters that the titles and texts of all passages may have together.
    """
    violations = Violations()
    wire_request.check_query(request.query, violations)
    violations.require(len(request.passages) <= MAX_PASSAGES, "passages", f"must be at most {MAX_PASSAGES}")
    seen: set[str] = set()
    # More than the limit are not looked at: the answer to such a request must not grow with it.
    for index, passage in enumerate(request.passages[:MAX_PASSAGES]):
        _check_passage(passage, f"passages[{index}]", seen, violations)
    size = sum(len(p.title) + len(p.text) for p in request.passages[:MAX_PASSAGES])
    violations.require(
        size <= most_characters,
        "passages",
        f"must have at most {most_characters} characters of titles and texts together (generation.max_passages_chars)",
    )
    max_tokens = wire_request.read_count(
        request.max_tokens, "max_tokens", default=DEFAULT_MAX_TOKENS, most=MOST_MAX_TOKENS, violations=violations
    )
    min_confidence = wire_request.read_share(request.min_confidence, "min_confidence", violations)
    violations.require(len(request.query_hmac) in (0, 32), "query_hmac", "must have 32 bytes")
    violations.raise_if_any()
    return GenerationRequest(
        query=request.query,
        passages=tuple(Passage(p.passage_id, p.title, p.text, p.score) for p in request.passages),
        max_tokens=max_tokens,
        min_confidence=min_confidence,
    )


def _check_passage(passage: pb.Passage, path: str, seen: set[str], violations: Violations) -> None:
    identifier = passage.passage_id
    violations.require(
        0 < len(identifier) <= MAX_ID_CHARS, f"{path}.passage_id", f"must have 1 to {MAX_ID_CHARS} characters"
    )
    violations.require(identifier not in seen or not identifier, f"{path}.passage_id", "must be unique in the request")
    seen.add(identifier)
    violations.require(
        len(passage.title) <= MAX_TITLE_CHARS, f"{path}.title", f"must have at most {MAX_TITLE_CHARS} characters"
    )
    violations.require(
        len(passage.text) <= MAX_PASSAGE_CHARS, f"{path}.text", f"must have at most {MAX_PASSAGE_CHARS} characters"
    )
    violations.require(math.isfinite(passage.score), f"{path}.score", "must be a finite number")


def result_to_pb(result: GenerationResult) -> pb.GenerateResponse:
    """Write a result."""
    return pb.GenerateResponse(
        answer=well_formed(result.answer),
        citations=[
            pb.Citation(
                marker=citation.marker,
                passage_id=citation.passage_id,
                start_offset=citation.start,
                end_offset=citation.end,
            )
            for citation in result.citations
        ],
        confidence=result.confidence,
        abstained=result.abstained,
        low_confidence=result.low_confidence,
        endpoint=well_formed(result.endpoint),
        usage=core_pb2.Usage(input_tokens=result.usage.input_tokens, output_tokens=result.usage.output_tokens),
        warnings=[
            core_pb2.Warning(code=notice.code, message=well_formed(notice.message)) for notice in result.warnings
        ],
    )


def event_to_pb(event: GenerationEvent) -> pb.GenerateEvent:
    """Write one step of a stream."""
    match event:
        case Attempt(endpoint, number):
            return pb.GenerateEvent(attempt=pb.Attempt(endpoint=well_formed(endpoint), number=number))
        case Delta(text):
            return pb.GenerateEvent(delta=pb.Delta(text=well_formed(text)))
        case Reset(reason):
            return pb.GenerateEvent(reset=pb.Reset(reason=well_formed(reason)))
        case Final(result):
            return pb.GenerateEvent(final=result_to_pb(result))


def status_to_pb(status: EndpointStatus) -> pb.EndpointStatus:
    """Write an endpoint's status."""
    written = pb.EndpointStatus(
        name=well_formed(status.name),
        kind=status.kind,
        model=well_formed(status.model),
        healthy=status.healthy,
        breaker=status.breaker.value,
        in_flight=status.in_flight,
        error_message=well_formed(status.error_message),
        role=status.role.value,
        serving=status.serving,
    )
    written.latency.FromTimedelta(timedelta(seconds=status.latency))
    return written
