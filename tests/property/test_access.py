"""Whatever is stored, asked, broken and withdrawn: no caller ever sees a sign of what they may not read.

A case is one call of one caller in one random state. The services' real domain, conversions and servicers run end to
end; only sockets are left out. Everything that leaves is searched for secret words at the moment when it leaves.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from groundwire.common.v1 import core_pb2, filter_pb2
from groundwire.ingestion.v1 import ingestion_service_pb2 as ingestion_pb
from groundwire.query.v1 import query_service_pb2 as query_pb
from groundwire.retrieval.v1 import retrieval_service_pb2 as retrieval_pb
from interceptors.tracing import Tracing
from services.catalog.memory import MemoryCatalog
from services.catalog.ports import Catalog
from services.catalog.sql import SqlCatalog
from services.corpus.errors import GroundwireError, NotFound, PermissionDenied, Unavailable
from services.corpus.filter import Equals
from services.corpus.terms import analyze
from services.generation.generation import Generator
from services.generation.servicer import GenerationServicer
from services.ingestion.adapters.parsing.in_process import InProcessParser
from services.ingestion.eraser import Eraser
from services.ingestion.erasure import Erasures
from services.ingestion.ingestion import Ingestor
from services.ingestion.library import Library
from services.ingestion.servicer import IngestionServicer
from services.query.adapters.generation_service import GenerationOverGrpc
from services.query.adapters.retrieval_service import RetrievalOverGrpc
from services.query.query import Answerer
from services.query.servicer import QueryServicer
from services.retrieval.ports import NamedStore
from services.retrieval.retrieval import RetrievalPolicy, Retriever
from services.retrieval.servicer import RetrievalServicer
from services.runtime import wire
from services.runtime.sealed_store import SealedVectorStore
from services.runtime.status import to_status
from services.runtime.telemetry import sdk_tracer
from services.security.key_stores import MemoryKeyStore
from services.security.keyed_terms import KeyedTerms
from services.security.keyring import Keyring
from services.security.master_keys import SecretMasterKey
from services.security.sealed import Sealer
from services.vectorstores.chunk_table import ChunkTable
from services.vectorstores.indexed import IndexedStore
from services.vectorstores.memory import MemoryVectorStore
from services.vectorstores.ports import Partition, StoredChunk, VectorStore
from services.vectorstores.tantivy_index import TantivyLexicalIndex
from tests.support.access_world import (
    COLLECTIONS,
    EMBEDDER,
    SECRET,
    WORDS,
    Chaos,
    ChaoticCatalog,
    ChaoticEncoder,
    ChaoticStore,
    Entry,
    RecordingEndpoint,
    World,
    contents,
)
from tests.support.loopback import Loopback
from tests.support.recording import digest
from tests.support.vector_index import DictVectorIndex

CASES = 20_000
CASES_ON_DISK = 300
PER_WORLD = 200
TOP_K = 10
NEARLY = 1e-5
MODES = (
    retrieval_pb.RETRIEVAL_MODE_HYBRID,
    retrieval_pb.RETRIEVAL_MODE_DENSE,
    retrieval_pb.RETRIEVAL_MODE_LEXICAL,
)
RERANKS = (retrieval_pb.RERANK_MODE_ON, retrieval_pb.RERANK_MODE_OFF, retrieval_pb.RERANK_MODE_OFF)


class Ticking:
    """A clock on which a second passes between any two looks, so that every check is due."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


class Call:
    """What the tracing interceptor wants to know of a call."""

    known = True
    request_id = "r"

    def __init__(self, method: str) -> None:
        self.method = method
        self.name = method.lstrip("/")
        self.trace_id = 0
        self.context = self

    def metadata(self, _name: str) -> Sequence[str]:
        return ()

    def set_trailing_metadata(self, _pairs: object) -> None:
        pass

    def outcome(self, error: BaseException | None) -> Any:
        return type("Code", (), {"name": "OK" if error is None else "UNAVAILABLE"})


