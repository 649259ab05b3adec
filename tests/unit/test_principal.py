"""Principals and access lists: who may read."""

from __future__ import annotations

import re

import pytest

from services.corpus.document import parse_identifier
from services.corpus.errors import InvalidField
from services.corpus.principal import EVERYBODY, MAX_READERS, Access, Caller, parse_principal


@pytest.mark.parametrize(
    "text",
    [
        *("user:alice", "group:hr", "tenant:*", "user:a.b_c@example.org+x-1", "user:0", "group:" + "a" * 256),
        *("user:auth0%7C5f7c", "group:%2Fhr", "group:Human%20Resources", "group:B%C3%BCro", "group:a%2520b"),
        *("group:%2Dx-", "user:CN%3DHR%2COU%3DG"),
    ],
)
def test_well_formed_principals(text: str) -> None:
    assert parse_principal(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "alice",
        "user:",
        "user:*",
        "group:*",
        "tenant:acme",
        "tenant:",
        "tenant:**",
        "role:admin",
        "User:alice",
        "user: alice",
        "user:alice ",
        "user:alice\n",
        "\nuser:alice",
        "user:-alice",
        "user:al ice",
        "user:ali\0ce",
        "user:älice",
        "user:a:b",
        "user:" + "a" * 129,
        "group:" + "a" * 257,
        # Other spellings of what has one, and escapes of nothing.
        "group:%68r",
        "group:%2fhr",
        "group:a%2",
        "group:%C3",
        "group:%ED%A0%80",
        "group:%0A",
        "group:%00",
        "user:user%3Aalice",
        "group:tenant%3A%2A",
    ],
)
def test_malformed_principals(text: str) -> None:
    with pytest.raises(InvalidField, match=r"^access\.readers\[3\]: must be"):
        parse_principal(text, "access.readers[3]")


def test_the_message_spells_a_name_in_the_way_that_counts() -> None:
    for text, right in (
        ("group:Human Resources", "group:Human%20Resources"),
        ("group:/hr", "group:%2Fhr"),
        ("user:auth0|5f7c", "user:auth0%7C5f7c"),
        ("group:a%20b ", "group:a%2520b%20"),
        ("group:Büro", "group:B%C3%BCro"),
    ):
        with pytest.raises(InvalidField, match=re.escape(f"'{right}'")):
            parse_principal(text)


def test_an_access_list_names_the_reader_that_is_wrong() -> None:
    with pytest.raises(InvalidField) as wrong:
        Access.of(["user:a", "nobody"], "documents[0].access.readers")
    assert wrong.value.path == "documents[0].access.readers[1]"


def test_an_access_list_is_a_bounded_set() -> None:
    assert Access.of(["user:a", "group:b", "user:a"]).readers == {"user:a", "group:b"}
    assert len(Access.of(f"user:u{i}" for i in range(MAX_READERS)).readers) == MAX_READERS
    with pytest.raises(InvalidField, match=f"at most {MAX_READERS}"):
        Access.of(f"user:u{i}" for i in range(MAX_READERS + 1))


ALICE = Caller("acme", "alice", frozenset({"hr", "staff"}))


def test_what_a_caller_answers_to() -> None:
    assert ALICE.principals == {"tenant:*", "user:alice", "group:hr", "group:staff"}
    assert Caller("acme", "bob").principals == {EVERYBODY, "user:bob"}


@pytest.mark.parametrize(
    ("readers", "admitted"),
    [
        ([], False),
        (["user:alice"], True),
        (["user:bob"], False),
        (["group:alice"], False),
        (["user:hr"], False),
        (["group:hr", "user:bob"], True),
        (["tenant:*"], True),
    ],
)
def test_who_is_admitted(readers: list[str], admitted: bool) -> None:
    assert Access.of(readers).admits(ALICE.principals) is admitted


@pytest.mark.parametrize("text", ["default", "a", "7", "A.b_c-d", "x" * 128])
def test_well_formed_identifiers(text: str) -> None:
    assert parse_identifier(text, "collection") == text


@pytest.mark.parametrize("text", ["", ".", "..", "-x", "_x", "a/b", "a b", "a\n", "x" * 129, "é", "a\0", "../etc"])
def test_malformed_identifiers(text: str) -> None:
    with pytest.raises(InvalidField, match=r"^collection: must be 1 to 128"):
        parse_identifier(text, "collection")
