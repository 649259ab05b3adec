"""Page tokens and times: a position comes back as it was; a token that was made up is an invalid field and no defect."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from groundwire.audit.v1 import audit_service_pb2 as audit_pb
from groundwire.ingestion.v1 import ingestion_service_pb2 as ingestion_pb
from services.audit import convert as audit
from services.corpus.errors import InvalidRequest, Violations
from services.ingestion import convert as ingestion
from services.runtime.paging import read_token, write_token
from tests.fuzz.source import Source

SEEDS = (
    "²".encode(),
    b"9" * 5000,
    b"document-1\xffcollections\xff\x00",
    b"17\xff\xff",
    write_token("a", "b").encode() + b"\xffb",
    b"\xc3\xa9\xffx",
)


def around(run: bytes) -> list[bytes]:
    """Inputs with a long run in them."""
    return [run + b"\xffx"]


def fuzz(data: bytes) -> None:
    """See the module."""
    source = Source(data)
    after, scope = source.text(), (source.text(), source.text())
    violations = Violations()
    assert read_token(write_token(after, *scope), violations, *scope) == after
    violations.raise_if_any()
    read_token(after, violations, *scope)  # whatever a caller sends
    _read_pages(after)
    _read_pages_of_the_log(after, scope[0].encode())


def _read_pages(after: str) -> None:
    token = write_token(after, "collections")
    assert ingestion.read_collection_page(ingestion_pb.ListCollectionsRequest(page_token=token))[0] == after
    listing = ingestion_pb.ListDocumentsRequest()
    listing.page_token = write_token(after, "documents", "default", "")
    assert ingestion.read_listing(listing).after == after
    listing.page_token = after
    try:
        assert ingestion.read_listing(listing).after == after == ""
    except InvalidRequest as refused:
        assert {violation.field for violation in refused.violations} == {"page_token"}


def _read_pages_of_the_log(after: str, filter_: bytes) -> None:
    message = audit_pb.ListEventsRequest()
    try:
        message.filter.ParseFromString(filter_)
    except DecodeError:
        message.filter.Clear()
    scope = ("events", "oldest first", "t", message.filter.SerializeToString(deterministic=True).hex())
    # The checksum is no secret: a caller can make one for any position.
    message.page_token = write_token(after, *scope)
    try:
        start = audit.read_listing(message, "t").start
    except InvalidRequest:
        return
    assert start is None or 0 <= start < 2**63
