"""Filters obey the laws of logic over any metadata."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from services.corpus.errors import InvalidField
from services.corpus.filter import (
    MAX_DEPTH,
    MAX_NODES,
    AllOf,
    AnyOf,
    Equals,
    Filter,
    In,
    Metadata,
    MetadataValue,
    Not,
    Range,
    check_bounds,
    matches,
)

# Few keys and few values, so that comparisons often hold.
KEYS = st.sampled_from("abc")
TEXTS = st.sampled_from(["", "x", "y", "2024-01-01", "True"])
NUMBERS = st.sampled_from([-1.0, 0.0, 1.0, 2.5])
SCALARS = st.one_of(TEXTS, NUMBERS, st.booleans())
VALUES: st.SearchStrategy[MetadataValue] = st.one_of(SCALARS, st.lists(TEXTS, max_size=3).map(tuple))
METADATA: st.SearchStrategy[Metadata] = st.dictionaries(KEYS, VALUES)
BOUNDS = st.one_of(st.none(), TEXTS, NUMBERS)
LEAVES: st.SearchStrategy[Filter] = st.one_of(
    st.builds(Equals, KEYS, SCALARS),
    st.builds(In, KEYS, st.lists(SCALARS, max_size=3).map(tuple)),
    st.builds(Range, KEYS, BOUNDS, BOUNDS),
)


def _join(inner: st.SearchStrategy[Filter]) -> st.SearchStrategy[Filter]:
    some = st.lists(inner, max_size=4).map(tuple)
    return st.one_of(st.builds(AllOf, some), st.builds(AnyOf, some), st.builds(Not, inner))


FILTERS = st.recursive(LEAVES, _join, max_leaves=12)
check = settings(deadline=None, max_examples=150)


@check
@given(FILTERS, METADATA)
def test_not_is_the_opposite(filter_: Filter, metadata: Metadata) -> None:
    assert matches(Not(filter_), metadata) is not matches(filter_, metadata)


@check
@given(st.lists(FILTERS, max_size=4).map(tuple), METADATA)
def test_de_morgan(filters: tuple[Filter, ...], metadata: Metadata) -> None:
    negated = tuple(Not(filter_) for filter_ in filters)
    assert matches(Not(AllOf(filters)), metadata) is matches(AnyOf(negated), metadata)
    assert matches(Not(AnyOf(filters)), metadata) is matches(AllOf(negated), metadata)


@check
@given(KEYS, st.lists(SCALARS, max_size=4).map(tuple), METADATA)
def test_in_is_any_of_equals(key: str, values: tuple[Any, ...], metadata: Metadata) -> None:
    assert matches(In(key, values), metadata) is matches(AnyOf(tuple(Equals(key, v) for v in values)), metadata)


@check
@given(KEYS, TEXTS | NUMBERS, METADATA)
def test_a_range_of_one_value_is_that_value(key: str, value: Any, metadata: Metadata) -> None:
    if not isinstance(metadata.get(key), tuple):  # a list contains values, but has no place among them
        assert matches(Range(key, value, value), metadata) is matches(Equals(key, value), metadata)


@check
@given(KEYS, BOUNDS, BOUNDS, METADATA)
def test_a_range_is_both_of_its_halves(key: str, minimum: Any, maximum: Any, metadata: Metadata) -> None:
    halves = AllOf((Range(key, minimum, None), Range(key, None, maximum)))
    assert matches(Range(key, minimum, maximum), metadata) is matches(halves, metadata)


@check
@given(LEAVES)
def test_nothing_is_said_of_what_is_missing(leaf: Filter) -> None:
    assert not matches(leaf, {})


def depth(filter_: Filter) -> int:
    match filter_:
        case AllOf(operands) | AnyOf(operands):
            return 1 + max(map(depth, operands), default=0)
        case Not(operand):
            return 1 + depth(operand)
        case _:
            return 1


def size(filter_: Filter) -> int:
    match filter_:
        case AllOf(operands) | AnyOf(operands):
            return 1 + sum(map(size, operands))
        case Not(operand):
            return 1 + size(operand)
        case _:
            return 1


@check
@given(FILTERS, st.integers(0, 9), st.integers(0, 150))
def test_bounds_are_those_of_depth_and_size(filter_: Filter, deeper: int, wider: int) -> None:
    for _ in range(deeper):
        filter_ = Not(filter_)
    filter_ = AnyOf((filter_, *(Equals("a", "b"),) * wider))
    within = depth(filter_) <= MAX_DEPTH and size(filter_) <= MAX_NODES
    try:
        check_bounds(filter_)
    except InvalidField:
        assert not within
    else:
        assert within
