"""What the query domain may rely on, of its adapters over gRPC (against scripted services) and in memory alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from groundwire.common.v1 import core_pb2
from groundwire.generation.v1 import generation_service_pb2 as generation_pb
from groundwire.generation.v1 import generation_service_pb2_grpc as generation_rpc
from groundwire.retrieval.v1 import retrieval_service_pb2 as retrieval_pb
from groundwire.retrieval.v1 import retrieval_service_pb2_grpc as retrieval_rpc
from services.corpus.coverage import Coverage, Notice, StoreCoverage, StoreState
from services.corpus.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    FieldViolation,
    GroundwireError,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
)
from services.corpus.filter import AllOf, Equals, Range
from services.query.adapters.generation_service import GenerationOverGrpc
from services.query.adapters.memory import ScriptedGeneration, ScriptedRetrieval
from services.query.adapters.retrieval_service import RetrievalOverGrpc
from services.query.ports import (
    Attempt,
    Citation,
    Delta,
    Found,
    FoundPassage,
    Generation,
    GenerationStep,
    Reset,
    Retrieval,
    Search,
    Written,
)
from services.runtime import wire
from services.runtime.status import from_rpc_error, to_status
from services.runtime.unbuilt import unbuilt
from tests.support.answers import COVERAGE, FOUND, STEPS, fold, passage
from tests.support.serving import until

SEARCH = Search("parking", AllOf((Equals("lang", "en"), Range("year", 2020.0, None))), ("legal", "default"), 7)
# An error as a service raises it, and the domain's for it on this side.
ERRORS: list[GroundwireError] = [
    InvalidRequest([FieldViolation("query", "must not be blank"), FieldViolation("top_k", "must be 1 to 100")]),
    NotFound("there is no collection x", reason="COLLECTION_NOT_FOUND", metadata={"collection": "x"}),
    FailedPrecondition("run the remedy", reason="EMBEDDING_MISMATCH"),
    PermissionDenied("not you"),
    Unavailable("no store answered", retry_after=3.0, reason="NO_STORE_ANSWERED"),
    ResourceExhausted("too many calls", retry_after=2.0),
]


class Service(retrieval_rpc.RetrievalServiceServicer, generation_rpc.GenerationServiceServicer):
    """Both scripted services: they answer as told, and know what they were asked and who left."""

    ListStores = Generate = ListEndpoints = unbuilt

    def __init__(self) -> None:
        self.found = FOUND
        self.steps: Sequence[GenerationStep | generation_pb.GenerateEvent] = STEPS
        self.withdrawn: set[str] = set()
        self.breaks = 0
        """How many streams break off in the middle, as if the process had died."""
        self.error: Exception | None = None
        self.hang = False
        self.started = asyncio.Event()
        self.ended = asyncio.Event()
        self.cancelled = False
        self.requests: list[Any] = []

    async def play(self, request: Any, context: Any) -> None:
        """What both do after they were asked."""
        self.requests.append(request)
        if isinstance(self.error, GroundwireError):
            call: Any = type("Call", (), {"method": "/test", "request_id": "r"})()
            await context.abort_with_status(to_status(self.error, call))
        if self.error is not None:
            raise self.error
        if self.hang:
            self.started.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled = True
                raise
            finally:
                self.ended.set()

    async def Retrieve(self, request: retrieval_pb.RetrieveRequest, context: Any) -> retrieval_pb.RetrieveResponse:  # noqa: N802 - the contract's name
        await self.play(request, context)
        return retrieval_pb.RetrieveResponse(
            chunks=map(_chunk, self.found.passages),
            coverage=wire.write_coverage(self.found.coverage),
            warnings=wire.write_notices(self.found.notices),
        )

    async def CheckSources(  # noqa: N802 - the contract's name
        self, request: retrieval_pb.CheckSourcesRequest, context: Any
    ) -> retrieval_pb.CheckSourcesResponse:
        await self.play(request, context)
        left = [source for source in request.sources if source.document_id not in self.withdrawn]
        # Whatever a service says: what nobody asked about is not believed.
        unasked = retrieval_pb.SourceReference(collection="default", document_id="unasked", version=1)
        return retrieval_pb.CheckSourcesResponse(readable=[*left, unasked])

    async def StreamGenerate(  # noqa: N802 - the contract's name
        self, request: generation_pb.GenerateRequest, context: Any
    ) -> AsyncIterator[generation_pb.GenerateEvent]:
        if self.breaks:
            self.breaks -= 1
            for step in self.steps[:2]:
                yield step if isinstance(step, generation_pb.GenerateEvent) else _event(step)
            await context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
        for step in self.steps:
            yield step if isinstance(step, generation_pb.GenerateEvent) else _event(step)
        await self.play(request, context)


def _chunk(found: FoundPassage) -> retrieval_pb.RetrievedChunk:
    return retrieval_pb.RetrievedChunk(
        chunk=core_pb2.Chunk(
            chunk_id=found.chunk_id,
            collection=found.collection,
            document_id=found.document_id,
            version=found.version,
            title=found.title,
            uri=found.uri,
            text=found.text,
            start_offset=found.start,
            end_offset=found.start + len(found.text),
            headings=found.headings,
            page=found.page,
        ),
        score=found.score,
        stores=found.stores,
    )


def _event(step: GenerationStep) -> generation_pb.GenerateEvent:
    match step:
        case Attempt(endpoint, number):
            return generation_pb.GenerateEvent(attempt=generation_pb.Attempt(endpoint=endpoint, number=number))
        case Delta(text):
            return generation_pb.GenerateEvent(delta=generation_pb.Delta(text=text))
        case Reset(reason):
            return generation_pb.GenerateEvent(reset=generation_pb.Reset(reason=reason))
        case Written():
            final = generation_pb.GenerateResponse(
                answer=step.answer,
                citations=[
                    generation_pb.Citation(
                        marker=c.marker, passage_id=f"p{c.place}", start_offset=c.start, end_offset=c.end
                    )
                    for c in step.citations
                ],
                confidence=step.confidence,
                abstained=step.abstained,
                low_confidence=step.low_confidence,
                endpoint=step.endpoint,
                usage=core_pb2.Usage(input_tokens=step.input_tokens, output_tokens=step.output_tokens),
                warnings=wire.write_notices(step.notices),
            )
            return generation_pb.GenerateEvent(final=final)


@asynccontextmanager
async def serving(service: Service, directory: Path) -> AsyncIterator[tuple[Retrieval, Generation]]:
    """The two adapters over one channel each to a real server of ``service``."""
    server = grpc.aio.server()
    retrieval_rpc.add_RetrievalServiceServicer_to_server(service, server)
    generation_rpc.add_GenerationServiceServicer_to_server(service, server)
    address = f"unix:{directory}/s"
    server.add_insecure_port(address)
    await server.start()
    retrieval = RetrievalOverGrpc(grpc.aio.insecure_channel(address), partial(from_rpc_error, dependency="retrieval"))
    generation = GenerationOverGrpc(
        grpc.aio.insecure_channel(address), partial(from_rpc_error, dependency="generation")
    )
    try:
        yield retrieval, generation
    finally:
        await retrieval.close()
        await generation.close()
        await server.stop(None)


@asynccontextmanager
async def _in_memory(service: Service, _directory: Path) -> AsyncIterator[tuple[Retrieval, Generation]]:
    steps: list[Any] = [*service.steps, service.error] if service.error is not None else [*service.steps]
    retrieval = ScriptedRetrieval(service.error or service.found)
    retrieval.withdrawn = service.withdrawn
    yield retrieval, ScriptedGeneration(steps)


Adapters = Callable[[Service, Path], AbstractAsyncContextManager[tuple[Retrieval, Generation]]]


@pytest.fixture(params=[serving, _in_memory], ids=["grpc", "memory"])
def adapters(request: pytest.FixtureRequest) -> Adapters:
    made: Adapters = request.param
    return made


async def write(generation: Generation, passages: Sequence[FoundPassage] = FOUND.passages) -> list[GenerationStep]:
    return [step async for step in generation.write("parking", passages, max_tokens=100, min_confidence=0.5)]


# --- what all adapters do --------------------------------------------------------------------------------------------


async def test_what_is_found_arrives_whole(adapters: Adapters, tmp_path: Path) -> None:
    service = Service()
    parts = tuple(StoreCoverage(state.value, state, 3, 0.25, "why") for state in StoreState)
    service.found = replace(FOUND, coverage=Coverage(parts), notices=(Notice("RERANK_SKIPPED", "no time"),))
    async with adapters(service, tmp_path) as (retrieval, _):
        assert await retrieval.retrieve(SEARCH) == service.found
        service.found = Found((), COVERAGE)
    async with adapters(service, tmp_path) as (retrieval, _):
        assert await retrieval.retrieve(SEARCH) == Found((), COVERAGE)


async def test_what_is_still_readable_is_part_of_what_was_asked(adapters: Adapters, tmp_path: Path) -> None:
    service = Service()
    service.withdrawn = {"canteen"}
    garage, canteen = (found.reference for found in FOUND.passages)
    elsewhere, later = garage._replace(collection="legal"), garage._replace(version=2**40)
    async with adapters(service, tmp_path) as (retrieval, _):
        for asked, left in (
            ([garage, canteen, garage], {garage}),
            ([elsewhere, later], {elsewhere, later}),
            ([canteen], set()),
            ([], set()),
        ):
            assert await retrieval.still_readable(asked) == left


async def test_what_is_written_arrives_step_by_step(adapters: Adapters, tmp_path: Path) -> None:
    service = Service()
    async with adapters(service, tmp_path) as (_, generation):
        assert await write(generation) == list(STEPS)
        # Again: an adapter keeps nothing of a call.
        assert await write(generation) == list(STEPS)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
async def test_errors_arrive_as_what_they_are(adapters: Adapters, tmp_path: Path, error: GroundwireError) -> None:
    service = Service()
    service.error, service.steps = error, STEPS[:2]
    async with adapters(service, tmp_path) as (retrieval, generation):
        sources = [found.reference for found in FOUND.passages]
        for call in (retrieval.retrieve(SEARCH), retrieval.still_readable(sources), write(generation)):
            with pytest.raises(type(error)) as caught:
                await call
            assert (caught.value.message, caught.value.reason) == (error.message, error.reason)
            assert caught.value.metadata == error.metadata
            if isinstance(error, InvalidRequest):
                assert caught.value.violations == error.violations  # type: ignore[attr-defined] # of the same type
            if isinstance(error, Unavailable | ResourceExhausted):
                assert caught.value.retry_after == error.retry_after  # type: ignore[attr-defined] # of the same type


async def test_steps_before_an_error_are_seen(adapters: Adapters, tmp_path: Path) -> None:
    service = Service()
    service.error, service.steps = Unavailable("away"), STEPS[:2]
    async with adapters(service, tmp_path) as (_, generation):
        steps = generation.write("parking", FOUND.passages, max_tokens=100, min_confidence=0.0)
        assert [await anext(steps), await anext(steps)] == list(STEPS[:2])
        with pytest.raises(Unavailable):
            await anext(steps)


# --- what only a service can do --------------------------------------------------------------------------------------


async def test_what_is_asked_for_arrives_whole(tmp_path: Path) -> None:
    service = Service()
    async with serving(service, tmp_path) as (retrieval, generation):
        await retrieval.retrieve(SEARCH)
        await write(generation)
    search, prompt = service.requests
    assert (search.query, list(search.collections), search.top_k) == ("parking", ["legal", "default"], 7)
    assert SEARCH.filter_ is not None
    assert search.filter == wire.write_filter(SEARCH.filter_)
    assert (prompt.query, prompt.max_tokens, prompt.min_confidence) == ("parking", 100, 0.5)
    assert [(p.passage_id, p.title, p.score) for p in prompt.passages] == [
        ("p0", "Garage › Services", 0.9),
        ("p1", "Canteen › Services", 0.4),
    ]
    assert [p.text for p in prompt.passages] == [found.text for found in FOUND.passages]


async def test_no_filter_is_no_filter(tmp_path: Path) -> None:
    service = Service()
    async with serving(service, tmp_path) as (retrieval, _):
        await retrieval.retrieve(replace(SEARCH, filter_=None))
    assert not service.requests[0].HasField("filter")


async def test_chunks_of_one_name_in_two_collections_stay_apart(tmp_path: Path) -> None:
    service = Service()
    same = replace(passage("canteen"), chunk_id=passage("garage").chunk_id, collection="legal")
    async with serving(service, tmp_path) as (_, generation):
        await write(generation, (passage("garage"), same))
    assert len({p.passage_id for p in service.requests[0].passages}) == 2


async def test_long_headings_fit_into_the_contract(tmp_path: Path) -> None:
    service = Service()
    deep = replace(passage("garage"), title="t" * 512, headings=tuple(f"{i}" + "h" * 199 for i in range(6)))
    async with serving(service, tmp_path) as (_, generation):
        await write(generation, (deep,))
    title = service.requests[0].passages[0].title
    assert len(title) == 1024
    assert title.startswith("t" * 512 + " › 0h")


async def test_citations_of_nothing_and_steps_of_a_later_release_are_left_out(tmp_path: Path) -> None:
    service = Service()
    final = _event(STEPS[-1])
    for odd in ("", "p", "garage#1.0", "p-1", "p1x", "q1"):
        final.final.citations.add(marker="[1]", passage_id=odd, end_offset=3)
    service.steps = [generation_pb.GenerateEvent(), *STEPS[:-1], final]
    async with serving(service, tmp_path) as (_, generation):
        assert await write(generation) == list(STEPS)


async def test_a_stream_that_breaks_off_begins_again_and_never_mixes_two_texts(tmp_path: Path) -> None:
    service = Service()
    service.breaks = 1
    async with serving(service, tmp_path) as (_, generation):
        steps = await write(generation)
    began, lost = STEPS[:2]
    assert steps[:2] == [began, lost]
    assert isinstance(steps[2], Reset)
    assert [step.number for step in steps if isinstance(step, Attempt)] == [1, 2, 3]
    assert fold(steps) == fold(STEPS)


async def test_a_stream_that_breaks_off_twice_fails(tmp_path: Path) -> None:
    service = Service()
    service.breaks = 2
    async with serving(service, tmp_path) as (_, generation):
        with pytest.raises(Unavailable):
            await write(generation)


async def test_a_defect_of_a_service_says_nothing_of_itself(tmp_path: Path) -> None:
    service = Service()
    service.error, service.steps = RuntimeError("/etc/passwd"), ()
    async with serving(service, tmp_path) as (retrieval, generation):
        for name, call in (("retrieval", retrieval.retrieve(SEARCH)), ("generation", write(generation))):
            with pytest.raises(Unavailable) as caught:
                await call
            assert caught.value.message == f"the {name} service did not answer"
            assert caught.value.metadata == {"dependency": name}


async def test_nobody_there_is_unavailable(tmp_path: Path) -> None:
    channel = grpc.aio.insecure_channel(f"unix:{tmp_path}/nobody")
    retrieval = RetrievalOverGrpc(channel, partial(from_rpc_error, dependency="retrieval"))
    generation = GenerationOverGrpc(channel, partial(from_rpc_error, dependency="generation"))
    for call in (retrieval.retrieve(SEARCH), write(generation)):
        with pytest.raises(Unavailable):
            await call
    await retrieval.close()


async def test_a_server_whose_time_is_over_says_so(tmp_path: Path) -> None:
    service = Service()
    service.error, service.steps = DeadlineExceeded("the call's time ran out"), ()
    async with serving(service, tmp_path) as (retrieval, generation):
        for call in (retrieval.retrieve(SEARCH), write(generation)):
            with pytest.raises(DeadlineExceeded):
                await call


@pytest.mark.parametrize("port", ["retrieval", "generation"])
async def test_a_cancellation_reaches_the_server(tmp_path: Path, port: str) -> None:
    service = Service()
    service.hang = True
    async with serving(service, tmp_path) as (retrieval, generation):
        task = asyncio.ensure_future(retrieval.retrieve(SEARCH) if port == "retrieval" else write(generation))
        await service.started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await service.ended.wait()
        assert service.cancelled


async def test_closing_the_steps_early_reaches_the_server(tmp_path: Path) -> None:
    service = Service()
    service.hang = True
    async with serving(service, tmp_path) as (_, generation):
        writing: AsyncGenerator[GenerationStep, None] = generation.write(
            "parking", FOUND.passages, max_tokens=1, min_confidence=0.0
        )
        async with aclosing(writing) as steps:
            assert await anext(steps) == STEPS[0]
            await until(service.started.is_set)
        await service.ended.wait()
        assert service.cancelled


async def test_a_call_that_went_well_is_not_cancelled(tmp_path: Path) -> None:
    codes: list[grpc.StatusCode] = []
    service = Service()

    class Watch(grpc.aio.UnaryStreamClientInterceptor):
        async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
            call = await continuation(client_call_details, request)

            async def note() -> None:
                codes.append(await call.code())

            call.add_done_callback(lambda _: asyncio.ensure_future(note()))
            return call

    async with serving(service, tmp_path):
        channel = grpc.aio.insecure_channel(f"unix:{tmp_path}/s", interceptors=[Watch()])
        generation = GenerationOverGrpc(channel, partial(from_rpc_error, dependency="generation"))
        assert await write(generation) == list(STEPS)
        await until(lambda: codes)
        await generation.close()
    assert codes == [grpc.StatusCode.OK]
    assert Citation("[1]", 0, 0, 33) in STEPS[-1].citations  # type: ignore[union-attr] # the last one is Written
