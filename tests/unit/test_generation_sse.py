"""Server-sent events, as servers really send them."""

from __future__ import annotations

import pytest

from services.generation.completions.sse import MAX_EVENT_BYTES, MAX_LINES, Event, EventTooLarge, SseDecoder


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
    assert [event.data for event in SseDecoder().feed(stream)] == events


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: never ended\n", [Event("never ended")]),
        (b"data: not even its line", [Event("not even its line")]),
        (b"data: a\n\ndata: b\ndata: c", [Event("b\nc")]),
        (b"event: error\ndata: {}", [Event("{}", "error")]),
        (b"data: a\n\n", []),
        (b"event: lonely\n", []),
        (b": comment", []),
        (b"\xef\xbb\xbfdata: behind a mark", [Event("behind a mark")]),
    ],
)
def test_the_event_that_a_stream_ends_in_is_read(stream: bytes, events: list[Event]) -> None:
    for size in (1, 2, len(stream)):
        decoder = SseDecoder()
        for start in range(0, len(stream), size):
            decoder.feed(stream[start : start + size])
        assert decoder.finish() == events
        assert decoder.finish() == []


def test_events_have_the_type_that_their_own_lines_give() -> None:
    stream = b"\xef\xbb\xbfevent: ping\ndata: {}\n\ndata: a\n\nevent: error\nid: 1\nretry: 5\ndata:b\n\n"
    expected = [Event("{}", "ping"), Event("a"), Event("b", "error")]
    assert SseDecoder().feed(stream) == expected
    decoder = SseDecoder()
    assert [event for byte in stream for event in decoder.feed(bytes([byte]))] == expected


def test_a_line_break_that_is_cut_in_two_ends_one_line() -> None:
    decoder = SseDecoder()
    assert decoder.feed(b"data: a\r") == []
    assert decoder.feed(b"") == []
    assert decoder.feed(b"\ndata: b\r\n") == []
    assert decoder.feed(b"\r") == [Event("a\nb")]


@pytest.mark.parametrize("line", [b"x" * (MAX_EVENT_BYTES // 2), b"data: " + b"x" * (MAX_EVENT_BYTES // 2) + b"\n"])
def test_an_event_without_end_is_refused(line: bytes) -> None:
    decoder = SseDecoder()
    decoder.feed(line)
    decoder.feed(line[:-8])
    with pytest.raises(EventTooLarge):
        decoder.feed(line)


@pytest.mark.parametrize("line", [b"\n", b": ping\n", b"retry: 5\r\n"])
def test_a_stream_of_lines_without_end_is_refused(line: bytes) -> None:
    """(G2)."""
    decoder = SseDecoder()
    assert decoder.feed(line * MAX_LINES) == []
    with pytest.raises(EventTooLarge):
        decoder.feed(line)
