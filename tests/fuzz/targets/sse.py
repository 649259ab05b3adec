"""Server-sent events: the same events wherever the bytes are cut, each within its bound; nothing but EventTooLarge."""

from __future__ import annotations

from services.generation.completions.sse import MAX_EVENT_BYTES, Event, EventTooLarge, SseDecoder
from tests.fuzz.source import Source

SEEDS = (
    b'data: {"a": 1}\n\ndata: [DONE]\n\n\x03\x02',
    b"\xef\xbb\xbfevent: error\r\ndata: one\r\ndata: two\r\n\r\n: ping\r\rid: 7\rdata\n\n\x09\x04\x02",
    b"data:x\r\n\rdata: last\x01\x01",
)


def around(run: bytes) -> list[bytes]:
    """Inputs with a long run in them."""
    return [b"data: " + run, run + b"\n\ndata: x"]


def fuzz(data: bytes) -> None:
    """See the module."""
    source = Source(data)
    pieces = source.cuts(data)
    found = _events([bytes(piece) for piece in pieces])
    assert found == _events([data])
    assert found is None or found == _events([data[at : at + 1] for at in range(len(data))])
    for event in found or ():
        assert len(event.data) <= MAX_EVENT_BYTES
        event.data.encode()


def _events(pieces: list[bytes]) -> list[Event] | None:
    decoder = SseDecoder()
    try:
        return [event for piece in pieces for event in decoder.feed(piece)] + decoder.finish()
    except EventTooLarge:
        return None
