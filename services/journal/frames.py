r"""The bytes of a segment file. Pure.

    segment = header frame*
    header  = "GWJRNL1\n", the first frame's sequence number (8 bytes), CRC-32 of both (4)
    frame   = A9 "GWF", length of the payload (4), sequence number (8), position (4), CRC-32 (4), payload

Numbers are big-endian; the CRC-32 (IEEE 802.3, as zlib's) of a frame is over everything between its magic and the
CRC, and the payload. ``position`` counts the frames that were written before it in the same write: a write begins
only after the one before it is durable, so a whole frame of a later write proves that a bad one was damaged
afterwards, and was not torn by a crash.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

MAX_PAYLOAD = 16 * 1024 * 1024
_MAGIC = b"\xa9GWF"
_FRAME = struct.Struct(">4sIQII")
_CHECKED = struct.Struct(">IQI")
_HEADER = struct.Struct(">8sQI")
_HEADER_MAGIC = b"GWJRNL1\n"
HEADER_SIZE = _HEADER.size
FRAME_OVERHEAD = _FRAME.size


@dataclass(frozen=True, slots=True)
class Frame:
    """A whole frame; ``end`` is the offset behind it."""

    sequence: int
    position: int
    payload: bytes
    end: int


def write_header(first: int) -> bytes:
    """The header of a segment whose first frame has the sequence number ``first``."""
    head = _HEADER_MAGIC + first.to_bytes(8, "big")
    return head + crc32(head).to_bytes(4, "big")


def write_frames(first: int, payloads: Sequence[bytes]) -> tuple[bytes, list[int]]:
    """The frames of one write, and the offset of each in it."""
    parts: list[bytes] = []
    offsets: list[int] = []
    offset = 0
    for position, payload in enumerate(payloads):
        length, sequence = len(payload), first + position
        check = crc32(payload, crc32(_CHECKED.pack(length, sequence, position)))
        parts += (_FRAME.pack(_MAGIC, length, sequence, position, check), payload)
        offsets.append(offset)
        offset += FRAME_OVERHEAD + length
    return b"".join(parts), offsets


def read_frame(data: bytes, offset: int) -> Frame | None:
    """The whole frame at ``offset``, or None: cut, damaged, or none at all."""
    begin = offset + FRAME_OVERHEAD
    if begin > len(data):
        return None
    magic, length, sequence, position, check = _FRAME.unpack_from(data, offset)
    end = begin + length
    if magic != _MAGIC or length > MAX_PAYLOAD or end > len(data):
        return None
    payload = data[begin:end]
    if crc32(payload, crc32(data[offset + 4 : offset + 20])) != check:
        return None
    return Frame(sequence, position, payload, end)


def is_cut(data: bytes, offset: int) -> bool:
    """Whether what is at ``offset`` may be the beginning of a frame whose rest is missing."""
    rest = data[offset : offset + FRAME_OVERHEAD]
    if len(rest) < FRAME_OVERHEAD:
        return rest[:4] == _MAGIC[: len(rest)]
    magic, length, *_ = _FRAME.unpack(rest)
    return bool(magic == _MAGIC and offset + FRAME_OVERHEAD + length > len(data))


def was_followed(data: bytes, offset: int, sequence: int) -> bool:
    """Whether behind ``offset`` is a whole frame of a write that began after the frame ``sequence`` was durable."""
    at = data.find(_MAGIC, offset)
    while at != -1:
        frame = read_frame(data, at)
        if frame is not None and frame.sequence - frame.position > sequence:
            return True
        at = data.find(_MAGIC, at + 1)
    return False