class Services:
    """All services of one world, and one caller after another."""

    def __init__(self, rng: random.Random, world: World, chaos: Chaos, catalog: Catalog, stores: Sequence[Any]) -> None:
        self.rng, self.world, self.chaos, self.stores = rng, world, chaos, stores
        self.caller = world.caller()
        self.logs: list[str] = []
        self.spans = InMemorySpanExporter()
        self.tally: Counter[str] = Counter()
        self.refusals: set[tuple[object, ...]] = set()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.spans))
        self.tracing = Tracing(sdk_tracer(provider, "tests"))
        retriever = Retriever(
            stores=[NamedStore(f"store{n}", store) for n, store in enumerate(stores)],
            catalog=catalog,
            embedder=EMBEDDER,
            cross_encoder=ChaoticEncoder(chaos),
            # A machine that is busy with other tests must not make a store seem to be away.
            policy=RetrievalPolicy(first_depth=4, deepening=4, store_timeout=600.0),
        )
        endpoints = [RecordingEndpoint(name, chaos, self.prompted) for name in ("first", "second")]
        generator = Generator(endpoints, clock=lambda: 0.0)
        self.retrieval = RetrievalServicer(retriever, caller_of=lambda: self.caller, digest=digest)
        channel = Loopback(
            self.retrieval,
            GenerationServicer(generator, lambda: self.caller, callers_may_bring_passages=True),
            sent=self.sent,
        )
        answerer = Answerer(
            RetrievalOverGrpc(channel, lambda error: Unavailable(str(error))),  # type: ignore[arg-type] # stands in for one
            GenerationOverGrpc(channel, lambda error: Unavailable(str(error))),  # type: ignore[arg-type] # stands in for one
            clock=Ticking(),
        )
        self.query = QueryServicer(answerer, lambda: self.caller)
        library = Library(catalog, stores[0], EMBEDDER.model)
        erasures = Erasures(catalog, Eraser(catalog, {f"store{n}": store for n, store in enumerate(stores)}))
        ingestor = Ingestor(catalog=catalog, parser=InProcessParser(), embedder=EMBEDDER, store=stores[0])
        self.ingestion = IngestionServicer(ingestor, library, erasures, lambda: self.caller)

    # --- what is looked at ---------------------------------------------------------------------------------------

    def look(self, where: str, data: bytes) -> None:
        """Nothing in ``data`` is of a document that the caller may not read at this moment."""
        leaked = self.world.leaked(self.caller, data)
        assert not leaked, f"{where} shows {leaked} to {self.caller}: {data!r}"

    def prompted(self, prompt: bytes) -> None:
        self.tally["prompts"] += 1
        self.look("a prompt", prompt)

    def sent(self, path: str, data: bytes) -> None:
        # What generation says comes from its prompt, and is looked at when it leaves for the caller.
        if "RetrievalService" in path:
            self.look(path, data)

    # --- calls ---------------------------------------------------------------------------------------------------

    async def case(self) -> None:
        """One call, in a state that differs a little from the last one's."""
        rng, world, chaos = self.rng, self.world, self.chaos
        if rng.random() < 0.3:
            await world.mutate()
        if rng.random() < 0.8:
            # Otherwise the same caller again, or the same question by somebody else.
            self.caller = world.caller()
        world.watched = self.caller
        calm = rng.random() < 0.4
        chaos.rate, chaos.faults = (0.0, 0.0) if calm else (rng.choice([0.0, 0.1, 0.4]), rng.choice([0.0, 0.0, 0.08]))
        chaos.changes = chaos.failures = 0
        for store in self.stores:
            store.lies = rng.random() < 0.2
        call = rng.choices(
            [
                *(self.retrieve, self.stream, self.answer, self.list_documents, self.get_document, self.share),
                *(self.delete, self.count, self.overwrite),
            ],
            [35, 18, 4, 16, 15, 5, 1, 6, 3],
        )[0]
        try:
            traced: Any = Call(f"/test/{call.__name__}")
            await self.tracing.around(traced, lambda _: call())
        except Unavailable as error:
            if not chaos.failures:
                raise
            self.look("an error", repr(to_status(error, Call("/test"))).encode())  # type: ignore[arg-type] # as above
        finally:
            chaos.rate = chaos.faults = 0.0
        self.tally[call.__name__] += 1
        self.tally["changes in between"] += chaos.changes
        self.tally["failures in between"] += chaos.failures

    def question(self) -> str:
        """A few words; often one that is in a single document, which the caller may know of or not."""
        rng = self.rng
        words = rng.choices(WORDS, k=rng.choice([1, 2, 4]))
        if self.world.current and rng.random() < 0.5:
            words.append(rng.choice(list(self.world.current.values())).secret)
        return " ".join(words)

    def filter(self) -> tuple[str | None, filter_pb2.Filter | None]:
        if self.rng.random() < 0.7:
            return None, None
        lang = self.rng.choice(["en", "de"])
        return lang, wire.write_filter(Equals("lang", lang))

    async def retrieve(self) -> None:
        lang, filter_ = self.filter()
        collection = self.rng.choice(COLLECTIONS)
        request = retrieval_pb.RetrieveRequest(
            query=self.question(),
            filter=filter_,
            collections=[collection],
            top_k=TOP_K,
            mode=self.rng.choice(MODES),
            rerank=self.rng.choice(RERANKS),
        )
        response = await self.retrieval.Retrieve(request, None)  # type: ignore[arg-type] # nobody looks at it
        self.look("Retrieve", response.SerializeToString())
        honest = not any(store.lies for store in self.stores) and not self.world.lagging
        if (
            honest
            and not self.chaos.changes
            and not self.chaos.failures
            and request.rerank == retrieval_pb.RERANK_MODE_OFF
        ):
            self.tally["compared with the oracle"] += 1
            await self.compare(request, response, self.world.readable(self.caller, collection, lang))

    async def compare(
        self, request: retrieval_pb.RetrieveRequest, response: retrieval_pb.RetrieveResponse, allowed: list[Entry]
    ) -> None:
        """The best of what is allowed were found: equal scores at the end of the list may stand for one another."""
        chunks = {f"{e.document_id}#{e.version}.{place}": text for e in allowed for place, text in enumerate(e.texts)}
        found = [chunk.chunk.chunk_id for chunk in response.chunks]
        assert set(found) <= chunks.keys()
        if request.mode == retrieval_pb.RETRIEVAL_MODE_HYBRID:
            assert len(found) == min(TOP_K, len(chunks))
            return
        scores = await self.scores(request, chunks)
        best = sorted(scores.values(), reverse=True)[:TOP_K]
        assert len(found) == len(best)
        assert {key for key, score in scores.items() if best and score > best[-1] + NEARLY} <= set(found)
        assert all(scores[key] >= best[-1] - NEARLY for key in found)

    async def scores(self, request: retrieval_pb.RetrieveRequest, chunks: Mapping[str, str]) -> dict[str, float]:
        """What a store that holds nothing but ``chunks`` makes of the question.

        Scores themselves may differ: a store still counts older versions, and what a filter leaves out.
        """
        oracle, everything = MemoryVectorStore(), Partition("oracle", "oracle")
        vectors: Any = await EMBEDDER.embed_passages(list(chunks.values())) if chunks else []
        await oracle.upsert_chunks(
            everything,
            [
                StoredChunk(key, key, 1, 0, 0, b"", vector, tuple(analyze(text)))
                for (key, text), vector in zip(chunks.items(), vectors, strict=True)
            ],
        )
        if request.mode == retrieval_pb.RETRIEVAL_MODE_LEXICAL:
            hits = await oracle.search_lexical(everything, analyze(request.query), len(chunks), None)
        else:
            vector = await EMBEDDER.embed_query(request.query)
            hits = await oracle.search_dense(everything, vector, len(chunks), None)
        return {hit.chunk_id: hit.score for hit in hits}

    def ask(self) -> query_pb.QueryRequest:
        _, filter_ = self.filter()
        collections = self.rng.sample(COLLECTIONS, self.rng.choice([1, 2]))
        return query_pb.QueryRequest(
            query=self.question(),
            context_filters=filter_,
            collections=collections,
            top_k=5,
            min_confidence=self.rng.choice([0.0, 0.0, 0.9]),
        )

    async def stream(self) -> None:
        async with aclosing(self.query.StreamQuery(self.ask(), None)) as events:  # type: ignore[arg-type,type-var] # as above
            async for event in events:
                self.look("StreamQuery", event.SerializeToString())
                kind = str(event.WhichOneof("event"))
                self.tally[f"event {kind}"] += 1
                if kind == "final":
                    self.tally[f"abstention {event.final.abstention_reason}"] += 1

    async def answer(self) -> None:
        response = await self.query.Query(self.ask(), None)  # type: ignore[arg-type] # as above
        self.look("Query", response.SerializeToString())

    async def list_documents(self) -> None:
        lang, filter_ = self.filter()
        collection = self.rng.choice(COLLECTIONS)
        request = ingestion_pb.ListDocumentsRequest(collection=collection, filter=filter_, page_size=100)
        response = await self.ingestion.ListDocuments(request, None)  # type: ignore[arg-type] # as above
        self.look("ListDocuments", response.SerializeToString())
        allowed = sorted(entry.document_id for entry in self.world.readable(self.caller, collection, lang))
        assert [document.document_id for document in response.documents] == allowed

    async def get_document(self) -> None:
        request = ingestion_pb.GetDocumentRequest(
            collection=self.rng.choice(COLLECTIONS), document_id=self.anybodys_id()
        )
        try:
            response = await self.ingestion.GetDocument(request, None)  # type: ignore[arg-type] # as above
        except NotFound as error:
            self.refusals.add((error.message, error.reason, tuple(error.metadata)))
            assert len(self.refusals) == 1
        else:
            self.look("GetDocument", response.SerializeToString())

    async def share(self) -> None:
        """Nobody changes what they may not, and the refusal tells readers alone that the document exists."""
        world, document_id = self.world, self.anybodys_id()
        key = (self.caller.tenant, self.rng.choice(COLLECTIONS), document_id)
        self.chaos.rate = self.chaos.faults = 0.0
        request = ingestion_pb.UpdateDocumentAccessRequest(
            collection=key[1], document_id=document_id, access=core_pb2.Access(readers=["tenant:*"])
        )
        known = world.current.get(key)
        reads = known is not None and known.admits(self.caller)
        owns = known is not None and self.manages(known.owner)
        expected: type[GroundwireError] | None = NotFound if not reads else None if owns else PermissionDenied
        raised: type[GroundwireError] | None = None
        try:
            await self.ingestion.UpdateDocumentAccess(request, None)  # type: ignore[arg-type] # as above
        except (NotFound, PermissionDenied) as error:
            raised = type(error)
        assert raised is expected
        if raised is None and known is not None:
            await self.world.restore(known)

    async def delete(self) -> None:
        """Nobody deletes what they may not; what was deleted leaves no chunk behind, and its receipt is not everybody's."""
        world, document_id = self.world, self.anybodys_id()
        key = (self.caller.tenant, self.rng.choice(COLLECTIONS), document_id)
        self.chaos.rate = self.chaos.faults = 0.0
        request = ingestion_pb.DeleteDocumentRequest(collection=key[1], document_id=document_id)
        known = world.current.get(key)
        reads = known is not None and known.admits(self.caller)
        owns = known is not None and self.manages(known.owner)
        raised: type[GroundwireError] | None = None
        receipt = ingestion_pb.ErasureReceipt()
        try:
            receipt = (await self.ingestion.DeleteDocument(request, None)).receipt  # type: ignore[arg-type] # as above
        except (NotFound, PermissionDenied) as error:
            raised = type(error)
        if raised is None:
            erasure = await world.catalog.find_erasure(key[0], receipt.receipt_id)
            assert erasure is not None
            assert self.manages(erasure.owner)
        if not reads:
            # Whoever deleted a document of that name gets its receipt, and whatever has that name now stays.
            assert raised in {None, NotFound}
            return
        assert raised is (None if owns else PermissionDenied)
        if owns:
            steps = [(step.remaining, step.HasField("complete_time")) for step in receipt.steps]
            assert steps == [(0, True)] * (1 + len(world.stores))
            assert [await store.count_chunks(Partition(*key[:2]), document_id) for store in world.stores] == [
                0 for _ in world.stores
            ]
            del world.current[key]
        self.tally["deleted" if owns else "kept from a reader"] += 1

    async def overwrite(self) -> None:
        """Nobody takes in over what is not theirs to replace, and a right guess gets the answer of a wrong one (A5)."""
        world, rng = self.world, self.rng
        self.chaos.rate = self.chaos.faults = 0.0
        others = [
            entry
            for entry in world.current.values()
            if entry.tenant == self.caller.tenant
            and entry.owner != self.caller.subject
            and not (entry.admits(self.caller) and self.manages(entry.owner))
        ]
        if not others:
            return
        known = rng.choice(others)
        key = (known.tenant, known.collection, known.document_id)
        guess = core_pb2.Access(readers=sorted(known.readers))
        sent = ingestion_pb.DocumentInput(
            document_id=key[2], content=contents(known.texts), title=f"Title {known.secret}", access=guess
        )
        sent.uri = f"https://example.org/{known.secret}"
        sent.metadata["lang"].string_value = known.lang
        if rng.random() < 0.5:
            sent.content = b"Something else."
        before = await world.catalog.get_document(*key)
        request = ingestion_pb.IngestDocumentsRequest(collection=key[1], documents=[sent])
        (result,) = (await self.ingestion.IngestDocuments(request, None)).results  # type: ignore[arg-type] # as above
        assert (result.failure_reason, result.version, result.chunks, result.unchanged) == (
            ingestion_pb.FAILURE_REASON_PERMISSION_DENIED,
            0,
            0,
            False,
        )
        assert "belongs to somebody else" in result.failure_message
        assert await world.catalog.get_document(*key) == before
        self.tally["administrators refused" if self.manages(known.owner) else "others refused"] += 1

    def manages(self, owner: str) -> bool:
        return owner.removeprefix("user:") == self.caller.subject or "admin:*" in self.caller.permissions

    async def count(self) -> None:
        self.chaos.rate = 0.0
        response = await self.ingestion.ListCollections(ingestion_pb.ListCollectionsRequest(), None)  # type: ignore[arg-type] # as above
        for collection in response.collections:
            assert collection.document_count == len(self.world.readable(self.caller, collection.name))

    def anybodys_id(self) -> str:
        return self.rng.choice([*(entry.document_id for entry in self.world.current.values()), "nowhere"])


