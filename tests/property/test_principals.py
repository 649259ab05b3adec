"""Whatever issuers call users and groups: each name has one principal of its own, and no other spelling counts."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.corpus.errors import InvalidField
from services.corpus.principal import (
    MAX_NAME_BYTES,
    MAX_PRINCIPAL,
    Access,
    Caller,
    is_name,
    is_principal,
    parse_principal,
    principal,
)

KINDS = st.sampled_from(["user", "group"])
# Characters that escapes are made of, and that separate things elsewhere, come up often.
NAMES = st.one_of(
    st.text(alphabet="ab%20 2fF/:,*|@._-+~\\\"'\u00fc\u200b\u0430", max_size=12),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=40),
    st.text(max_size=300),
)


@given(KINDS, KINDS, NAMES, NAMES)
@settings(deadline=None, max_examples=300)
def test_two_names_never_share_a_principal(kind: str, other_kind: str, name: str, other: str) -> None:
    if is_name(kind, name) and is_name(other_kind, other):
        same = (kind, name) == (other_kind, other)
        assert (principal(kind, name) == principal(other_kind, other)) == same


@given(KINDS, NAMES)
@settings(deadline=None, max_examples=300)
def test_a_principal_is_read_as_it_was_written_and_gives_its_name_back(kind: str, name: str) -> None:
    if not is_name(kind, name):
        with pytest.raises(InvalidField):
            principal(kind, name)
        return
    written = principal(kind, name)
    assert parse_principal(written) == written
    assert Access.of([written]).admits(frozenset({written}))
    assert re.fullmatch(r"(user|group):[A-Za-z0-9%][A-Za-z0-9._@+%\-]*", written)
    assert len(written) <= MAX_PRINCIPAL
    given_back = re.sub(rb"%(..)", lambda found: bytes.fromhex(found[1].decode()), written.partition(":")[2].encode())
    assert given_back.decode() == name


@given(KINDS, st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._@+\-]{0,127}", fullmatch=True))
@settings(deadline=None)
def test_a_plain_name_stays_as_it_is(kind: str, name: str) -> None:
    assert principal(kind, name) == f"{kind}:{name}"


@given(KINDS, st.text(alphabet="abAF09%: /._-", max_size=20))
@settings(deadline=None, max_examples=300)
def test_every_text_that_is_read_as_a_principal_is_the_spelling_of_some_name(kind: str, quoted: str) -> None:
    text = f"{kind}:{quoted}"
    if not is_principal(text):
        # If it was meant as a name, the message spells it in the way that counts.
        right = re.escape(f"'{principal(kind, quoted)}'") if is_name(kind, quoted) else "must be"
        with pytest.raises(InvalidField, match=right):
            parse_principal(text)
        return
    name = re.sub(rb"%(..)", lambda found: bytes.fromhex(found[1].decode()), quoted.encode()).decode()
    assert principal(kind, name) == text


@given(st.lists(NAMES, max_size=6), NAMES)
@settings(deadline=None, max_examples=200)
def test_a_caller_is_admitted_by_the_groups_that_they_are_in_and_by_no_others(names: list[str], asked: str) -> None:
    groups = frozenset(name for name in names if is_name("group", name))
    caller = Caller("acme", "auth0|5f7c", groups)
    if is_name("group", asked):
        assert Access.of([principal("group", asked)]).admits(caller.principals) == (asked in groups)


@given(st.text(max_size=8), KINDS)
@settings(deadline=None)
def test_what_is_a_principal_already_becomes_no_name(text: str, kind: str) -> None:
    for name in (f"user:{text}", f"group:{text}", "tenant:*"):
        try:
            parse_principal(name)
        except InvalidField:
            continue
        assert not is_name(kind, name)


@pytest.mark.parametrize("kind", ["user", "group"])
def test_names_are_bounded_in_bytes(kind: str) -> None:
    most = MAX_NAME_BYTES[kind]
    for name in ("a" * most, "ü" * (most // 2), " " * most):
        assert parse_principal(principal(kind, name))
        assert not is_name(kind, name + "a")
