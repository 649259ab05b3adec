"""QueryService on the wire."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from hashlib import sha256

from groundwire.query.v1 import query_service_pb2 as pb
from groundwire.query.v1 import query_service_pb2_grpc as rpc
from interceptors import current
from interceptors._shapes import Context
from services.corpus.principal import Caller
from services.query import convert
from services.query.query import Answer, Answerer, Retrieved, Step
from services.runtime.auditing.record import current_record
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
        _note(answer)
        return convert.write_response(answer)

    async def StreamQuery(self, request: pb.QueryRequest, context: Context) -> AsyncIterator[pb.QueryEvent]:
        """See the contract."""
        async with aclosing(self._answerer.stream(self._caller_of(), convert.read_request(request))) as steps:
            async for step in steps:
                _note(step)
                yield convert.write_event(step)


def _note(step: Step) -> None:
    """Leave in the call's record, before it is shown, who is shown which documents, and a hash of what they are told.

    What the answer cost is charged.
    """
    record = current_record()
    if isinstance(step, Answer):
        record.model_endpoint = step.endpoint
        record.answer_sha256 = sha256(step.text.encode()).digest()
        current.charge(step.input_tokens + step.output_tokens)
    if isinstance(step, Answer | Retrieved):
        passages = [source.passage for source in step.sources]
        record.document_ids = [*record.document_ids, *(passage.document_id for passage in passages)]
        record.chunk_ids = [*record.chunk_ids, *(passage.chunk_id for passage in passages)]