Opened = Callable[[AsyncExitStack], Awaitable[tuple[Catalog, list[VectorStore]]]]


async def in_memory(_stack: AsyncExitStack) -> tuple[Catalog, list[VectorStore]]:
    return MemoryCatalog(), [MemoryVectorStore(), MemoryVectorStore()]


def on_disk(directory: Path) -> Opened:
    """A sealed catalog in SQLite, and a sealed store over tantivy (with vectors in memory)."""

    async def opened(stack: AsyncExitStack) -> tuple[Catalog, list[VectorStore]]:
        keyring = Keyring(SecretMasterKey.generate(), MemoryKeyStore())
        sealer = Sealer(keyring)
        catalog = await SqlCatalog.open_sqlite(directory / "catalog.sqlite3", cipher=sealer)
        stack.push_async_callback(catalog.close)
        table = ChunkTable(directory / "chunks.sqlite3", vector_engine="dict")
        indexed = IndexedStore(table, DictVectorIndex(), TantivyLexicalIndex(directory / "terms"))
        store = SealedVectorStore(indexed, sealer, KeyedTerms(keyring))
        stack.push_async_callback(store.close)
        return catalog, [store]

    return opened


@asynccontextmanager
async def running(rng: random.Random, opened: Opened) -> AsyncIterator[Services]:
    async with AsyncExitStack() as stack:
        catalog, stores = await opened(stack)
        world = World(rng, catalog, stores)
        world.lagging = rng.random() < 0.3
        await world.fill(documents=rng.randrange(2, 10))
        chaos = Chaos(rng)
        chaos.world = world
        made: Any = ChaoticCatalog(catalog, chaos)
        yield Services(rng, world, chaos, made, [ChaoticStore(store, chaos) for store in stores])


