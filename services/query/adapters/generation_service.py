"""The Generation port over gRPC: a GenerationService."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import TYPE_CHECKING

import grpc

from groundwire.generation.v1 import generation_service_pb2 as pb
from groundwire.generation.v1 import generation_service_pb2_grpc as rpc
from services.corpus.errors import GroundwireError
from services.query.ports import Attempt, Citation, Delta, FoundPassage, GenerationStep, Reset, Written
from services.resilience.failover import Repeat
from services.runtime import wire
from services.runtime.auditing.record import current_record
from services.runtime.verdicts import judge

if TYPE_CHECKING:
    from groundwire.generation.v1.generation_service_pb2_grpc import GenerationServiceAsyncStub

_PLACE = re.compile(r"p(\d+)")
# The contract's limit; many nested headings can be longer.
_MAX_TOPIC = 1024
_WENT_AWAY = "the generation service went away"


class GenerationOverGrpc:
    """Implements the port over ``channel``, which it owns. ``to_error`` says what a failed call means."""

    def __init__(self, channel: grpc.aio.Channel, to_error: Callable[[grpc.aio.AioRpcError], GroundwireError]) -> None:
        self._channel = channel
        self._stub: GenerationServiceAsyncStub = rpc.GenerationServiceStub(channel)
        self._to_error = to_error

    async def write(
        self, query: str, passages: Sequence[FoundPassage], *, max_tokens: int, min_confidence: float
    ) -> AsyncGenerator[GenerationStep, None]:
        """See the port."""
        request = pb.GenerateRequest(
            query=query,
            # Ids count places: chunk ids repeat across collections, and the endpoint need not know them.
            passages=[
                pb.Passage(passage_id=f"p{place}", title=_topic(passage), text=passage.text, score=passage.score)
                for place, passage in enumerate(passages)
            ],
            max_tokens=max_tokens,
            min_confidence=min_confidence,
            query_hmac=current_record().query_hmac,
        )
        attempts = 0
        for last in (False, True):
            began = attempts
            call = self._stub.StreamGenerate(request)
            try:
                async for event in call:
                    step = _step(event, began)
                    if isinstance(step, Attempt):
                        attempts = step.number
                    if step is not None:
                        yield step
            except grpc.aio.AioRpcError as error:
                # Until its first message the channel has moved the stream by itself.
                if last or attempts == began or judge(error).repeat not in (Repeat.SAFE, Repeat.ALWAYS):
                    raise self._to_error(error) from error
            else:
                return
            finally:
                call.cancel()  # does nothing to a call that has ended
            yield Reset(_WENT_AWAY)

    async def close(self) -> None:
        """See the port."""
        await self._channel.close()


def _step(event: pb.GenerateEvent, before: int) -> GenerationStep | None:
    """What an event says, when ``before`` attempts were made by a service that went away; None of a later release's."""
    match event.WhichOneof("event"):
        case "attempt":
            return Attempt(event.attempt.endpoint, before + event.attempt.number)
        case "delta":
            return Delta(event.delta.text)
        case "reset":
            return Reset(event.reset.reason)
        case "final":
            return _written(event.final)
        case _:
            return None


def _topic(passage: FoundPassage) -> str:
    return " › ".join(dict.fromkeys([passage.title, *passage.headings]))[:_MAX_TOPIC]


def _written(final: pb.GenerateResponse) -> Written:
    places = {citation.passage_id: _PLACE.fullmatch(citation.passage_id) for citation in final.citations}
    return Written(
        answer=final.answer,
        citations=tuple(
            Citation(citation.marker, int(place.group(1)), citation.start_offset, citation.end_offset)
            for citation in final.citations
            if (place := places[citation.passage_id]) is not None
        ),
        confidence=final.confidence,
        abstained=final.abstained,
        low_confidence=final.low_confidence,
        endpoint=final.endpoint,
        input_tokens=final.usage.input_tokens,
        output_tokens=final.usage.output_tokens,
        notices=wire.read_notices(final.warnings),
    )
