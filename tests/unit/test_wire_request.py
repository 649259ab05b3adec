"""Fields that several requests share."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from services.corpus.errors import Violations
from services.runtime import wire_request


def violated(check: Callable[[Violations], object]) -> list[str]:
    violations = Violations()
    check(violations)
    return [violation.field for violation in violations.found]


@pytest.mark.parametrize(
    ("query", "wrong"),
    [
        ("What?", 0),
        ("é" * 4096, 0),
        ("🜁" * 4096, 0),
        ("", 1),
        (" \t\n\u00a0\u2003", 1),
        ("x" * 4097, 1),
        ("a\0b", 1),
        ("\0" * 5000, 2),
        (" " * 5000, 2),
    ],
)
def test_queries(query: str, wrong: int) -> None:
    assert violated(lambda violations: wire_request.check_query(query, violations)) == ["query"] * wrong


@pytest.mark.parametrize(
    ("text", "wrong"),
    [("", 0), ("Über – 🜁", 0), ("x" * 10, 0), ("x" * 11, 1), ("a\nb", 1), ("a\x7f", 1), ("\0" * 11, 2)],
)
def test_short_texts(text: str, wrong: int) -> None:
    assert violated(lambda violations: wire_request.check_text(text, "title", 10, violations)) == ["title"] * wrong


def test_collections() -> None:
    def read(names: list[str]) -> list[str]:
        return violated(lambda violations: wire_request.read_collections(names, violations))

    assert read([]) == read(["a"] * 16) == []
    assert read(["ok", "", "a/b", "x" * 129, "-a"]) == [f"collections[{i}]" for i in (1, 2, 3, 4)]
    assert read([""] * 17) == ["collections"]
    violations = Violations()
    assert wire_request.read_collections(["b", "a"], violations) == ("b", "a")


def test_one_collection() -> None:
    violations = Violations()
    assert wire_request.read_collection("", violations) == "default"
    assert wire_request.read_collection("legal", violations) == "legal"
    assert not violations
    assert wire_request.read_collection("le gal", violations, "name") == ""
    assert violations.found[0].field == "name"


@pytest.mark.parametrize("name", ["a", "0", "A.b_c-d", "x" * 128])
def test_identifiers(name: str) -> None:
    assert violated(lambda violations: wire_request.read_identifier(name, "document_id", violations)) == []


@pytest.mark.parametrize("name", ["", ".a", "_a", "-a", "a b", "a/b", "a\n", "ä", "a\0", "x" * 129, "١"])
def test_odd_identifiers(name: str) -> None:
    assert violated(lambda v: wire_request.read_identifier(name, "document_id", v)) == ["document_id"]


@pytest.mark.usefixtures("served_request")
def test_request_ids() -> None:
    violations = Violations()
    assert wire_request.read_request_id("", violations) == "from-the-call"
    assert wire_request.read_request_id("_my.request-1", violations) == "_my.request-1"
    assert not violations
    for wrong in ("a b", "é", "a\n", "x" * 129):
        assert violated(lambda v, wrong=wrong: wire_request.read_request_id(wrong, v)) == ["request_id"]  # type: ignore[misc] # bound


@pytest.mark.parametrize(("value", "read", "wrong"), [(0, 8, 0), (1, 1, 0), (50, 50, 0), (51, 51, 1), (-1, -1, 1)])
def test_counts(value: int, read: int, wrong: int) -> None:
    violations = Violations()
    assert wire_request.read_count(value, "top_k", default=8, most=50, violations=violations) == read
    assert len(violations.found) == wrong


@pytest.mark.parametrize(
    ("value", "wrong"),
    [(0.0, 0), (-0.0, 0), (1.0, 0), (0.5, 0), (-0.1, 1), (1.0001, 1), (math.nan, 1), (math.inf, 1), (-math.inf, 1)],
)
def test_shares(value: float, wrong: int) -> None:
    assert len(violated(lambda violations: wire_request.read_share(value, "min_confidence", violations))) == wrong