class Inline(ThreadPoolExecutor):
    """Runs work where it is submitted: handing words to a thread and back takes longer than stemming them."""

    def submit(self, work: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(work(*arguments, **options))
        except Exception as error:  # noqa: BLE001 - the future's reader gets it
            done.set_exception(error)
        return done


async def play(rng: random.Random, cases: int, opened: Opened, caplog: pytest.LogCaptureFixture) -> Counter[str]:
    """One world; returns what happened in it."""
    caplog.clear()
    asyncio.get_running_loop().set_default_executor(Inline(1))
    with structlog.testing.capture_logs() as events:
        async with running(rng, opened) as services:
            for _ in range(cases):
                await services.case()
    # No word of any document or question belongs into a log or a trace, whoever may read it.
    spans = services.spans.get_finished_spans()
    noted = [
        repr(events),
        caplog.text,
        *(f"{span.name} {span.attributes} {span.events} {span.status}" for span in spans),
    ]
    assert not SECRET.search("\n".join(noted).encode())
    assert len(spans) == cases
    return services.tally


def seed_of(test: str) -> int:
    """ACCESS_SEED repeats a run."""
    seed = int(os.environ.get("ACCESS_SEED", "20260101"))
    print(f"{test}: ACCESS_SEED={seed}")  # noqa: T201 - shown when the test fails
    return seed


def test_no_caller_sees_a_sign_of_what_they_may_not_read(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    seed = seed_of("in memory")
    total: Counter[str] = Counter()
    for number in range(CASES // PER_WORLD):
        total += asyncio.run(play(random.Random(f"{seed}/{number}"), PER_WORLD, in_memory, caplog))
    print(dict(total))  # noqa: T201 - shown when the test fails
    calls = ("retrieve", "stream", "answer", "list_documents", "get_document", "share", "delete", "count", "overwrite")
    assert sum(total[name] for name in calls) >= CASES
    # What the test is about did happen, and often.
    for what in ("prompts", "changes in between", "failures in between", "compared with the oracle", "event reset"):
        assert total[what] > CASES / 200, what
    for what in ("abstention 1", "deleted", "kept from a reader", "administrators refused", "others refused"):
        assert total[what] > 0, what


def test_no_caller_sees_a_sign_of_it_from_files_either(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    seed = seed_of("on disk")
    total: Counter[str] = Counter()
    for number in range(-(-CASES_ON_DISK // PER_WORLD)):
        directory = tmp_path / str(number)
        directory.mkdir()
        rng = random.Random(f"{seed}/disk/{number}")
        total += asyncio.run(play(rng, PER_WORLD, on_disk(directory), caplog))
    assert total["compared with the oracle"] > 10
