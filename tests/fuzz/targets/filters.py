"""Filters and metadata: within bounds one is read, written and read again as the same, and can be matched."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from google.protobuf.message import DecodeError

from cli.errors import CliError
from cli.filters import parse_filters
from groundwire.common.v1 import filter_pb2 as pb
from services.corpus.errors import InvalidRequest, Violations
from services.corpus.filter import Metadata, check_bounds, matches
from services.runtime import wire_filter
from tests.fuzz.messages import mutate_message
from tests.fuzz.mutations import mutate as mutate_bytes
from tests.fuzz.source import Source

_HELD: Sequence[Metadata] = (
    {},
    {"year": 2025.0, "kind": "letter", "tags": ("a", "b"), "open": True, "k": -0.0, "": ""},
)
_CONDITIONS = b"\x00"  # in front of conditions as they are typed; what is behind any other byte is a message


def _typed(*conditions: str) -> bytes:
    filter_ = parse_filters(conditions)
    assert filter_ is not None
    return b"\x01" + filter_.SerializeToString()


SEEDS = (
    _typed("year>=2024", "year<=2025", "kind=letter", "kind=memo", "open!=true"),
    _typed("kind!=letter", 'zip="1"'),
    b"\x01" + pb.Filter(equals=pb.Comparison(key="tags", value=pb.MetadataValue(string_value="a"))).SerializeToString(),
    _CONDITIONS + b'year>=2024\xffkind=letter\xffzip="20457"\xffopen!=true\xffa <= -1.5',
)


def mutate(data: bytes, random: Random, others: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    """Change a message field by field, and conditions as text."""
    if data.startswith(_CONDITIONS):
        return _CONDITIONS + mutate_bytes(data[1:], random, others, words)
    return b"\x01" + mutate_message(pb.Filter, data[1:], random, others, words)


def around(run: bytes) -> list[bytes]:
    """Inputs with a long run in them."""
    return [b"\x00a>=" + run, b"\x00" + run + b"=x"]


def fuzz(data: bytes) -> None:
    """See the module."""
    try:
        message = _parsed(data[1:]) if data.startswith(_CONDITIONS) else pb.Filter.FromString(data[1:])
    except (DecodeError, CliError):
        return
    if message is None:
        return
    violations = Violations()
    read = wire_filter.read_filter(message, "filter", violations)
    try:
        violations.raise_if_any()
    except InvalidRequest:
        assert read is None
        return
    assert read is not None
    check_bounds(read)
    for metadata in _HELD:
        assert isinstance(matches(read, metadata), bool)
    again = wire_filter.read_filter(wire_filter.write_filter(read), "filter", Violations())
    assert again == read


def _parsed(conditions: bytes) -> pb.Filter | None:
    source = Source(conditions)
    return parse_filters(list(iter(source.text, "")))
