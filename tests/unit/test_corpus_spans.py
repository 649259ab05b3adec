"""Places in texts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.corpus.spans import trimmed

TEXTS = st.text(" \n\t\u00a0ab", max_size=30)


@given(before=TEXTS, text=TEXTS, after=TEXTS)
def test_a_trimmed_place_is_what_strip_leaves_and_stays_within(before: str, text: str, after: str) -> None:
    whole = before + text + after
    start, end = trimmed(whole, len(before), len(before) + len(text))
    assert whole[start:end] == text.strip()
    assert len(before) <= start <= end <= len(before) + len(text)
