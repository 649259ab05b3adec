"""Server-sent events, as servers really send them."""

from __future__ import annotations

import pytest

from services.generation.sse import MAX_EVENT_BYTES, EventTooLarge, SseDecoder


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: a\n\ndata: b\n\n", ["a", "b"]),
        (b"data: a\r\n\r\ndata: b\r\r", ["a", "b"]),
        (b": a comment\ndata:no blank\nid: 7\nevent: x\n\n", ["no blank"]),
        (b"data: two\ndata: lines\n\n", ["two\nlines"]),
        (b"\n\n\ndata: [DONE]\n\n", ["[DONE]"]),
        (b"data: never ended\n", []),
        (b"data\n\n", [""]),
        ("data: line\u2028separator é\n\n".encode(), ["line\u2028separator é"]),
        (b"data: \xff\n\n", ["\ufffd"]),
    ],
)
def test_events_are_read(stream: bytes, events: list[str]) -> None:
    assert SseDecoder().feed(stream) == events


def test_a_line_break_that_is_cut_in_two_ends_one_line() -> None:
    decoder = SseDecoder()
    assert decoder.feed(b"data: a\r") == []
    assert decoder.feed(b"") == []
    assert decoder.feed(b"\ndata: b\r\n") == []
    assert decoder.feed(b"\r") == ["a\nb"]


@pytest.mark.parametrize("line", [b"x" * (MAX_EVENT_BYTES // 2), b"data: " + b"x" * (MAX_EVENT_BYTES // 2) + b"\n"])
def test_an_event_without_end_is_refused(line: bytes) -> None:
    decoder = SseDecoder()
    decoder.feed(line)
    decoder.feed(line[:-8])
    with pytest.raises(EventTooLarge):
        decoder.feed(line)
