"""Files of whole chunks: records of a length (4 bytes, big-endian) and a ``groundwire.store.v1.StoredChunk``.

The contract's message, because it is stable and belongs to no engine: a backup of one store can be restored into another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf.message import DecodeError

from groundwire.store.v1 import store_service_pb2 as pb
from services.backup.folder import Folder, HashedFile
from services.corpus.errors import DataLoss
from services.vectorstores import wire
from services.vectorstores.ports import Partition, StoredChunk

PART_BYTES = 64 * 1024 * 1024
Version = tuple[str, int]
"""A document's id and the number of its version."""


@dataclass
class Part:
    """One file: chunks of one partition, met in one round of the walk."""

    name: str
    partition: Partition
    round: int
    versions: Counter[Version] = field(default_factory=Counter)


class Parts:
    """The files of a backup's chunks while they are written. Blocking; one thread at a time."""

    def __init__(self, folder: Folder, *, part_bytes: int = PART_BYTES) -> None:
        self._folder = folder
        self._part_bytes = part_bytes
        self._open: tuple[Part, HashedFile, ExitStack] | None = None
        self.parts: list[Part] = []

    def write(self, partition: Partition, round_: int, chunks: Sequence[StoredChunk]) -> None:
        """Append chunks that were met in a round."""
        if self._open is None or (self._open[0].partition, self._open[0].round) != (partition, round_):
            self._begin(partition, round_)
        assert self._open is not None  # noqa: S101 - _begin opened it
        part, file, _ = self._open
        for chunk in chunks:
            file.write(_record(chunk))
            part.versions[chunk.document_id, chunk.version] += 1
        if file.size >= self._part_bytes:
            self.close()

    def close(self) -> None:
        """End the file that is being written."""
        if self._open is not None:
            stack, self._open = self._open[2], None
            stack.close()

    def settle(self, keep: dict[Partition, dict[Version, int]]) -> None:
        """Leave only the chunks of these versions, each as it was met in the round that is given with it."""
        self.close()
        kept: list[Part] = []
        for part in self.parts:
            wanted = {
                version for version, round_ in keep.get(part.partition, {}).items() if round_ == part.round
            } & part.versions.keys()
            if not wanted:
                self._folder.remove(part.name)
                continue
            if wanted != part.versions.keys():
                part = self._rewritten(part, wanted)  # noqa: PLW2901 - it takes the other's place
            kept.append(part)
        self.parts = kept

    def _begin(self, partition: Partition, round_: int) -> None:
        self.close()
        part = Part(_name(len(self.parts)), partition, round_)
        stack = ExitStack()
        file = stack.enter_context(self._folder.create(part.name))
        self._open = part, file, stack
        self.parts.append(part)

    def _rewritten(self, part: Part, wanted: set[Version]) -> Part:
        # What was deleted or replaced while the backup was taken shall not be in it, not even sealed.
        fresh = Part(f"{part.name}-settled", part.partition, part.round)
        with self._folder.create(fresh.name) as file:
            for chunk in read_part(self._folder.path(part.name)):
                version = chunk.document_id, chunk.version
                if version in wanted:
                    file.write(_record(chunk))
                    fresh.versions[version] += 1
        self._folder.remove(part.name)
        return fresh


def read_part(path: Path) -> Iterator[StoredChunk]:
    """The chunks of a file, one after another; DataLoss if it is not whole. Blocking."""
    with path.open("rb") as file:
        while head := file.read(4):
            length = int.from_bytes(head, "big")
            data = file.read(length)
            if len(head) < 4 or len(data) < length:
                raise DataLoss(f"{path.name} is cut")
            try:
                yield wire.chunk_from_pb(pb.StoredChunk.FromString(data))
            except (DecodeError, ValueError) as error:
                raise DataLoss(f"{path.name} is damaged") from error


def _record(chunk: StoredChunk) -> bytes:
    data = wire.chunk_to_pb(chunk).SerializeToString()
    return len(data).to_bytes(4, "big") + data


def _name(number: int) -> str:
    return f"chunks/{number:06d}"
