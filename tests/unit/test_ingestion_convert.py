"""IngestionService's messages to and from the domain."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from google.protobuf.duration_pb2 import Duration

from groundwire.common.v1 import core_pb2, filter_pb2
from groundwire.ingestion.v1 import ingestion_service_pb2 as pb
from services.corpus.document import Collection
from services.corpus.erasure import begin
from services.corpus.errors import FieldViolation, InvalidRequest
from services.corpus.filter import Equals
from services.corpus.principal import Access
from services.ingestion import convert
from services.ingestion.batch import Failure, Outcome
from services.ingestion.library import CollectionChanges
from services.ingestion.parsed import FailureReason
from services.runtime import paging

DAY = 86_400


def violated(read: Callable[[], object]) -> list[str]:
    with pytest.raises(InvalidRequest) as caught:
        read()
    return [violation.field for violation in caught.value.violations]


def batch(*documents: pb.DocumentInput, **fields: str) -> convert.Batch:
    return convert.read_batch(pb.IngestDocumentsRequest(documents=documents, **fields))


# --- failures --------------------------------------------------------------------------------------------------------


def test_every_failure_has_a_number_and_every_number_a_failure() -> None:
    assert set(convert.FAILURES) == {reason.value for reason in FailureReason} | {failure.value for failure in Failure}
    assert set(convert.FAILURES.values()) == set(pb.FailureReason.values()) - {pb.FAILURE_REASON_UNSPECIFIED}


def test_what_two_rooms_call_alike_is_the_same_number() -> None:
    shared = {reason.value for reason in FailureReason} & {failure.value for failure in Failure}
    assert shared == {"too_large"}
    assert convert.FAILURES["too_large"] == pb.FAILURE_REASON_TOO_LARGE


# --- batches ---------------------------------------------------------------------------------------------------------


def test_a_batch() -> None:
    document = pb.DocumentInput(
        document_id="a",
        title="Title",
        uri="https://x/a.md",
        media_type="text/markdown",
        content=b"# A",
        metadata={
            "lang": filter_pb2.MetadataValue(string_value="en"),
            "year": filter_pb2.MetadataValue(number_value=2026),
            "final": filter_pb2.MetadataValue(bool_value=False),
            "tags": filter_pb2.MetadataValue(list_value=filter_pb2.StringList(values=["x", "y"])),
        },
        access=core_pb2.Access(readers=["group:hr"]),
    )
    read = batch(document, pb.DocumentInput(), collection="legal", request_id="r-1")
    assert (read.collection, read.request_id) == ("legal", "r-1")
    draft, empty = read.drafts
    assert (draft.document_id, draft.title, draft.uri, draft.media_type) == (
        "a",
        "Title",
        "https://x/a.md",
        "text/markdown",
    )
    assert draft.content == b"# A"
    assert draft.metadata == {"lang": "en", "year": 2026.0, "final": False, "tags": ("x", "y")}
    assert draft.access == Access(frozenset({"group:hr"}))
    assert draft.violations == empty.violations == ()
    # Absent readers are the collection's business; an empty list is a decision.
    assert empty.access is None
    assert batch(pb.DocumentInput(access=core_pb2.Access())).drafts[0].access == Access(frozenset())


def test_everything_wrong_with_a_batch_is_named() -> None:
    assert violated(lambda: batch(collection="a/b", request_id="é")) == ["collection", "request_id", "documents"]
    assert violated(lambda: batch(*[pb.DocumentInput()] * 257)) == ["documents"]
    assert len(batch(*[pb.DocumentInput()] * 256).drafts) == 256


def test_everything_wrong_with_a_document_is_that_documents() -> None:
    wrong = pb.DocumentInput(
        document_id="a b",
        title="t" * 513,
        uri="u" * 2049,
        metadata={
            "unset": filter_pb2.MetadataValue(),
            "nan": filter_pb2.MetadataValue(number_value=math.nan),
            "long": filter_pb2.MetadataValue(string_value="x" * 1025),
            "k" * 129: filter_pb2.MetadataValue(bool_value=True),
        },
        access=core_pb2.Access(readers=["alice"]),
    )
    drafts = batch(pb.DocumentInput(document_id="fine"), wrong).drafts
    assert drafts[0].violations == ()
    assert [violation.field for violation in drafts[1].violations] == [
        "documents[1].document_id",
        "documents[1].title",
        "documents[1].uri",
        f'documents[1].metadata["{"k" * 128}"]',
        'documents[1].metadata["long"].string_value',
        'documents[1].metadata["nan"].number_value',
        'documents[1].metadata["unset"]',
        "documents[1].access.readers[0]",
    ]


def test_limits_are_included() -> None:
    document = pb.DocumentInput(
        document_id="x" * 128,
        title="é" * 512,
        uri="u" * 2048,
        metadata={f"{i:0>128}": filter_pb2.MetadataValue(string_value="é" * 1024) for i in range(64)},
        access=core_pb2.Access(readers=[f"user:u{i}" for i in range(256)]),
    )
    assert batch(document).drafts[0].violations == ()


def test_the_result_keeps_order_and_counts() -> None:
    violation = FieldViolation("documents[1].title", "at most 512 characters")
    outcomes = [
        Outcome(0, "a", version=3, chunks=7),
        Outcome(1, "b", reason="invalid_field", message="Wrong.", violations=(violation,)),
        Outcome(2, "c", version=1, chunks=2, unchanged=True),
        Outcome(3, "d", reason="timed_out", message="Late.", retryable=True),
    ]
    response = convert.write_batch_result(batch(pb.DocumentInput(), request_id="r-1"), outcomes, 1.5)
    assert (response.processed, response.failed, list(response.document_ids)) == (2, 2, ["a", "c"])
    assert (response.request_id, response.processing_time) == ("r-1", Duration(seconds=1, nanos=500_000_000))
    assert [result.index for result in response.results] == [0, 1, 2, 3]
    assert response.results[0] == pb.DocumentResult(document_id="a", version=3, chunks=7)
    problem = pb.FieldProblem(field=violation.field, description=violation.description)
    assert response.results[1] == pb.DocumentResult(
        index=1,
        document_id="b",
        failure_reason=pb.FAILURE_REASON_INVALID_FIELD,
        failure_message="Wrong.",
        field_problems=[problem],
    )
    assert response.results[2].unchanged
    assert (response.results[3].failure_reason, response.results[3].retryable) == (pb.FAILURE_REASON_TIMED_OUT, True)


# --- documents -------------------------------------------------------------------------------------------------------


def test_document_names() -> None:
    assert convert.read_document_name(pb.GetDocumentRequest(document_id="a")) == ("default", "a")
    assert violated(lambda: convert.read_document_name(pb.GetDocumentRequest(collection="/"))) == [
        "collection",
        "document_id",
    ]


def test_names_of_what_to_delete_are_those_of_documents() -> None:
    request = pb.DeleteDocumentRequest(collection="legal", document_id="a")
    assert convert.read_document_name(request) == ("legal", "a")


def test_receipt_ids() -> None:
    assert convert.read_receipt_id(pb.GetErasureReceiptRequest(receipt_id="0f" * 16)) == "0f" * 16
    for wrong in ("", "a b", "x" * 129):
        assert violated(lambda wrong=wrong: convert.read_receipt_id(pb.GetErasureReceiptRequest(receipt_id=wrong))) == [  # type: ignore[misc] # mypy cannot infer it
            "receipt_id"
        ]


def test_receipts() -> None:
    now = datetime(2026, 5, 17, 12, 30, 15, 123456, tzinfo=UTC)
    erasure = begin(
        receipt_id="r",
        tenant="acme",
        collection="legal",
        document_id="a",
        owner="user:alice",
        version=2,
        last_version=2,
        chunks=3,
        stores=["store"],
        now=now,
    )
    written = convert.write_receipt(erasure)
    assert (written.receipt_id, written.collection, written.document_id) == ("r", "legal", "a")
    assert written.block_time.ToDatetime(UTC) == now
    assert not written.HasField("complete_time")
    catalog, store = written.steps
    assert (catalog.place, catalog.removed, catalog.remaining) == ("catalog", 1, 0)
    assert catalog.complete_time.ToDatetime(UTC) == now
    assert (store.place, store.removed, store.remaining, store.HasField("complete_time")) == ("store", 0, 3, False)
    complete = convert.write_receipt(erasure.counted("store", 0, now))
    assert complete.complete_time.ToDatetime(UTC) == complete.steps[1].complete_time.ToDatetime(UTC) == now


def test_access_changes() -> None:
    request = pb.UpdateDocumentAccessRequest(document_id="a", access=core_pb2.Access())
    assert convert.read_access_change(request) == ("default", "a", Access(frozenset()))
    assert violated(lambda: convert.read_access_change(pb.UpdateDocumentAccessRequest(collection="."))) == [
        "collection",
        "document_id",
        "access",
    ]
    wrong = pb.UpdateDocumentAccessRequest(document_id="a", access=core_pb2.Access(readers=["user:a", "everybody"]))
    assert violated(lambda: convert.read_access_change(wrong)) == ["access.readers[1]"]


def listing(**fields: object) -> convert.Listing:
    return convert.read_listing(pb.ListDocumentsRequest(**fields))  # type: ignore[arg-type] # as given


def test_listings() -> None:
    first = listing()
    assert (first.collection, first.filter_, first.after, first.limit) == ("default", None, "", 50)
    english = filter_pb2.Filter(
        equals=filter_pb2.Comparison(key="lang", value=filter_pb2.MetadataValue(string_value="en"))
    )
    assert listing(filter=english, page_size=1000).filter_ == Equals("lang", "en")
    assert violated(lambda: listing(collection=" ", filter=filter_pb2.Filter(), page_size=1001, page_token="no")) == [
        "collection",
        "filter",
        "page_size",
        "page_token",
    ]


def test_a_listings_token_belongs_to_its_collection_and_filter() -> None:
    english, german = (
        filter_pb2.Filter(
            equals=filter_pb2.Comparison(key="lang", value=filter_pb2.MetadataValue(string_value=language))
        )
        for language in ("en", "de")
    )
    token = paging.write_token("m", *listing(filter=english).scope)
    # Pages may change their size.
    assert listing(filter=english, page_token=token, page_size=7).after == "m"
    assert listing(filter=english, page_token=token, collection="default").after == "m"
    for other in ({}, {"filter": german}, {"filter": english, "collection": "legal"}):
        assert violated(lambda other=other: listing(page_token=token, **other)) == ["page_token"]  # type: ignore[misc] # bound
    # Nor is it one of ListCollections.
    request = pb.ListCollectionsRequest(page_token=token)
    assert violated(lambda: convert.read_collection_page(request)) == ["page_token"]


# --- collections -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0, DAY, 36_500 * DAY])
def test_retention_is_whole_days(seconds: int) -> None:
    request = pb.CreateCollectionRequest(name="legal", retention=Duration(seconds=seconds))
    assert convert.read_new_collection(request) == ("legal", None, seconds // DAY)


@pytest.mark.parametrize(
    ("seconds", "nanos"), [(1, 0), (DAY - 1, 0), (DAY, 1), (-DAY, 0), (36_501 * DAY, 0), (0, -1), (2**62, 0)]
)
def test_other_retentions_are_refused(seconds: int, nanos: int) -> None:
    retention = Duration(seconds=seconds, nanos=nanos)
    assert violated(lambda: convert.read_new_collection(pb.CreateCollectionRequest(name="x", retention=retention))) == [
        "retention"
    ]
    assert violated(
        lambda: convert.read_collection_changes(pb.UpdateCollectionRequest(name="x", retention=retention))
    ) == ["retention"]


def test_what_is_absent_stays_as_it_is() -> None:
    assert convert.read_new_collection(pb.CreateCollectionRequest(name="x")) == ("x", None, None)
    assert convert.read_collection_changes(pb.UpdateCollectionRequest(name="x")) == ("x", CollectionChanges())
    request = pb.UpdateCollectionRequest(name="x", default_access=core_pb2.Access(), retention=Duration())
    assert convert.read_collection_changes(request) == ("x", CollectionChanges(Access(frozenset()), 0))


def test_everything_wrong_with_a_collection_is_named() -> None:
    access = core_pb2.Access(readers=["user:a", "nobody"])
    create = pb.CreateCollectionRequest(name="-", default_access=access, retention=Duration(seconds=1))
    assert violated(lambda: convert.read_new_collection(create)) == ["name", "default_access.readers[1]", "retention"]
    # To change "the one without a name" would change the default collection by mistake.
    assert violated(lambda: convert.read_collection_changes(pb.UpdateCollectionRequest())) == ["name"]
    assert convert.read_collection_name(pb.GetCollectionRequest()) == "default"
    assert violated(lambda: convert.read_collection_name(pb.GetCollectionRequest(name="a b"))) == ["name"]
    page = pb.ListCollectionsRequest(page_size=-1, page_token="x")
    assert violated(lambda: convert.read_collection_page(page)) == ["page_size", "page_token"]


@pytest.mark.parametrize("access", [None, Access(frozenset()), Access(frozenset({"group:hr", "user:a"}))])
@pytest.mark.parametrize("days", [None, 30])
def test_a_collection_on_the_wire(access: Access | None, days: int | None) -> None:
    made = datetime(2026, 1, 2, tzinfo=UTC)
    written = convert.write_collection(Collection("acme", "legal", "bge", 384, access, days, made, 5))
    assert (written.name, written.embedding_model, written.dimension, written.document_count) == (
        "legal",
        "bge",
        384,
        5,
    )
    assert written.create_time.ToDatetime(UTC) == made
    assert written.HasField("default_access") == (access is not None)
    assert list(written.default_access.readers) == sorted(access.readers if access else [])
    assert written.HasField("retention") == (days is not None)
    assert written.retention.seconds == (days or 0) * DAY
    assert b"acme" not in written.SerializeToString()
