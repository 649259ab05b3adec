"""Server-sent events: bytes in, events out. Pure; the time taken is linear in the bytes, however they are cut.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html (parsing and interpreting an event stream), with
one difference: an event that the stream ends in, without the blank line behind it, is read and not dropped, because
servers end like that. Lines are cut on bytes because str.splitlines also cuts at characters that JSON strings may
hold, such as U+2028.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_EVENT_BYTES = 256 * 1024
"""Of the data of one event, or of one line."""
MAX_LINES = 500_000
"""Of one stream, comments and blank ones included."""
_BREAK = re.compile(rb"\r\n|\r|\n")
_BOM = b"\xef\xbb\xbf"


class EventTooLarge(ValueError):
    """An event is longer than ``MAX_EVENT_BYTES``, or a stream than ``MAX_LINES``."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event: the lines of its ``data``, joined by line feeds, and its type, "" where it has none.

    ``whole`` tells that it is the body of an answer that was not streamed.
    """

    data: str
    name: str = ""
    whole: bool = False


class SseDecoder:
    """Decodes one stream; the result does not depend on how the bytes were cut into pieces."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._first = True
        self._after_cr = False
        self._data: list[bytes] = []
        self._size = 0
        self._name = b""
        self._lines = 0

    def feed(self, piece: bytes) -> list[Event]:
        """Return the events that ``piece`` completes; raise EventTooLarge for one that never ends.

        Comments and fields other than ``data`` and ``event`` are skipped; bytes that are not UTF-8 are replaced.
        """
        if not piece:
            return []
        # The "\n" of a "\r\n" that was cut in two does not end another line.
        start = 1 if self._after_cr and piece[:1] == b"\n" else 0
        self._after_cr = piece.endswith(b"\r")
        events: list[Event] = []
        for end in _BREAK.finditer(piece, start):
            self._line += piece[start : end.start()]
            start = end.end()
            self._end_line(events)
        self._line += piece[start:]
        self._check()
        return events

    def finish(self) -> list[Event]:
        """Return the event that the stream ended in, if there is one."""
        events: list[Event] = []
        if self._line:
            self._end_line(events)
        self._dispatch(events)
        return events

    def _check(self) -> None:
        if len(self._line) + self._size > MAX_EVENT_BYTES:
            raise EventTooLarge("an event is too large")

    def _end_line(self, events: list[Event]) -> None:
        self._lines += 1
        if self._lines > MAX_LINES:
            raise EventTooLarge("a stream has too many lines")
        self._check()
        line = bytes(self._line)
        self._line.clear()
        if self._first:
            line = line.removeprefix(_BOM)
            self._first = False
        if not line:
            self._dispatch(events)
            return
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
            self._size += len(value) + 1
        elif name == b"event":
            self._name = value

    def _dispatch(self, events: list[Event]) -> None:
        if self._data:
            data, name = b"\n".join(self._data), self._name
            events.append(Event(data.decode("utf-8", "replace"), name.decode("utf-8", "replace")))
        self._data, self._size, self._name = [], 0, b""
