"""Page tokens."""

from __future__ import annotations

import base64

import pytest

from services.corpus.errors import Violations
from services.runtime.paging import read_token, write_token

SCOPE = ("documents", "default", "")


def read(token: str, *scope: str) -> tuple[str, list[str]]:
    violations = Violations()
    return read_token(token, violations, *scope), [violation.field for violation in violations.found]


def test_a_token_leads_back_to_where_it_was_written() -> None:
    assert read(write_token("travel-policy", *SCOPE), *SCOPE) == ("travel-policy", [])


def test_no_token_is_the_first_page() -> None:
    assert read("", *SCOPE) == ("", [])


@pytest.mark.parametrize(
    "scope",
    [
        ("documents", "legal", ""),
        ("documents", "default", "0a"),
        ("documents", "default"),
        ("documents", "default", "", ""),
        ("documentsdefault", "", ""),
        (),
    ],
)
def test_a_token_belongs_to_one_request(scope: tuple[str, ...]) -> None:
    assert read(write_token("a", *SCOPE), *scope) == ("", ["page_token"])


def test_joined_scopes_are_not_the_same() -> None:
    assert read(write_token("a", "b\0c", "d"), "b", "c\0d") == ("", ["page_token"])
    assert read(write_token("a", "b"), "a", "b") == ("", ["page_token"])


@pytest.mark.parametrize(
    "token",
    [
        "x",
        "=",
        "====",
        "\0",
        "ä",
        "not base64!",
        "A" * 8,
        base64.urlsafe_b64encode(b"\xff" * 20).decode(),
        "Ww" * 50_000,  # [[[[…, for whoever parses it as JSON
        "a" * 1_000_000,
    ],
)
def test_what_was_made_up_is_a_violation(token: str) -> None:
    assert read(token, *SCOPE) == ("", ["page_token"])


def test_a_token_cannot_be_moved_to_another_place() -> None:
    first, second = write_token("aaaaaa", *SCOPE), write_token("bbbbbb", *SCOPE)
    # The checksum of the one and the position of the other, at every place where they could be joined.
    for place in range(1, len(first)):
        joined = first[:place] + second[place:]
        if joined not in (first, second):
            assert read(joined, *SCOPE) == ("", ["page_token"])


def test_another_spelling_of_the_same_bytes_is_a_violation() -> None:
    token = write_token("ab", *SCOPE)
    padded = token + "=" * (-len(token) % 4)
    assert padded != token
    for spelled in (padded, f"{token[:4]}\n{token[4:]}", f" {token}"):
        assert read(spelled, *SCOPE) == ("", ["page_token"])


def test_the_field_is_named_as_asked() -> None:
    violations = Violations()
    read_token("?", violations, path="paging.token")
    assert violations.found[0].field == "paging.token"
