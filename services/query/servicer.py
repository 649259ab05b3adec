"""QueryService on the wire."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

from groundwire.query.v1 import query_service_pb2 as pb
from groundwire.query.v1 import query_service_pb2_grpc as rpc
from interceptors._shapes import Context
from services.corpus.principal import Caller
from services.query import convert
from services.query.notes import note
from services.query.query import Answerer
from services.runtime.unbuilt import unbuilt


class QueryServicer(rpc.QueryServiceServicer):
    """Translates and delegates."""

    SubmitFeedback = unbuilt
    GetSession = unbuilt
    DeleteSession = unbuilt

    def __init__(self, answerer: Answerer, caller_of: Callable[[], Caller]) -> None:
        self._answerer = answerer
        self._caller_of = caller_of

    async def Query(self, request: pb.QueryRequest, context: Context) -> pb.QueryResponse:
        """See the contract."""
        answer = await self._answerer.answer(self._caller_of(), convert.read_request(request))
        note(answer)
        return convert.write_response(answer)

    async def StreamQuery(self, request: pb.QueryRequest, context: Context) -> AsyncIterator[pb.QueryEvent]:
        """See the contract."""
        async with aclosing(self._answerer.stream(self._caller_of(), convert.read_request(request))) as steps:
            async for step in steps:
                note(step)
                yield convert.write_event(step)
