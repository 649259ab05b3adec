"""GenerationService on the wire: protobuf in, one domain call, protobuf out. Domain errors pass to the interceptors."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from hashlib import sha256
from typing import Any, TypeAlias

import grpc

from groundwire.generation.v1 import generation_service_pb2 as pb
from groundwire.generation.v1 import generation_service_pb2_grpc
from interceptors import current
from services.corpus.errors import PermissionDenied
from services.corpus.principal import Caller
from services.generation.completions.wellformed import well_formed
from services.generation.convert import (
    MAX_PASSAGES_CHARS_TOGETHER,
    event_to_pb,
    parse_request,
    result_to_pb,
    status_to_pb,
)
from services.generation.generation import Attempt, Final, GenerationRequest, GenerationResult, Generator
from services.runtime.auditing.record import current_record

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class GenerationServicer(generation_service_pb2_grpc.GenerationServiceServicer):
    """Translates and delegates to the :class:`Generator`.

    Passages are those of a service of the mesh, which got them under its caller's rights. Unless
    ``callers_may_bring_passages``, a caller that brings passages of its own gets PermissionDenied.
    """

    def __init__(
        self,
        generator: Generator,
        caller_of: Callable[[], Caller],
        *,
        most_characters: int = MAX_PASSAGES_CHARS_TOGETHER,
        callers_may_bring_passages: bool = False,
    ) -> None:
        self._generator = generator
        self._callers_may_bring_passages = callers_may_bring_passages
        self._most_characters = most_characters
        self._caller_of = caller_of

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> pb.GenerateResponse:
        """Write an answer, or abstain."""
        result = await self._generator.generate(self._read(request))
        _note(result)
        return result_to_pb(result)

    async def StreamGenerate(
        self,
        request: pb.GenerateRequest,
        context: Context,
    ) -> AsyncIterator[pb.GenerateEvent]:
        """Write an answer in pieces."""
        # Closed here and now, so that a client that goes away ends the endpoint's work at once.
        async with aclosing(self._generator.stream(self._read(request))) as events:
            async for event in events:
                if isinstance(event, Attempt):
                    current_record().model_endpoint = event.endpoint
                elif isinstance(event, Final):
                    _note(event.result)
                yield event_to_pb(event)

    async def ListEndpoints(
        self,
        request: pb.ListEndpointsRequest,
        context: Context,
    ) -> pb.ListEndpointsResponse:
        """Say how every endpoint is."""
        return pb.ListEndpointsResponse(endpoints=[status_to_pb(status) for status in self._generator.list_endpoints()])

    def _read(self, request: pb.GenerateRequest) -> GenerationRequest:
        by_service = bool(self._caller_of().acting_service)
        if request.passages and not by_service and not self._callers_may_bring_passages:
            raise PermissionDenied(
                "passages come from the query service: ask it, or have generation.callers_may_bring_passages set"
            )
        wanted = parse_request(request, self._most_characters)
        # A caller could put whatever it likes on record.
        if by_service:
            current_record().query_hmac = request.query_hmac
        return wanted


def _note(result: GenerationResult) -> None:
    """Leave in the call's record who wrote the answer, and a hash of it; charge what it cost."""
    current.charge(result.usage.input_tokens + result.usage.output_tokens)
    record = current_record()
    record.model_endpoint = result.endpoint
    record.answer_sha256 = sha256(well_formed(result.answer).encode()).digest()
