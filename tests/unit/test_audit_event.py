"""Events: one spelling, nothing in it that a terminal obeys, and nothing without a bound."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from services.audit.event import MAX_TEXT, AuditEvent, Decision, decode, encode, escape
from tests.support.audit_world import event


def test_a_leaf_is_canonical_json() -> None:
    leaf = encode(event(3))
    values = json.loads(leaf)
    assert json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode() == leaf
    assert values["time"] == "2026-05-28T20:26:40.003000003Z"
    assert values["query_hmac"] == "03" * 32
    assert values["v"] == 1
    assert decode(leaf) == event(3)


def test_what_is_empty_is_left_out() -> None:
    bare = AuditEvent("x", 1, "", "", "", Decision.DENIED)
    assert json.loads(encode(bare)) == {
        "decision": "denied", "event_id": "x", "time": "1970-01-01T00:00:00.000000001Z", "v": 1
    }  # fmt: skip
    assert decode(encode(bare)) == bare


def test_nothing_is_more_than_text() -> None:
    assert escape("café 日本 ok") == "café 日本 ok"
    assert escape("a\r\nb") == "a\\u000d\\u000ab"
    assert escape("\x1b[2J\x07\x9b\u202e\u2028\x7f") == "\\u001b[2J\\u0007\\u009b\\u202e\\u2028\\u007f"
    assert escape("\\u000a") == "\\\\u000a", "what was escaped cannot be told from what was sent otherwise"
    assert escape("\U000e0001") == "\\U000e0001"
    assert escape("x" * MAX_TEXT) == "x" * MAX_TEXT
    assert escape("x" * 600) == "x" * MAX_TEXT + "…(+88)"
    assert escape("\n" * 600).endswith("…(+3088)") or len(escape("\n" * 600)) < MAX_TEXT + 20


_TEXT = st.text(max_size=60)


@given(
    st.builds(
        AuditEvent,
        event_id=st.from_regex(r"\A[A-Za-z0-9._\-]{1,40}\Z"),
        time=st.integers(1, 253_402_300_799 * 10**9),
        tenant=_TEXT,
        principal=_TEXT,
        method=_TEXT,
        decision=st.sampled_from(Decision),
        code=st.integers(0, 16),
        resource=_TEXT,
        reason=st.text(max_size=2000),
        document_ids=st.lists(_TEXT, max_size=3).map(tuple),
        answer_sha256=st.sampled_from([b"", bytes(32)]),
        duration=st.integers(0, 10**15),
    )
)
def test_every_event_is_safe_bounded_and_read_again(made: AuditEvent) -> None:
    leaf = encode(made)
    assert leaf.isascii()
    assert b"\n" not in leaf
    values = json.loads(leaf)
    for value in values.values():
        for text in value if isinstance(value, list) else [value]:
            assert not isinstance(text, str) or (text.isprintable() and len(text) <= MAX_TEXT + 20)
    again = decode(leaf)
    assert (again.event_id, again.time, again.code, again.decision) == (
        made.event_id,
        made.time,
        made.code,
        made.decision,
    )
    assert again.tenant == escape(made.tenant)
    assert list(values) == sorted(values)
