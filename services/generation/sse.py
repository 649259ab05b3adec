"""Server-sent events, as far as streaming chat completions use them: bytes in, the data of complete events out. Pure.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html (event stream interpretation). Lines are cut
on bytes because str.splitlines also cuts at characters that JSON strings may hold, such as U+2028.
"""

from __future__ import annotations

MAX_EVENT_BYTES = 1 << 20


class EventTooLarge(ValueError):
    """An event is longer than ``MAX_EVENT_BYTES``."""


class SseDecoder:
    """Decodes one stream; the result does not depend on how the bytes were cut into pieces."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._data: list[bytes] = []
        self._size = 0
        self._after_cr = False

    def feed(self, piece: bytes) -> list[str]:
        """Return the data of the events that ``piece`` completes; raise EventTooLarge for one that never ends.

        Comments and fields other than ``data`` are skipped; bytes that are not UTF-8 are replaced.
        """
        events: list[str] = []
        for byte_line in self._lines(piece):
            event = self._line(byte_line)
            if event is not None:
                events.append(event)
        if len(self._rest) + self._size > MAX_EVENT_BYTES:
            raise EventTooLarge("an event is too large")
        return events

    def _lines(self, piece: bytes) -> list[bytes]:
        if self._after_cr and piece:
            # The "\n" of a "\r\n" that was cut in two does not end another line.
            piece = piece.removeprefix(b"\n")
            self._after_cr = False
        self._after_cr = piece.endswith(b"\r") or (self._after_cr and not piece)
        self._rest += piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, rest = bytes(self._rest).split(b"\n")
        self._rest = bytearray(rest)
        return lines

    def _line(self, line: bytes) -> str | None:
        if not line:
            data, self._data, self._size = self._data, [], 0
            return b"\n".join(data).decode("utf-8", "replace") if data else None
        name, _, value = line.partition(b":")
        if name == b"data":
            value = value.removeprefix(b" ")
            self._data.append(value)
            self._size += len(value) + 1
        return None
