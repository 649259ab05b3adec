"""The segment files of one journal. Blocking; one thread writes, any may read what is durable."""

from __future__ import annotations

import bisect
import contextlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from services.corpus.errors import DataLoss, Unavailable
from services.journal.frames import (
    FRAME_OVERHEAD,
    HEADER_SIZE,
    is_cut,
    read_frame,
    was_followed,
    write_frames,
    write_header,
)
from services.journal.ports import Files

SUFFIX = ".segment"
# A place in the index for every so many frames: 16 bytes of memory for each.
_INDEXED = 64
_READ_BYTES = 256 * 1024
Visit = Callable[[int, bytes], None]


class DamagedJournalError(DataLoss):
    """A segment is not what was written; ``file`` and ``offset`` say where it begins to differ."""

    def __init__(self, file: str, offset: int, what: str) -> None:
        super().__init__(f"{file}, byte {offset:,}: {what}", metadata={"file": file, "offset": str(offset)})
        self.file = file
        self.offset = offset
        self.what = what


@dataclass(frozen=True)
class Trimmed:
    """A tail that was cut off: it was never acknowledged."""

    file: str
    offset: int
    size: int


@dataclass
class Segment:
    """One file. ``next`` is the sequence number behind its last frame, ``size`` the offset behind it."""

    first: int
    next: int
    size: int = HEADER_SIZE
    sequences: array[int] = field(default_factory=lambda: array("Q"))
    offsets: array[int] = field(default_factory=lambda: array("Q"))

    @property
    def name(self) -> str:
        """The file's name: by it files sort in their order."""
        return name_of(self.first)

    def note(self, sequence: int, offset: int) -> None:
        """Remember where a frame begins, if it is due."""
        if sequence % _INDEXED == 0 or not self.sequences:
            self.offsets.append(offset)
            self.sequences.append(sequence)

    def near(self, sequence: int) -> tuple[int, int]:
        """A frame at or before ``sequence`` and its offset."""
        place = bisect.bisect_right(self.sequences, sequence) - 1
        return (self.sequences[place], self.offsets[place]) if place >= 0 else (self.first, HEADER_SIZE)


def name_of(first: int) -> str:
    """The name of the segment that begins with ``first``."""
    return f"{first:020d}{SUFFIX}"


def segment_names(files: Files) -> list[str]:
    """The names of all segments, in order."""
    return sorted(name for name in files.names() if name.endswith(SUFFIX))


