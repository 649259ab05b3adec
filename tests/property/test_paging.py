"""Page tokens, whatever they hold."""

from __future__ import annotations

import string

from hypothesis import assume, given
from hypothesis import strategies as st

from services.corpus.errors import Violations
from services.runtime.paging import read_token, write_token

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
# Mostly what a token is made of, so that it stays readable.
replacements = st.sampled_from(string.ascii_letters + string.digits + "-_") | st.characters(exclude_categories=["Cs"])
scopes = st.lists(texts, max_size=4)


@given(texts, scopes)
def test_reading_gives_back_what_was_written(after: str, scope: list[str]) -> None:
    violations = Violations()
    assert read_token(write_token(after, *scope), violations, *scope) == after
    assert not violations


@given(texts, scopes, scopes)
def test_another_scope_is_refused(after: str, scope: list[str], other: list[str]) -> None:
    assume(scope != other)
    violations = Violations()
    assert read_token(write_token(after, *scope), violations, *other) == ""
    assert violations


@given(texts, scopes, st.data())
def test_a_changed_token_is_refused(after: str, scope: list[str], data: st.DataObject) -> None:
    token = write_token(after, *scope)
    place = data.draw(st.integers(0, len(token) - 1))
    changed = token[:place] + data.draw(replacements) + token[place + 1 :]
    shorter = token[:place]
    for wrong in (changed, shorter):
        if wrong in (token, ""):
            continue
        violations = Violations()
        assert read_token(wrong, violations, *scope) == ""
        assert violations


@given(st.text(st.characters(exclude_categories=["Cs"])) | st.from_regex(r"[A-Za-z0-9_\-]*", fullmatch=True))
def test_anything_at_all_is_read_or_refused(token: str) -> None:
    violations = Violations()
    assert read_token(token, violations, "scope") == ""
    assert bool(violations) == bool(token)
