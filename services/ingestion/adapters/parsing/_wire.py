"""What the pool and its workers say to each other over pipes. Pure.

Everything is a frame: its length in four bytes (big-endian), then that many bytes. A request is two frames, a header
in JSON and the document's bytes as they are. An answer is several frames of JSON: the document, its passages in
batches (so that reading one never holds the event loop for long), the end; or one failure. The parent trusts a worker
no more than the document it reads: nothing is unpickled, and every field is checked.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any

from services.corpus.chunk import Passage
from services.corpus.document import MediaType
from services.ingestion.parsed import ChunkLimits, FailureReason, ParseFailure, SplitDocument

LENGTH = struct.Struct("!I")
MAX_FRAME_BYTES = 32 * 1024 * 1024
# No honest answer comes near: all the text there may be, in four-byte characters, with its overlaps and paths.
MAX_ANSWER_BYTES = 256 * 1024 * 1024
# How a worker says that it ran out of memory so badly that it could not answer.
EXIT_OUT_OF_MEMORY = 77
READY = b'["ready"]'
_BATCH_CHARS = 64 * 1024
_MAX_MESSAGE_CHARS = 400


def frame(payload: bytes) -> bytes:
    """``payload`` with its length before it."""
    return LENGTH.pack(len(payload)) + payload


def encode_request(media_type: MediaType, limits: ChunkLimits, cpu_seconds: int) -> bytes:
    """The header of a request; ``cpu_seconds`` is what the worker may compute for it before the kernel ends it."""
    fields = [media_type.value, limits.target_chars, limits.max_chars, limits.overlap_chars, cpu_seconds]
    return json.dumps(fields).encode()


def decode_request(header: bytes) -> tuple[MediaType, ChunkLimits, int]:
    """Read back what :func:`encode_request` wrote."""
    media_type, target, maximum, overlap, cpu_seconds = json.loads(header)
    return MediaType(media_type), ChunkLimits(target, maximum, overlap), cpu_seconds


def encode_failure(failure: ParseFailure) -> bytes:
    """A failure as the payload of a frame."""
    return _json(["failure", failure.reason.value, failure.message, failure.detail])


def encode_document(document: SplitDocument) -> Iterator[bytes]:
    """A result as the payloads of frames."""
    yield _json(["document", document.title, document.text_length])
    batch: list[list[Any]] = []
    size = 0
    for passage in document.passages:
        batch.append([passage.text, passage.start, passage.end, passage.headings, passage.page])
        size += len(passage.text)
        if size >= _BATCH_CHARS:
            yield _json(["passages", batch])
            batch, size = [], 0
    if batch:
        yield _json(["passages", batch])
    yield _json(["end"])


class Answer:
    """Puts an answer together from its frames."""

    def __init__(self) -> None:
        self._title: str | None = None
        self._text_length: int | None = None
        self._passages: list[Passage] = []

    def add(self, payload: bytes) -> SplitDocument | ParseFailure | None:
        """Take one frame; return the outcome once it is complete. Raises ValueError on anything unexpected."""
        match json.loads(payload):
            case ["document", title, int(text_length)] if self._text_length is None and (
                title is None or isinstance(title, str)
            ):
                self._title, self._text_length = title, text_length
            case ["passages", list(batch)] if self._text_length is not None:
                self._passages += [self._passage(fields) for fields in batch]
            case ["end"] if self._text_length is not None and self._passages:
                return SplitDocument(self._title, self._text_length, tuple(self._passages))
            case ["failure", str(reason), str(message), str(detail)] if self._text_length is None:
                # Shown to the person who sent the document: keep it a line of plain text, whatever the worker says.
                shown = "".join(character for character in message[:_MAX_MESSAGE_CHARS] if character.isprintable())
                return ParseFailure(FailureReason(reason), shown, detail=detail[:_MAX_MESSAGE_CHARS])
            case _:
                raise ValueError("not a frame of an answer")
        return None

    def _passage(self, fields: object) -> Passage:
        match fields:
            case [str(text), int(start), int(end), list(headings), int(page)] if (
                0 <= start < end <= (self._text_length or 0)
                and len(text) == end - start
                and all(isinstance(heading, str) for heading in headings)
                and page >= 0
            ):
                return Passage(text, start, end, tuple(headings), page)
            case _:
                raise ValueError("not a passage")


def _json(fields: list[Any]) -> bytes:
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
