"""Segments that are damaged or torn: what is read is what was written, up to where it ends; or damage is said."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from random import Random

from services.corpus.errors import GroundwireError
from services.journal.frames import is_cut, read_frame, was_followed, write_frames, write_header
from services.journal.memory import MemoryFiles
from services.journal.segments import DamagedJournalError, Segments, name_of, scan
from services.journal.spool import Kind, Spool
from tests.fuzz.mutations import mutate as mutate_bytes

_PAYLOADS = [b"one", b"", b"\xa9GWF" * 3, b"four" * 9]
_LOOP = asyncio.new_event_loop()


def _frames(payloads: Sequence[bytes]) -> bytes:
    """Each in a write of its own."""
    return b"".join(write_frames(sequence, [payload])[0] for sequence, payload in enumerate(payloads))


def _spooled() -> bytes:
    async def write() -> bytes:
        files = MemoryFiles()
        spool = await Spool.open(files, _nowhere, max_bytes=1 << 20)
        for kind, key in ((Kind.PLAIN, b""), (Kind.OPENS, b"key"), (Kind.OPENS, b"other"), (Kind.CLOSES, b"key")):
            durable = asyncio.get_running_loop().create_future()
            spool.submit(kind, key, b"payload", durable.set_result)
            await durable
        await spool.close()
        return files.read(name_of(0), 0, 1 << 20)

    return _LOOP.run_until_complete(write())


async def _nowhere(_payloads: Sequence[bytes]) -> None:
    raise GroundwireError("nobody takes them")


SEEDS = (
    write_header(0) + _frames(_PAYLOADS),
    write_header(0) + write_frames(0, _PAYLOADS)[0],
    write_header(0),
    _spooled(),
)


def mutate(data: bytes, random: Random, others: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    """Change bytes, or frames before their check sum is made."""
    if random.random() < 0.5:
        return mutate_bytes(data, random, others, words)
    payloads, offset = [], 20
    while (frame := read_frame(data, offset)) is not None:
        payloads.append(frame.payload)
        offset = frame.end
    if payloads:
        at = random.randrange(len(payloads))
        payloads[at] = mutate_bytes(payloads[at], random, others, words)
    return write_header(0) + _frames(payloads)


def fuzz(data: bytes) -> None:
    """See the module."""
    for offset in range(min(len(data), 64)):
        frame = read_frame(data, offset)
        assert frame is None or frame.end <= len(data)
        is_cut(data, offset)
    was_followed(data, 0, 0)
    scanned = _scanned(data)
    recovered = _recovered(data)
    if recovered is not None and scanned is not None:
        assert recovered == scanned
    _open_spool(data)


def _files(data: bytes) -> MemoryFiles:
    files = MemoryFiles()
    handle = files.create(name_of(0))
    files.write(handle, data)
    files.datasync(handle)
    files.sync_directory()
    files.close(handle)
    return files


def _scanned(data: bytes) -> list[bytes] | None:
    try:
        return [payload for _, _, payload in scan(_files(data), name_of(0))]
    except DamagedJournalError:
        return None


def _recovered(data: bytes) -> list[bytes] | None:
    payloads: list[bytes] = []
    segments = Segments(_files(data), segment_bytes=1 << 20)
    try:
        segments.recover(lambda _, payload: payloads.append(payload))
        segments.write([b"more"])
        assert [payload for _, payload in segments.read(0, 1000)] == [*payloads, b"more"]
    except DamagedJournalError:
        return None
    finally:
        segments.close()
    return payloads


def _open_spool(data: bytes) -> None:
    async def open_and_close() -> None:
        spool = await Spool.open(_files(data), _nowhere, max_bytes=1 << 20)
        assert spool.waiting is not None
        await spool.close()

    with contextlib.suppress(GroundwireError):
        _LOOP.run_until_complete(open_and_close())
