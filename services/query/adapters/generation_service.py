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
from services.runtime import wire
from services.runtime.auditing.record import current_record

if TYPE_CHECKING:
    from groundwire.generation.v1.generation_service_pb2_grpc import GenerationServiceAsyncStub

_PLACE = re.compile(r"p(\d+)")
# The contract's limit; many nested headings can be longer.
_MAX_TOPIC = 1024


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
        call = self._stub.StreamGenerate(request)
        try:
            async for event in call:
                match event.WhichOneof("event"):
                    case "attempt":
                        yield Attempt(event.attempt.endpoint, event.attempt.number)
                    case "delta":
                        yield Delta(event.delta.text)
                    case "reset":
                        yield Reset(event.reset.reason)
                    case "final":
                        yield _written(event.final)
                    case _:
                        pass  # a step of a later release
        except grpc.aio.AioRpcError as error:
            raise self._to_error(error) from error
        finally:
            call.cancel()  # does nothing to a call that has ended

    async def close(self) -> None:
        """See the port."""
        await self._channel.close()


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
