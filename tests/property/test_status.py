"""Any domain error gives a status that every client accepts, and that says what went wrong."""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import quote

import grpc
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from interceptors._shapes import Call
from services.corpus.errors import FieldViolation, InvalidRequest, NotFound, ResourceExhausted, Unavailable
from services.runtime.status import from_rpc_error, to_status

texts = st.text(st.characters(codec="utf-8"), max_size=400)
# Hypothesis seldom makes long texts by itself, and they are what matters here.
long_texts = st.builds(str.__mul__, st.text(st.characters(codec="utf-8"), max_size=3), st.integers(1, 200))
violations = st.lists(st.builds(FieldViolation, long_texts, long_texts), min_size=1, max_size=60)
no_context: Any = None
CALL = Call("/a.B/C", True, no_context, "0" * 32)


def received(status: grpc.Status) -> grpc.aio.AioRpcError:
    assert status.trailing_metadata is not None
    return grpc.aio.AioRpcError(
        status.code, grpc.aio.Metadata(), grpc.aio.Metadata(*status.trailing_metadata), status.details
    )


@settings(deadline=None, max_examples=100)
@given(violations)
def test_a_status_fits_into_a_clients_limit_and_counts_every_field(found: list[FieldViolation]) -> None:
    status = to_status(InvalidRequest(found), CALL)
    details = dict(status.trailing_metadata or ())["grpc-status-details-bin"]
    assert isinstance(details, bytes)
    assert len(quote(status.details)) + len(base64.b64encode(details)) + 300 < 8192

    rich = status_pb2.Status.FromString(details)
    assert rich.message == status.details
    bad_request = error_details_pb2.BadRequest()
    assert any(detail.Unpack(bad_request) for detail in rich.details)
    shown = [(v.field, v.description) for v in bad_request.field_violations]
    whole = [(v.field, v.description) for v in found]
    if len(shown) == len(whole) and not shown[-1][1].endswith("more fields are wrong"):
        assert [field for field, _ in shown] == [field for field, _ in whole]
    else:
        assert [field for field, _ in shown[:-1]] == [field for field, _ in whole[: len(shown) - 1]]
        assert shown[-1][1] == f"{len(whole) - len(shown) + 1} more fields are wrong"


@settings(deadline=None, max_examples=100)
@given(
    st.lists(
        st.builds(FieldViolation, st.text(st.characters(codec="utf-8"), max_size=30), st.just("bad")),
        min_size=1,
        max_size=20,
    )
)
def test_violations_that_fit_come_back_as_they_were(found: list[FieldViolation]) -> None:
    arrived = from_rpc_error(received(to_status(InvalidRequest(found), CALL)), "x")
    assert isinstance(arrived, InvalidRequest)
    assert arrived.violations == tuple(found)


@settings(deadline=None, max_examples=100)
@given(texts, st.floats(0.001, 1e6), st.dictionaries(st.text("abc", min_size=1), texts, max_size=2))
def test_messages_and_delays_come_back(message: str, delay: float, metadata: dict[str, str]) -> None:
    arrived = from_rpc_error(received(to_status(Unavailable(message, retry_after=delay, metadata=metadata), CALL)), "x")
    assert isinstance(arrived, Unavailable)
    assert abs(arrived.retry_after - delay) <= 0.0005 + 1e-9
    assert arrived.metadata == metadata
    if len(message.encode()) <= 500:
        assert arrived.message == message
    else:
        assert message.startswith(arrived.message.removesuffix(" …"))
    again = from_rpc_error(received(to_status(NotFound(message, metadata=metadata), CALL)), "x")
    assert (type(again), again.metadata) == (NotFound, metadata)


@settings(deadline=None, max_examples=50)
@given(st.floats(-10, 0.0005))
def test_a_delay_is_never_zero(delay: float) -> None:
    arrived = from_rpc_error(received(to_status(ResourceExhausted("x", retry_after=delay), CALL)), "x")
    assert isinstance(arrived, ResourceExhausted)
    assert arrived.retry_after == 0.001