class Segments:
    """All segments of a directory. :meth:`recover` comes first."""

    def __init__(self, files: Files, *, segment_bytes: int) -> None:
        self._files = files
        self._segment_bytes = segment_bytes
        self._segments: list[Segment] = []
        self._handle: int | None = None
        self.failure: Unavailable | None = None
        """Why nothing can be written; None while all is well."""

    @property
    def first(self) -> int:
        """The oldest sequence number that is still there (or the next one, when none is)."""
        return self._segments[0].first

    @property
    def next(self) -> int:
        """The sequence number that the next payload gets."""
        return self._segments[-1].next

    @property
    def size(self) -> int:
        """Bytes in all segments."""
        return sum(segment.size for segment in self._segments)

    def recover(self, visit: Visit, *, covered: int = 0) -> Trimmed | None:
        """Read everything, calling ``visit`` for each payload; cut off a torn tail.

        DamagedJournalError for what no crash explains, and for anything below ``covered`` that is not there; OSError.
        """
        names = segment_names(self._files)
        trimmed: Trimmed | None = None
        for place, name in enumerate(names):
            trimmed = self._recover_one(name, visit, last=place == len(names) - 1, covered=covered)
        if not self._segments:
            if covered:
                raise DamagedJournalError(names[0] if names else name_of(0), 0, "the journal's beginning is missing")
            if trimmed is not None:
                self._files.remove(trimmed.file)
                self._files.sync_directory()
            self._begin(0)
            return trimmed
        if self.next < covered:
            last = self._segments[-1]
            raise DamagedJournalError(last.name, last.size, f"frames {self.next:,} to {covered - 1:,} are missing")
        current = self._segments[-1]
        if trimmed is not None and trimmed.file == current.name:
            self._files.truncate(current.name, current.size)
        elif trimmed is not None:
            self._files.remove(trimmed.file)
            self._files.sync_directory()
        self._handle = self._files.append_to(current.name)
        # What a killed process wrote may still be in the kernel's memory alone, its name too, and counts from here on.
        self._files.datasync(self._handle)
        self._files.sync_directory()
        return trimmed

    def write(self, payloads: Sequence[bytes]) -> int:
        """Make ``payloads`` durable in one write; the first's sequence number. Any error closes the journal."""
        self._require_open()
        try:
            if self._segments[-1].size >= self._segment_bytes:
                self._begin(self.next)
            current = self._segments[-1]
            if self._handle is None:
                raise OSError("no segment is open")  # noqa: TRY301 - handled as every other error of the disk
            data, offsets = write_frames(current.next, payloads)
            self._files.write(self._handle, data)
            self._files.datasync(self._handle)
        except Exception as error:
            raise self._fail(error) from error
        first = current.next
        for place, offset in enumerate(offsets):
            current.note(first + place, current.size + offset)
        current.size += len(data)
        current.next = first + len(payloads)
        return first

    def reopen(self) -> None:
        """Begin a fresh segment after a failure. Unavailable while that fails; DamagedJournalError if what was durable is not."""
        if self.failure is None:
            return
        current = self._segments[-1]
        try:
            self._close_handle()
            if current.next > current.first:
                self._check(current)
                self._files.truncate(current.name, current.size)
                self._begin(current.next)
            else:
                self._segments.pop()
                self._begin(current.first)
        except OSError as error:
            if not self._segments or self._segments[-1].next < current.next:
                self._segments.append(current)
            raise self._fail(error) from error
        self.failure = None

    def remove_before(self, sequence: int) -> None:
        """Remove segments all of whose frames are older than ``sequence``; the last is replaced by an empty one."""
        self._require_open()
        try:
            removed = self._remove_older(sequence)
            current = self._segments[-1]
            if current.first < current.next <= sequence:
                self._begin(current.next)
                removed = self._remove_older(sequence) or removed
            if removed:
                self._files.sync_directory()
        except OSError as error:
            raise self._fail(error) from error

    def read(self, start: int, most: int) -> list[tuple[int, bytes]]:
        """Durable payloads from ``start`` on, at most ``most``, from one segment; none at the end. OSError."""
        segments = list(self._segments)  # the writer may begin another one, or remove some
        place = bisect.bisect_right(segments, start, key=lambda segment: segment.first) - 1
        if place < 0:
            place, start = 0, segments[0].first
        segment = segments[place]
        end, size = segment.next, segment.size
        if start >= end:
            return []
        near, offset = segment.near(start)
        found: list[tuple[int, bytes]] = []
        while near < end and len(found) < most:
            data = self._files.read(segment.name, offset, min(_READ_BYTES, size - offset))
            frame = read_frame(data, 0)
            if frame is None and len(data) >= FRAME_OVERHEAD:  # one that is larger than what was read
                data = self._files.read(segment.name, offset, size - offset)
            near, used = _collect(segment.name, data, offset, near, min(end, start + most), start, found)
            offset += used
        return found

    def close(self) -> None:
        """Give the files back."""
        with contextlib.suppress(OSError):
            self._close_handle()
        self._files.release()

    def _recover_one(self, name: str, visit: Visit, *, last: bool, covered: int) -> Trimmed | None:
        data = self._files.read(name, 0, self._files.size(name))
        stated = name.removesuffix(SUFFIX)
        first = int(stated) if stated.isdecimal() else -1
        if self._segments and first != self.next:
            previous = self._segments[-1]
            if first < previous.next:
                raise DamagedJournalError(name, 0, f"it is to begin with {first:,}, which is in the file before it")
            raise DamagedJournalError(
                previous.name, previous.size, f"frames {previous.next:,} to {first - 1:,} are missing"
            )
        if first < 0 or name != name_of(first):
            raise DamagedJournalError(name, 0, "the name is not a segment's")
        if data[:HEADER_SIZE] != write_header(first):
            # A header is durable before the first frame is written: only a file without frames can be torn here.
            if last and len(data) <= HEADER_SIZE and first >= covered:
                return Trimmed(name, 0, len(data))
            raise DamagedJournalError(name, 0, "the header is not the segment's")
        segment = Segment(first, first)
        self._segments.append(segment)
        while (frame := read_frame(data, segment.size)) is not None and frame.sequence == segment.next:
            segment.note(frame.sequence, segment.size)
            visit(frame.sequence, frame.payload)
            segment.next, segment.size = frame.sequence + 1, frame.end
        rest = len(data) - segment.size
        if not rest:
            return None
        if not last or frame is not None or segment.next < covered:
            raise DamagedJournalError(name, segment.size, f"frame {segment.next:,} is damaged")
        if was_followed(data, segment.size, segment.next):
            raise DamagedJournalError(
                name, segment.size, f"frame {segment.next:,} is damaged, and later ones are whole"
            )
        return Trimmed(name, segment.size, rest)

    def _begin(self, first: int) -> None:
        """Make the segment that begins with ``first`` the one that is written."""
        name = name_of(first)
        handle = self._files.create(name)
        try:
            self._files.write(handle, write_header(first))
            self._files.datasync(handle)
            self._files.sync_directory()
        except BaseException:
            with contextlib.suppress(OSError):
                self._files.close(handle)
            with contextlib.suppress(OSError):
                self._files.remove(name)
            raise
        old, self._handle = self._handle, handle
        self._segments.append(Segment(first, first))
        if old is not None:
            self._files.close(old)

    def _check(self, segment: Segment) -> None:
        """Read back what was acknowledged."""
        data = self._files.read_back(segment.name, segment.size)
        offset, sequence = HEADER_SIZE, segment.first
        while sequence < segment.next:
            frame = read_frame(data, offset)
            if frame is None or frame.sequence != sequence:
                raise DamagedJournalError(segment.name, offset, f"frame {sequence:,} was durable and is damaged")
            offset, sequence = frame.end, sequence + 1

    def _remove_older(self, sequence: int) -> bool:
        removed = False
        while len(self._segments) > 1 and self._segments[0].next <= sequence:
            self._files.remove(self._segments[0].name)
            del self._segments[0]
            removed = True
        return removed

    def _close_handle(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            self._files.close(handle)

    def _require_open(self) -> None:
        if self.failure is not None:
            raise Unavailable(self.failure.message)

    def _fail(self, error: Exception) -> Unavailable:
        why = error.strerror if isinstance(error, OSError) else None
        self.failure = Unavailable(f"the journal cannot be written: {why or 'the disk failed'}")
        return self.failure


def scan(files: Files, name: str) -> Iterator[tuple[int, int, bytes]]:
    """Offset, sequence number and payload of every frame of a segment that nobody writes; for verification.

    Raises DamagedJournalError where it stops being whole; one whose ``what`` is :data:`CUT` may be a copy that was
    made while the segment was written.
    """
    data = files.read(name, 0, files.size(name))
    stated = name.removesuffix(SUFFIX)
    if not stated.isdecimal() or name != name_of(int(stated)):
        raise DamagedJournalError(name, 0, "the name is not a segment's")
    sequence, offset = int(stated), HEADER_SIZE
    if data[:HEADER_SIZE] != write_header(sequence):
        raise DamagedJournalError(name, 0, "the header is not the segment's")
    while offset < len(data):
        frame = read_frame(data, offset)
        if frame is None:
            raise DamagedJournalError(name, offset, CUT if is_cut(data, offset) else f"frame {sequence:,} is damaged")
        if frame.sequence != sequence:
            raise DamagedJournalError(name, offset, f"frame {frame.sequence:,} stands where {sequence:,} belongs")
        yield offset, sequence, frame.payload
        offset, sequence = frame.end, sequence + 1


CUT = "the last frame is cut"


def _collect(
    name: str, data: bytes, base: int, near: int, until: int, start: int, found: list[tuple[int, bytes]]
) -> tuple[int, int]:
    """Take whole frames from ``data``; the next sequence number, and how many bytes were used."""
    offset = 0
    while near < until:
        frame = read_frame(data, offset)
        if frame is None or frame.sequence != near:
            if offset == 0:
                raise DamagedJournalError(name, base, f"frame {near:,} is damaged")
            break
        if near >= start:
            found.append((near, frame.payload))
        near, offset = near + 1, frame.end
    return near, offset
