"""Filters: what a comparison means, and the bounds that keep one from costing too much."""

from __future__ import annotations

import pytest

from services.corpus.errors import InvalidField
from services.corpus.filter import (
    MAX_DEPTH,
    MAX_NODES,
    MAX_VALUES,
    AllOf,
    AnyOf,
    Equals,
    Filter,
    In,
    Metadata,
    Not,
    Range,
    check_bounds,
    matches,
)

METADATA: Metadata = {
    "title": "Travel policy",
    "year": 2024.0,
    "zero": 0.0,
    "draft": False,
    "final": True,
    "tags": ("travel", "hr"),
    "none": (),
    "date": "2024-05-17",
    "empty": "",
}


@pytest.mark.parametrize(
    ("filter_", "wanted"),
    [
        (None, True),
        (Equals("title", "Travel policy"), True),
        (Equals("title", "travel policy"), False),
        (Equals("year", 2024.0), True),
        (Equals("year", "2024"), False),
        (Equals("draft", False), True),
        (Equals("final", False), False),
        # True == 1.0 and False == 0.0 in Python.
        (Equals("final", 1.0), False),
        (Equals("zero", False), False),
        (Equals("draft", 0.0), False),
        (Equals("missing", ""), False),
        (Equals("empty", ""), True),
        (Equals("tags", "hr"), True),
        (Equals("tags", "h"), False),
        (Equals("tags", 1.0), False),
        (Equals("none", ""), False),
        (In("year", (2023.0, 2024.0)), True),
        (In("year", ("2024",)), False),
        (In("year", ()), False),
        (In("tags", ("finance", "hr")), True),
        (In("tags", ("finance",)), False),
        (In("missing", ("x",)), False),
        (In("final", (1.0, "True")), False),
        (Range("year", 2024.0, 2024.0), True),
        (Range("year", 2024.5, None), False),
        (Range("year", None, 2023.9), False),
        (Range("year", "2000", None), False),
        (Range("date", "2024-01-01", "2024-12-31"), True),
        (Range("date", "2024-06-01", None), False),
        (Range("date", None, "2024-05-17"), True),
        (Range("date", None, "2024-05-16"), False),
        (Range("date", 0.0, None), False),
        (Range("date", "a", 1.0), False),
        (Range("date", None, ""), False),
        (Range("empty", None, ""), True),
        (Range("zero", 0.0, 0.0), True),
        (Range("zero", None, -0.5), False),
        (Range("tags", "a", "z"), False),
        (Range("final", 0.0, 2.0), False),
        (Range("missing", None, None), False),
        (Range("year", None, None), True),
        (AllOf(()), True),
        (AnyOf(()), False),
        (AllOf((Equals("final", True), Equals("year", 2024.0))), True),
        (AllOf((Equals("final", True), Equals("year", 2023.0))), False),
        (AnyOf((Equals("final", False), Equals("year", 2024.0))), True),
        (AnyOf((Equals("final", False), Equals("year", 2023.0))), False),
        (Not(Equals("missing", "x")), True),
        (Not(Equals("title", "Travel policy")), False),
        (Not(AllOf(())), False),
    ],
)
def test_what_a_filter_means(filter_: Filter | None, wanted: bool) -> None:
    assert matches(filter_, METADATA) is wanted


def nested(depth: int) -> Filter:
    filter_: Filter = Equals("a", "b")
    for i in range(depth - 1):
        filter_ = Not(filter_) if i % 2 else AllOf((filter_,))
    return filter_


def test_depth_is_bounded() -> None:
    check_bounds(nested(MAX_DEPTH))
    with pytest.raises(InvalidField, match=rf"^where: nested deeper than {MAX_DEPTH} levels$"):
        check_bounds(nested(MAX_DEPTH + 1), "where")
    with pytest.raises(InvalidField):
        check_bounds(nested(50_000))


@pytest.mark.parametrize("kind", [AllOf, AnyOf])
def test_size_is_bounded(kind: type[AllOf | AnyOf]) -> None:
    leaf = Equals("a", "b")
    check_bounds(kind((leaf,) * (MAX_NODES - 1)))
    with pytest.raises(InvalidField, match=rf"more than {MAX_NODES} conditions"):
        check_bounds(kind((leaf,) * MAX_NODES))
    with pytest.raises(InvalidField):
        check_bounds(kind((kind((leaf,) * (MAX_NODES // 2)),) * 3))


def test_values_are_bounded() -> None:
    check_bounds(In("a", ("b",) * MAX_VALUES))
    with pytest.raises(InvalidField, match=rf"more than {MAX_VALUES} values"):
        check_bounds(Not(In("a", ("b",) * (MAX_VALUES + 1))))


def test_no_filter_is_within_bounds() -> None:
    check_bounds(None)
