"""Shared messages: what is written reads back the same, through the bytes; what is wrong is named."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundwire.common.v1 import core_pb2, filter_pb2
from services.corpus.coverage import Coverage, Notice, StoreCoverage, StoreState
from services.corpus.document import Document, DocumentState, MediaType
from services.corpus.errors import InvalidField, Violations
from services.corpus.filter import (
    AllOf,
    AnyOf,
    Equals,
    Filter,
    In,
    MetadataValue,
    Not,
    Range,
    check_bounds,
)
from services.corpus.principal import EVERYBODY, Access
from services.runtime import wire

PLAIN = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
TEXTS = st.text(PLAIN, max_size=20)
KEYS = st.text(PLAIN, min_size=1, max_size=10)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
SCALARS = TEXTS | NUMBERS | st.booleans()
VALUES: st.SearchStrategy[MetadataValue] = SCALARS | st.lists(TEXTS, max_size=4).map(tuple)
METADATA = st.dictionaries(KEYS, VALUES, max_size=5)


def _ranges(bound: st.SearchStrategy[str] | st.SearchStrategy[float]) -> st.SearchStrategy[Range]:
    ranges = st.builds(Range, KEYS, st.none() | bound, st.none() | bound)
    return ranges.filter(lambda made: made.minimum is not None or made.maximum is not None)


LEAVES: st.SearchStrategy[Filter] = st.one_of(
    st.builds(Equals, KEYS, SCALARS),
    st.builds(In, KEYS, st.lists(SCALARS, max_size=4).map(tuple)),
    _ranges(TEXTS),
    _ranges(NUMBERS),
)
FILTERS: st.SearchStrategy[Filter] = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.lists(inner, min_size=1, max_size=3).map(lambda operands: AllOf(tuple(operands))),
        st.lists(inner, min_size=1, max_size=3).map(lambda operands: AnyOf(tuple(operands))),
    ),
    max_leaves=8,
)
MOMENTS = st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - bounds
ACCESS = st.sets(st.sampled_from([EVERYBODY, "user:alice", "group:hr"])).map(lambda some: Access(frozenset(some)))
DOCUMENTS = st.builds(
    Document,
    tenant=st.just("acme"),
    collection=TEXTS,
    document_id=TEXTS,
    version=st.integers(0, 2**63 - 1),
    title=TEXTS,
    uri=TEXTS,
    media_type=st.sampled_from(MediaType),
    metadata=METADATA,
    access=ACCESS,
    owner=TEXTS,
    state=st.sampled_from(DocumentState),
    content_sha256=TEXTS,
    chunk_count=st.integers(0, 2**63 - 1),
    create_time=MOMENTS,
    update_time=MOMENTS,
)
# Binary fractions have the same value in nanoseconds and as floats.
SECONDS = st.integers(0, 2**20).map(lambda number: number / 512)
COVERAGES = st.lists(
    st.builds(StoreCoverage, TEXTS, st.sampled_from(StoreState), st.integers(0, 2**40), SECONDS, TEXTS), max_size=4
).map(lambda stores: Coverage(tuple(stores)))


def _paths(violations: Violations) -> list[str]:
    return [violation.field for violation in violations.found]


@settings(deadline=None, max_examples=150)
@given(filter_=FILTERS)
def test_filters_survive_the_wire_if_they_are_within_bounds(filter_: Filter) -> None:
    message = filter_pb2.Filter.FromString(wire.write_filter(filter_).SerializeToString())
    violations = Violations()
    read = wire.read_filter(message, "filter", violations)
    try:
        check_bounds(filter_)
    except InvalidField:
        assert read is None
        assert _paths(violations) == ["filter"]
    else:
        assert not violations
        assert read == filter_
        # Equality calls 1.0 and True the same, a filter must not.
        assert repr(read) == repr(filter_)


@settings(deadline=None, max_examples=100)
@given(document=DOCUMENTS)
def test_documents_survive_the_wire(document: Document) -> None:
    message = core_pb2.Document.FromString(wire.write_document(document).SerializeToString())
    violations = Violations()
    read = wire.read_document(message, "document", violations, tenant="acme")
    assert not violations
    assert read == document
    assert message.name == document.name


@settings(deadline=None, max_examples=100)
@given(coverage=COVERAGES, notices=st.lists(st.builds(Notice, TEXTS, TEXTS), max_size=3))
def test_what_stands_behind_a_result_survives_the_wire(coverage: Coverage, notices: list[Notice]) -> None:
    message = core_pb2.Coverage.FromString(wire.write_coverage(coverage).SerializeToString())
    assert wire.read_coverage(message) == coverage
    assert message.degraded == coverage.degraded
    assert wire.read_notices(wire.write_notices(notices)) == tuple(notices)


@settings(deadline=None, max_examples=100)
@given(seconds=st.floats(0, 1e6))
def test_durations_are_exact_to_the_nanosecond(seconds: float) -> None:
    message = wire.write_duration(seconds)
    assert 0 <= message.nanos < 1_000_000_000
    assert abs(wire.read_duration(message) - seconds) <= 1e-9


@settings(deadline=None, max_examples=300)
@given(data=st.binary(max_size=60))
def test_a_filter_from_anywhere_is_read_or_refused_with_a_reason(data: bytes) -> None:
    message = filter_pb2.Filter()
    try:
        message.ParseFromString(data)
    except Exception:  # noqa: BLE001 - most bytes are no message at all
        return
    violations = Violations()
    read = wire.read_filter(message, "filter", violations)
    assert (read is None) == bool(violations)
    if read is not None:
        check_bounds(read)


def _value(text: str = "v") -> filter_pb2.MetadataValue:
    return filter_pb2.MetadataValue(string_value=text)


def _number(number: float) -> filter_pb2.MetadataValue:
    return filter_pb2.MetadataValue(number_value=number)


def _equals(key: str = "k", value: filter_pb2.MetadataValue | None = None) -> filter_pb2.Filter:
    return filter_pb2.Filter(equals=filter_pb2.Comparison(key=key, value=value))


def _joined(word: str, filters: Sequence[filter_pb2.Filter]) -> filter_pb2.Filter:
    message = filter_pb2.Filter()
    getattr(message, word).SetInParent()
    getattr(message, word).filters.extend(filters)
    return message


def _in(values: Sequence[filter_pb2.MetadataValue]) -> filter_pb2.Filter:
    message = filter_pb2.Filter()
    getattr(message, "in").key = "k"
    getattr(message, "in").values.extend(values)
    return message


def _not(operand: filter_pb2.Filter) -> filter_pb2.Filter:
    message = filter_pb2.Filter()
    getattr(message, "not").CopyFrom(operand)
    return message


def _range(minimum: filter_pb2.MetadataValue | None, maximum: filter_pb2.MetadataValue | None) -> filter_pb2.Filter:
    return filter_pb2.Filter(range=filter_pb2.Range(key="k", min=minimum, max=maximum))


LISTED = filter_pb2.MetadataValue(list_value=filter_pb2.StringList(values=["a"]))


@pytest.mark.parametrize(
    ("message", "paths"),
    [
        (filter_pb2.Filter(), ["f"]),
        (_equals(), ["f.equals.value"]),
        (_equals("", _value()), ["f.equals.key"]),
        (_equals("k" * 129, _value()), ["f.equals.key"]),
        (_equals("k\0", _value()), ["f.equals.key"]),
        (_equals("k", LISTED), ["f.equals.value"]),
        (_equals("k", _number(float("nan"))), ["f.equals.value.number_value"]),
        (_equals("k", _value("x" * 1025)), ["f.equals.value.string_value"]),
        (_equals("k", _value("\0")), ["f.equals.value.string_value"]),
        (_joined("and", []), ["f.and.filters"]),
        (
            _joined("and", [_equals("", _value()), _equals("k", _value()), _equals()]),
            ["f.and.filters[0].equals.key", "f.and.filters[2].equals.value"],
        ),
        (_joined("or", [_joined("and", [filter_pb2.Filter()])]), ["f.or.filters[0].and.filters[0]"]),
        (_not(filter_pb2.Filter()), ["f.not"]),
        (_range(None, None), ["f.range"]),
        (_range(_value(), _number(1)), ["f.range"]),
        (_range(filter_pb2.MetadataValue(bool_value=True), None), ["f.range.min"]),
        (_range(None, _number(float("inf"))), ["f.range.max.number_value"]),
        (
            _in([_value(), LISTED, _value("\0")]),
            ["f.in.values[1]", "f.in.values[2].string_value"],
        ),
        (_in([_value()] * 257), ["f.in.values"]),
        (_joined("or", [_equals("k", _value())] * 128), ["f"]),
        (_joined("or", [filter_pb2.Filter()] * 4), [f"f.or.filters[{i}]" for i in range(4)]),
    ],
)
def test_every_wrong_part_of_a_filter_is_named(message: filter_pb2.Filter, paths: list[str]) -> None:
    violations = Violations()
    assert wire.read_filter(message, "f", violations) is None
    assert _paths(violations) == paths


def _nested(levels: int) -> filter_pb2.Filter:
    message = _equals("k", _value())
    for _ in range(levels - 1):
        message = _not(message)
    return message


def test_filters_may_be_eight_levels_deep() -> None:
    violations = Violations()
    assert wire.read_filter(_nested(8), "f", violations) is not None
    assert wire.read_filter(_nested(9), "f", violations) is None
    assert _paths(violations) == ["f"]


def test_every_wrong_part_of_metadata_is_named() -> None:
    message = core_pb2.Document()
    message.metadata["fine"].string_value = "x"
    message.metadata["none"].SetInParent()
    message.metadata["many"].list_value.values.extend(["x"] * 65)
    message.metadata["odd"].list_value.values.extend(["x", "\0"])
    message.metadata["k" * 129].bool_value = True
    message.metadata["nan"].number_value = float("nan")
    violations = Violations()
    assert wire.read_metadata(message.metadata, "metadata", violations) == {"fine": "x"}
    assert _paths(violations) == [
        f'metadata["{"k" * 128}"]',
        'metadata["many"].list_value.values',
        'metadata["nan"].number_value',
        'metadata["none"]',
        'metadata["odd"].list_value.values[1]',
    ]


def test_too_many_metadata_keys_are_one_violation() -> None:
    message = core_pb2.Document()
    for number in range(65):
        message.metadata[f"k{number}"].bool_value = True
    violations = Violations()
    assert wire.read_metadata(message.metadata, "metadata", violations) == {}
    assert _paths(violations) == ["metadata"]


def test_a_malformed_reader_is_named() -> None:
    violations = Violations()
    assert wire.read_access(core_pb2.Access(readers=["user:a", "everyone"]), "access", violations) is None
    assert _paths(violations) == ["access.readers[1]"]


def test_a_document_that_cannot_be_read_says_why() -> None:
    violations = Violations()
    message = core_pb2.Document(media_type="image/png", access=core_pb2.Access(readers=["x"]))
    assert wire.read_document(message, "d", violations, tenant="acme") is None
    assert _paths(violations) == ["d.access.readers[0]", "d.state", "d.media_type"]


def test_a_store_state_of_a_newer_release_counts_as_failed() -> None:
    message = core_pb2.Coverage()
    # Field 1 (a store) that holds field 2 (its state) with a number that this release does not know.
    message.MergeFromString(b"\x0a\x02\x10\x63")
    assert wire.read_coverage(message).degraded
