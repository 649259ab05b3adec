"""Passages as bytes: stores keep them unread, so they must survive, and damage must show."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.corpus.chunk import Passage, chunk_id
from services.corpus.errors import DataLoss

texts = st.text(st.characters(codec="utf-8"))
offsets = st.integers(0, 2**40)


@settings(deadline=None, max_examples=100)
@given(st.builds(Passage, texts, offsets, offsets, st.lists(texts, max_size=4).map(tuple), st.integers(0, 10_000)))
def test_a_passage_comes_back_as_it_was(passage: Passage) -> None:
    assert Passage.from_payload(passage.to_payload()) == passage


def test_text_is_kept_readable_and_short() -> None:
    assert Passage("Größe", 1, 6, ("§ 1",), 2).to_payload() == '{"t":"Größe","s":1,"e":6,"h":["§ 1"],"p":2}'.encode()


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"null",
        b"7",
        b"[]",
        b"{}",
        b"\xff\xfe\x00",
        b'{"t":"x","s":0,"e":1,"h":[]}',
        b'{"t":"x","s":"zero","e":1,"h":[],"p":0}',
        b'{"t":"x","s":0,"e":1,"h":null,"p":0}',
        b'{"t":"x","s":0,"e":null,"h":[],"p":0}',
    ],
)
def test_damage_is_told_without_what_was_damaged(payload: bytes) -> None:
    with pytest.raises(DataLoss) as damaged:
        Passage.from_payload(payload)
    assert damaged.value.message == "a stored passage cannot be read"


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=60))
def test_any_bytes_are_a_passage_or_damaged(payload: bytes) -> None:
    try:
        Passage.from_payload(payload)
    except DataLoss:
        return
    assert isinstance(json.loads(payload), dict)


def test_chunk_ids_tell_documents_versions_and_places_apart() -> None:
    places = [(d, v, o) for d in ("a", "a#1", "a#1.1", "b") for v in (1, 2, 11) for o in (0, 1, 11)]
    assert len({chunk_id(*place) for place in places}) == len(places)
    assert chunk_id("travel-policy", 3, 0) == "travel-policy#3.0"
