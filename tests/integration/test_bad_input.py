"""Bad requests against the real services: each is refused by name, none is a defect, and a good call still works."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from groundwire.common.v1 import core_pb2, filter_pb2
from groundwire.generation.v1 import generation_service_pb2 as generation_pb
from groundwire.ingestion.v1 import ingestion_service_pb2 as ingestion_pb
from groundwire.monitoring.v1 import monitoring_service_pb2 as monitoring_pb
from groundwire.query.v1 import query_service_pb2 as query_pb
from groundwire.retrieval.v1 import retrieval_service_pb2 as retrieval_pb
from groundwire.store.v1 import store_service_pb2 as store_pb
from services.runtime.server import MIB
from tests.support.mesh import Ended, Mesh, open_mesh

LONG = "x" * 100_000


@pytest.fixture
async def mesh(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Mesh]:
    # A machine that is busy with other tests must not make the store seem to be away.
    monkeypatch.setenv("GROUNDWIRE_RETRIEVAL__STORE_TIMEOUT", "60")
    async with open_mesh() as mesh:
        await mesh.ingestion.IngestDocuments(
            ingestion_pb.IngestDocumentsRequest(
                documents=[
                    ingestion_pb.DocumentInput(document_id="garage", content=b"The garage has 38 parking spaces.")
                ]
            )
        )
        yield mesh


async def call(mesh: Mesh, method: str, request: Message | bytes) -> Ended:
    """Call ``service/Method``."""
    service, _, name = method.partition("/")
    path = f"/groundwire.{service}.v1.{service.capitalize()}Service/{name}"
    data = request if isinstance(request, bytes) else request.SerializeToString()
    return await mesh.raw(service, path, data, timeout=30)


async def assert_alive(mesh: Mesh) -> None:
    """A good call of every service still works."""
    answer = await mesh.query.Query(query_pb.QueryRequest(query="How many parking spaces has the garage?"))
    assert "38" in answer.answer
    taken = await mesh.ingestion.IngestDocuments(
        ingestion_pb.IngestDocumentsRequest(documents=[ingestion_pb.DocumentInput(content=b"Something else.")])
    )
    assert taken.processed == 1
    assert (await mesh.store.GetCapabilities(store_pb.GetCapabilitiesRequest())).dense
    assert (await mesh.monitoring.GetTopology(monitoring_pb.GetTopologyRequest())).services


# --- requests that are wrong as a whole ------------------------------------------------------------------------------


def nested(depth: int) -> filter_pb2.Filter:
    filter_ = filter_pb2.Filter(equals=equals("key", "value"))
    for _ in range(depth - 1):
        outer = filter_pb2.Filter()
        getattr(outer, "not").CopyFrom(filter_)
        filter_ = outer
    return filter_


def equals(key: str, value: str) -> filter_pb2.Comparison:
    return filter_pb2.Comparison(key=key, value=filter_pb2.MetadataValue(string_value=value))


def wide(count: int) -> filter_pb2.Filter:
    filter_ = filter_pb2.Filter()
    getattr(filter_, "or").filters.extend(filter_pb2.Filter(equals=equals("key", str(i))) for i in range(count))
    return filter_


def with_enum(message: Message, **values: int) -> bytes:
    """A message whose enum fields have numbers that nobody knows; generated code refuses to set some of them."""
    for name, value in values.items():
        setattr(message, name, value)
    return message.SerializeToString()


FILTERS: list[tuple[filter_pb2.Filter, list[str]]] = [
    (filter_pb2.Filter(), [""]),
    (nested(9), [""]),
    (nested(90), [""]),
    (wide(128), [""]),
    (wide(5000), [""]),
    (filter_pb2.Filter(equals=filter_pb2.Comparison(key="")), [".equals.key", ".equals.value"]),
    (filter_pb2.Filter(range=filter_pb2.Range(key="k")), [".range"]),
    (
        filter_pb2.Filter(range=filter_pb2.Range(key="k", min=filter_pb2.MetadataValue(number_value=math.nan))),
        [".range.min.number_value"],
    ),
    (filter_pb2.Filter(equals=equals("k\0", "v\0")), [".equals.key", ".equals.value.string_value"]),
]


def _queries(kind: type[query_pb.QueryRequest | retrieval_pb.RetrieveRequest]) -> list[tuple[Message, list[str]]]:
    make: Any = kind
    return [
        (make(), ["query"]),
        (make(query=" \n\t "), ["query"]),
        (make(query="x" * 4097), ["query"]),
        (make(query=LONG), ["query"]),
        (make(query="a\0b"), ["query"]),
        (make(query="q", top_k=-1), ["top_k"]),
        (make(query="q", top_k=2**31 - 1), ["top_k"]),
        (make(query="q", top_k=-(2**31)), ["top_k"]),
        (make(query="q", collections=[f"c{i}" for i in range(17)]), ["collections"]),
        (
            make(query="q", collections=["", "ok", "../etc", "a b", "ä", LONG]),
            [f"collections[{i}]" for i in (0, 2, 3, 4, 5)],
        ),
    ]


WRONG: list[tuple[str, Message | bytes, list[str]]] = [
    *(("query/Query", request, fields) for request, fields in _queries(query_pb.QueryRequest)),
    *(("query/StreamQuery", request, fields) for request, fields in _queries(query_pb.QueryRequest)),
    *(("retrieval/Retrieve", request, fields) for request, fields in _queries(retrieval_pb.RetrieveRequest)),
    *(
        (
            "query/Query",
            query_pb.QueryRequest(query="q", context_filters=filter_),
            [f"context_filters{f}" for f in fields],
        )
        for filter_, fields in FILTERS
    ),
    *(
        ("retrieval/Retrieve", retrieval_pb.RetrieveRequest(query="q", filter=filter_), [f"filter{f}" for f in fields])
        for filter_, fields in FILTERS
    ),
    *(
        ("ingestion/ListDocuments", ingestion_pb.ListDocumentsRequest(filter=filter_), [f"filter{f}" for f in fields])
        for filter_, fields in FILTERS
    ),
    *(
        ("query/Query", query_pb.QueryRequest(query="q", min_confidence=value), ["min_confidence"])
        for value in (math.nan, math.inf, -math.inf, -0.1, 1.1)
    ),
    (
        "query/Query",
        query_pb.QueryRequest(
            query="", user_id="u\0", session_id="s" * 129, max_tokens=-5, top_k=51, min_confidence=2, request_id="a b"
        ),
        ["query", "user_id", "session_id", "request_id", "max_tokens", "top_k", "min_confidence"],
    ),
    ("query/Query", query_pb.QueryRequest(query="q", max_tokens=8193), ["max_tokens"]),
    ("retrieval/Retrieve", with_enum(retrieval_pb.RetrieveRequest(query="q"), mode=77, rerank=-3), ["mode", "rerank"]),
    (
        "retrieval/Retrieve",
        retrieval_pb.RetrieveRequest(query="q", stores=["nowhere", "store", ""]),
        ["stores[0]", "stores[2]"],
    ),
    ("retrieval/Retrieve", retrieval_pb.RetrieveRequest(query="q", stores=["s"] * 65), ["stores"]),
    ("generation/Generate", generation_pb.GenerateRequest(), ["query"]),
    ("generation/StreamGenerate", generation_pb.GenerateRequest(query=LONG), ["query"]),
    (
        "generation/Generate",
        generation_pb.GenerateRequest(
            query="q\0",
            passages=[
                generation_pb.Passage(passage_id="a", score=math.nan),
                generation_pb.Passage(passage_id="a", title=LONG, text=LONG),
                generation_pb.Passage(),
            ],
            max_tokens=-1,
            min_confidence=math.nan,
        ),
        [
            "query",
            "passages[0].score",
            "passages[1].passage_id",
            "passages[1].title",
            "passages[1].text",
            "passages[2].passage_id",
            "max_tokens",
            "min_confidence",
        ],
    ),
    ("ingestion/IngestDocuments", ingestion_pb.IngestDocumentsRequest(), ["documents"]),
    (
        "ingestion/IngestDocuments",
        ingestion_pb.IngestDocumentsRequest(
            collection="no such!", documents=[ingestion_pb.DocumentInput()] * 257, request_id="é"
        ),
        ["collection", "request_id", "documents"],
    ),
    ("ingestion/GetDocument", ingestion_pb.GetDocumentRequest(), ["document_id"]),
    (
        "ingestion/GetDocument",
        ingestion_pb.GetDocumentRequest(collection="a/b", document_id=LONG),
        ["collection", "document_id"],
    ),
    ("ingestion/GetDocument", ingestion_pb.GetDocumentRequest(document_id="garage\n"), ["document_id"]),
    (
        "ingestion/DeleteDocument",
        ingestion_pb.DeleteDocumentRequest(collection="a/b", document_id=LONG),
        ["collection", "document_id"],
    ),
    ("ingestion/GetErasureReceipt", ingestion_pb.GetErasureReceiptRequest(), ["receipt_id"]),
    ("ingestion/GetErasureReceipt", ingestion_pb.GetErasureReceiptRequest(receipt_id=LONG), ["receipt_id"]),
    ("ingestion/ListDocuments", ingestion_pb.ListDocumentsRequest(page_size=-1), ["page_size"]),
    (
        "ingestion/ListDocuments",
        ingestion_pb.ListDocumentsRequest(page_size=1001, page_token="?"),
        ["page_size", "page_token"],
    ),
    *(
        ("ingestion/ListDocuments", ingestion_pb.ListDocumentsRequest(page_token=token), ["page_token"])
        for token in ("x", "=", "\0", "ä", LONG, "Ww" * 40_000, "bnVsbA")
    ),
    (
        "ingestion/ListCollections",
        ingestion_pb.ListCollectionsRequest(page_size=-7, page_token="\0"),
        ["page_size", "page_token"],
    ),
    ("ingestion/UpdateDocumentAccess", ingestion_pb.UpdateDocumentAccessRequest(), ["document_id", "access"]),
    (
        "ingestion/UpdateDocumentAccess",
        ingestion_pb.UpdateDocumentAccessRequest(
            document_id="garage", access=core_pb2.Access(readers=["user:a", "root"])
        ),
        ["access.readers[1]"],
    ),
    (
        "ingestion/UpdateDocumentAccess",
        ingestion_pb.UpdateDocumentAccessRequest(
            document_id="garage", access=core_pb2.Access(readers=[f"user:u{i}" for i in range(257)])
        ),
        ["access.readers"],
    ),
    (
        "ingestion/CreateCollection",
        ingestion_pb.CreateCollectionRequest(
            name="-x", default_access=core_pb2.Access(readers=["tenant:acme"]), retention=Duration(seconds=86_401)
        ),
        ["name", "default_access.readers[0]", "retention"],
    ),
    *(
        (
            "ingestion/CreateCollection",
            ingestion_pb.CreateCollectionRequest(name="c", retention=retention),
            ["retention"],
        )
        for retention in (
            Duration(nanos=1),
            Duration(seconds=-86_400),
            Duration(seconds=36_501 * 86_400),
            Duration(seconds=2**62),
            Duration(seconds=86_400, nanos=-1),
        )
    ),
    (
        "ingestion/UpdateCollection",
        ingestion_pb.UpdateCollectionRequest(retention=Duration(seconds=5)),
        ["name", "retention"],
    ),
    ("ingestion/GetCollection", ingestion_pb.GetCollectionRequest(name="."), ["name"]),
    ("store/UpsertChunks", store_pb.UpsertChunksRequest(), ["partition.tenant", "partition.collection"]),
    (
        "store/DeleteChunks",
        store_pb.DeleteChunksRequest(before_version=-1),
        ["partition.tenant", "partition.collection", "target", "before_version"],
    ),
    (
        "store/AssignReaders",
        store_pb.AssignReadersRequest(reader_set=-1),
        ["partition.tenant", "partition.collection", "document_id", "reader_set"],
    ),
    (
        "store/SearchDense",
        store_pb.SearchDenseRequest(limit=-1),
        ["partition.tenant", "partition.collection", "limit", "vector"],
    ),
    (
        "store/SearchDense",
        store_pb.SearchDenseRequest(partition=store_pb.Partition(tenant="t", collection="c"), limit=1, vector=b"abc"),
        ["vector"],
    ),
    (
        "store/SearchLexical",
        store_pb.SearchLexicalRequest(limit=10_001),
        ["partition.tenant", "partition.collection", "limit"],
    ),
    ("store/FetchChunks", store_pb.FetchChunksRequest(), ["partition.tenant", "partition.collection"]),
    ("store/CountChunks", store_pb.CountChunksRequest(), ["partition.tenant", "partition.collection"]),
    (
        "store/CountChunks",
        store_pb.CountChunksRequest(document_id="d", before_version=-1),
        ["partition.tenant", "partition.collection", "before_version"],
    ),
    (
        "store/CountChunks",
        store_pb.CountChunksRequest(before_version=3),
        ["partition.tenant", "partition.collection", "document_id"],
    ),
]


@pytest.mark.parametrize("service", ["query", "retrieval", "generation", "ingestion", "store"])
async def test_every_wrong_field_is_named(mesh: Mesh, service: str) -> None:
    cases = [case for case in WRONG if case[0].startswith(f"{service}/")]
    assert cases
    for method, request, fields in cases:
        result = await call(mesh, method, request)
        shown = f"{method} {str(request)[:200]}: {result.code} {result.details[:200]}"
        assert result.code is grpc.StatusCode.INVALID_ARGUMENT, shown
        assert result.reason == "INVALID_FIELD", shown
        assert result.fields == fields, shown
    await assert_alive(mesh)


MISSING: list[tuple[str, Message, str]] = [
    ("query/Query", query_pb.QueryRequest(query="q", collections=["nowhere"]), "COLLECTION_NOT_FOUND"),
    ("query/StreamQuery", query_pb.QueryRequest(query="q", collections=["default", "nowhere"]), "COLLECTION_NOT_FOUND"),
    ("retrieval/Retrieve", retrieval_pb.RetrieveRequest(query="q", collections=["nowhere"]), "COLLECTION_NOT_FOUND"),
    (
        "ingestion/IngestDocuments",
        ingestion_pb.IngestDocumentsRequest(collection="nowhere", documents=[ingestion_pb.DocumentInput(content=b"x")]),
        "COLLECTION_NOT_FOUND",
    ),
    ("ingestion/ListDocuments", ingestion_pb.ListDocumentsRequest(collection="nowhere"), "COLLECTION_NOT_FOUND"),
    ("ingestion/GetCollection", ingestion_pb.GetCollectionRequest(name="nowhere"), "COLLECTION_NOT_FOUND"),
    ("ingestion/UpdateCollection", ingestion_pb.UpdateCollectionRequest(name="nowhere"), "COLLECTION_NOT_FOUND"),
    ("ingestion/GetDocument", ingestion_pb.GetDocumentRequest(document_id="nowhere"), "NOT_FOUND"),
    ("ingestion/GetDocument", ingestion_pb.GetDocumentRequest(collection="nowhere", document_id="x"), "NOT_FOUND"),
    (
        "ingestion/UpdateDocumentAccess",
        ingestion_pb.UpdateDocumentAccessRequest(document_id="nowhere", access=core_pb2.Access()),
        "NOT_FOUND",
    ),
    ("ingestion/DeleteDocument", ingestion_pb.DeleteDocumentRequest(document_id="nowhere"), "NOT_FOUND"),
    ("ingestion/GetErasureReceipt", ingestion_pb.GetErasureReceiptRequest(receipt_id="0" * 32), "NOT_FOUND"),
]


async def test_what_is_missing_is_not_found(mesh: Mesh) -> None:
    for method, request, reason in MISSING:
        result = await call(mesh, method, request)
        assert (result.code, result.reason) == (grpc.StatusCode.NOT_FOUND, reason), (method, result)
    await assert_alive(mesh)


# --- documents that are wrong alone ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class BadDocument:
    """A document and what must become of it."""

    document: ingestion_pb.DocumentInput
    reason: ingestion_pb.FailureReason.ValueType
    fields: tuple[str, ...] = ()


def _described(**fields: Any) -> ingestion_pb.DocumentInput:
    return ingestion_pb.DocumentInput(content=b"Good contents.", **fields)


BAD_DOCUMENTS = [
    BadDocument(ingestion_pb.DocumentInput(), ingestion_pb.FAILURE_REASON_EMPTY),
    BadDocument(ingestion_pb.DocumentInput(content=b" \n"), ingestion_pb.FAILURE_REASON_EMPTY),
    BadDocument(ingestion_pb.DocumentInput(content=b"%PDF-1.7 broken"), ingestion_pb.FAILURE_REASON_MALFORMED),
    BadDocument(
        ingestion_pb.DocumentInput(content=b"PK\x03\x04zip"), ingestion_pb.FAILURE_REASON_UNSUPPORTED_MEDIA_TYPE
    ),
    BadDocument(ingestion_pb.DocumentInput(content=b"a\0b\0c"), ingestion_pb.FAILURE_REASON_UNSUPPORTED_MEDIA_TYPE),
    BadDocument(_described(media_type="image/png"), ingestion_pb.FAILURE_REASON_UNSUPPORTED_MEDIA_TYPE),
    BadDocument(_described(media_type=LONG), ingestion_pb.FAILURE_REASON_UNSUPPORTED_MEDIA_TYPE),
    BadDocument(_described(media_type="application/pdf"), ingestion_pb.FAILURE_REASON_UNSUPPORTED_MEDIA_TYPE),
    BadDocument(
        ingestion_pb.DocumentInput(content=b"\xff\xfe\x00\xd8", media_type="text/plain"),
        ingestion_pb.FAILURE_REASON_WRONG_ENCODING,
    ),
    BadDocument(_described(document_id="../x"), ingestion_pb.FAILURE_REASON_INVALID_FIELD, ("document_id",)),
    BadDocument(_described(document_id="x" * 129), ingestion_pb.FAILURE_REASON_INVALID_FIELD, ("document_id",)),
    BadDocument(
        _described(
            document_id="\0",
            title="t" * 513,
            uri="u\n",
            metadata={
                "": filter_pb2.MetadataValue(string_value="x"),
                "nan": filter_pb2.MetadataValue(number_value=math.nan),
                "unset": filter_pb2.MetadataValue(),
            },
            access=core_pb2.Access(readers=["user:"]),
        ),
        ingestion_pb.FAILURE_REASON_INVALID_FIELD,
        (
            "document_id",
            "title",
            "uri",
            'metadata[""]',
            'metadata["nan"].number_value',
            'metadata["unset"]',
            "access.readers[0]",
        ),
    ),
    BadDocument(
        _described(metadata={f"k{i}": filter_pb2.MetadataValue(bool_value=True) for i in range(65)}),
        ingestion_pb.FAILURE_REASON_INVALID_FIELD,
        ("metadata",),
    ),
    BadDocument(
        ingestion_pb.DocumentInput(content=b"x" * (32 * MIB + 1)),
        ingestion_pb.FAILURE_REASON_TOO_LARGE,
    ),
]


async def test_a_bad_document_fails_alone_and_says_why(mesh: Mesh) -> None:
    documents: list[ingestion_pb.DocumentInput] = []
    for place, bad in enumerate(BAD_DOCUMENTS):
        documents += [bad.document, ingestion_pb.DocumentInput(document_id=f"good-{place}", content=b"Good contents.")]
    response = await mesh.ingestion.IngestDocuments(ingestion_pb.IngestDocumentsRequest(documents=documents))
    assert [result.index for result in response.results] == list(range(len(documents)))
    for place, (bad, result) in enumerate(zip(BAD_DOCUMENTS, response.results[::2], strict=True)):
        assert result.failure_reason == bad.reason, (place, result)
        assert result.failure_message
        expected = [f"documents[{2 * place}].{field}" for field in bad.fields]
        assert [problem.field for problem in result.field_problems] == expected, (place, result)
        assert (result.version, result.chunks, result.unchanged, result.retryable) == (0, 0, False, False)
    assert all(not result.failure_reason for result in response.results[1::2])
    assert (response.processed, response.failed) == (len(BAD_DOCUMENTS), len(BAD_DOCUMENTS))
    assert list(response.document_ids) == [f"good-{place}" for place in range(len(BAD_DOCUMENTS))]
    await assert_alive(mesh)


# --- bytes that are no message ---------------------------------------------------------------------------------------

BUILT = {
    "query/Query": query_pb.QueryRequest(query="How many parking spaces?"),
    "query/StreamQuery": query_pb.QueryRequest(query="How many parking spaces?"),
    "retrieval/Retrieve": retrieval_pb.RetrieveRequest(query="parking"),
    "retrieval/ListStores": retrieval_pb.ListStoresRequest(),
    "generation/Generate": generation_pb.GenerateRequest(query="parking"),
    "generation/StreamGenerate": generation_pb.GenerateRequest(query="parking"),
    "generation/ListEndpoints": generation_pb.ListEndpointsRequest(),
    "ingestion/IngestDocuments": ingestion_pb.IngestDocumentsRequest(
        documents=[ingestion_pb.DocumentInput(content=b"Something else.")]
    ),
    "ingestion/GetDocument": ingestion_pb.GetDocumentRequest(document_id="garage"),
    "ingestion/ListDocuments": ingestion_pb.ListDocumentsRequest(),
    "ingestion/UpdateDocumentAccess": ingestion_pb.UpdateDocumentAccessRequest(
        document_id="garage", access=core_pb2.Access(readers=["user:alice"])
    ),
    "ingestion/DeleteDocument": ingestion_pb.DeleteDocumentRequest(document_id="garage"),
    "ingestion/CreateCollection": ingestion_pb.CreateCollectionRequest(name="legal"),
    "ingestion/GetCollection": ingestion_pb.GetCollectionRequest(),
    "ingestion/ListCollections": ingestion_pb.ListCollectionsRequest(),
    "ingestion/UpdateCollection": ingestion_pb.UpdateCollectionRequest(name="default"),
    "monitoring/GetTopology": monitoring_pb.GetTopologyRequest(),
    "store/UpsertChunks": store_pb.UpsertChunksRequest(partition=store_pb.Partition(tenant="t", collection="c")),
    "store/DeleteChunks": store_pb.DeleteChunksRequest(
        partition=store_pb.Partition(tenant="t", collection="c"), everything=True
    ),
    "store/AssignReaders": store_pb.AssignReadersRequest(
        partition=store_pb.Partition(tenant="t", collection="c"), document_id="d", reader_set=1
    ),
    "store/SearchDense": store_pb.SearchDenseRequest(
        partition=store_pb.Partition(tenant="t", collection="c"), limit=1, vector=b"\0\0\x80\x3f"
    ),
    "store/SearchLexical": store_pb.SearchLexicalRequest(
        partition=store_pb.Partition(tenant="t", collection="c"), limit=1, terms=["x"]
    ),
    "store/FetchChunks": store_pb.FetchChunksRequest(partition=store_pb.Partition(tenant="t", collection="c")),
    "store/CountChunks": store_pb.CountChunksRequest(partition=store_pb.Partition(tenant="t", collection="c")),
    "store/GetCapabilities": store_pb.GetCapabilitiesRequest(),
}
# A length that the rest does not have; a group that never ends; a string that is not UTF-8 in a field of that type.
GARBAGE = [b"\x0a\x7f", b"\xff\xff\xff\xff", b"\x0b", b"\x0a\xff\xff\xff\xff\x0f"]
# Field 19,000 and field 536,870,911, the largest there is: no message has them.
UNKNOWN_FIELDS = b"\xc2\xa3\x09\x04abcd" + b"\xf8\xff\xff\xff\x0f\x01"


@pytest.mark.parametrize("method", BUILT)
async def test_bytes_that_are_no_message_are_an_invalid_argument(mesh: Mesh, method: str) -> None:
    for garbage in GARBAGE:
        result = await call(mesh, method, garbage)
        assert (result.code, result.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"), (garbage, result)
        assert result.fields == [""]
        assert "x-request-id" in result.trailing
    good = await call(mesh, method, BUILT[method])
    assert good.code is grpc.StatusCode.OK, good


@pytest.mark.parametrize("method", BUILT)
async def test_fields_of_a_later_release_do_no_harm(mesh: Mesh, method: str) -> None:
    result = await call(mesh, method, BUILT[method].SerializeToString() + UNKNOWN_FIELDS)
    assert result.code is grpc.StatusCode.OK, result


async def test_text_that_is_not_utf8_is_refused(mesh: Mesh) -> None:
    result = await call(mesh, "query/Query", b"\x0a\x02\xc3\x28")
    assert result.code is grpc.StatusCode.INVALID_ARGUMENT, result


async def test_no_message_at_all_and_two_of_them(mesh: Mesh) -> None:
    path = "/groundwire.query.v1.QueryService/Query"
    nothing = await mesh.raw("query", path, timeout=10)
    assert nothing.code is grpc.StatusCode.INVALID_ARGUMENT
    twice = await mesh.raw("query", path, *[BUILT["query/Query"].SerializeToString()] * 2, timeout=10)
    assert twice.reason != "INTERNAL", twice
    await assert_alive(mesh)


async def test_a_message_over_the_limit_is_refused(mesh: Mesh) -> None:
    result = await call(mesh, "query/Query", query_pb.QueryRequest(query="x" * (5 * MIB)))
    assert result.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    await assert_alive(mesh)


# --- whatever Hypothesis thinks of -----------------------------------------------------------------------------------

# What a caller's own mistake may lead to. ALREADY_EXISTS and FAILED_PRECONDITION come from earlier examples.
ALLOWED = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.FAILED_PRECONDITION,
}
_odd_text = st.one_of(
    st.sampled_from(
        ["", "garage", "default", "nowhere", "user:alice", "\0", "a\n", "ﬀ", "🜁", "..", "%s", "';--", "x" * 200]
    ),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
)
_odd_int = st.sampled_from([0, 1, -1, 7, 50, 1000, 2**31 - 1, -(2**31)])
_odd_long = st.sampled_from([0, 1, -1, 86_400, 2**53, 2**63 - 1, -(2**63)])
_odd_float = st.sampled_from([0.0, -0.0, 0.5, 1.0, -1.0, math.nan, math.inf, -math.inf, 1e308, 5e-324])
_odd_bytes = st.one_of(
    st.sampled_from([b"", b"\0" * 4, b"%PDF-", b"\xff\xfe", b"abcd", b"# Title\n\nText."]), st.binary(max_size=40)
)


def _fill(draw: st.DrawFn, message: Message, depth: int) -> Message:
    """Set some fields of a message to odd values, whatever its type is."""
    for descriptor in message.DESCRIPTOR.fields:
        if not draw(st.booleans()):
            continue
        name: str = descriptor.name
        if descriptor.message_type is not None:
            if depth > 4:
                continue
            if descriptor.message_type.GetOptions().map_entry:
                for key in draw(st.lists(_odd_text, max_size=3, unique=True)):
                    _fill(draw, getattr(message, name)[key], depth + 1)
            elif descriptor.is_repeated:
                for _ in range(draw(st.integers(0, 2))):
                    _fill(draw, getattr(message, name).add(), depth + 1)
            else:
                getattr(message, name).SetInParent()
                _fill(draw, getattr(message, name), depth + 1)
            continue
        value: st.SearchStrategy[Any] = {
            descriptor.TYPE_STRING: _odd_text,
            descriptor.TYPE_BYTES: _odd_bytes,
            descriptor.TYPE_BOOL: st.booleans(),
            descriptor.TYPE_DOUBLE: _odd_float,
            descriptor.TYPE_FLOAT: st.sampled_from([0.0, -1.0, math.nan, math.inf]),
            descriptor.TYPE_INT32: _odd_int,
            descriptor.TYPE_ENUM: st.sampled_from([0, 1, 2, 99, -1]),
            descriptor.TYPE_INT64: _odd_long,
        }[descriptor.type]
        if descriptor.is_repeated:
            getattr(message, name).extend(draw(st.lists(value, max_size=3)))
        else:
            setattr(message, name, draw(value))
    return message


@st.composite
def odd_calls(draw: st.DrawFn) -> tuple[str, Message]:
    method = draw(st.sampled_from(sorted(BUILT)))
    return method, _fill(draw, type(BUILT[method])(), 0)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(odd_calls(), min_size=6, max_size=12))
def test_no_request_finds_a_defect(calls: list[tuple[str, Message]]) -> None:
    asyncio.run(_check_all(calls))


async def _check_all(calls: list[tuple[str, Message]]) -> None:
    async with open_mesh() as mesh:
        for method, request in calls:
            result = await call(mesh, method, request)
            assert result.code in ALLOWED, (method, request, result)
            if result.code is grpc.StatusCode.INVALID_ARGUMENT:
                assert result.fields, (method, request, result)
            if isinstance(request, ingestion_pb.IngestDocumentsRequest) and result.responses:
                taken = ingestion_pb.IngestDocumentsResponse.FromString(result.responses[0])
                assert len(taken.results) == len(request.documents), (request, taken)
                reasons = {found.failure_reason for found in taken.results}
                assert ingestion_pb.FAILURE_REASON_INTERNAL not in reasons, (request, taken)
        # Earlier calls may have written odd chunks into any partition: only what they cannot touch must work.
        for method in ("ingestion/ListCollections", "monitoring/GetTopology", "generation/ListEndpoints"):
            assert (await call(mesh, method, b"")).code is grpc.StatusCode.OK
