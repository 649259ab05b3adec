"""Writing a backup's chunks into a store, and counting them there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path

from services.backup.backup import Watching, documents_of
from services.backup.gathering import CATALOG
from services.backup.manifest import CollectionEntry, Manifest
from services.backup.parts import Version, read_part
from services.catalog.contents import Contents, read_contents
from services.corpus.errors import DataLoss
from services.vectorstores.ports import Partition, StoredChunk, VectorStore

_BATCH = 256


@dataclass(frozen=True)
class Restored:
    """A collection that was written and counted."""

    tenant: str
    collection: str
    documents: int
    chunks: int


async def write_index(
    root: Path,
    manifest: Manifest,
    tree: Path,
    open_store: Callable[[Path], Awaitable[VectorStore]],
    watching: Watching,
) -> list[Restored]:
    """Write all chunks of the backup ``root`` into the store that ``open_store`` opens in ``tree``.

    The catalog decides: of which version a chunk must be, and which reader set it gets, whatever the index had noted when
    it was walked. DataLoss if something else is there, or if counts are not those of the manifest.
    """
    contents = await asyncio.to_thread(read_contents, tree / CATALOG)
    documents = documents_of(contents)
    watching.begun(manifest.chunks)
    store = await open_store(tree)
    try:
        restored = []
        for entry in manifest.collections:
            partition = Partition(entry.tenant, entry.collection)
            # What an interrupted restore has left there; and the vectors of a server outlive the data directory.
            await store.delete_partition(partition)
            readers = _readers(contents, partition)
            chunks = chain.from_iterable(read_part(root / name) for name in entry.parts)
            while batch := await asyncio.to_thread(_some, chunks):
                await store.upsert_chunks(partition, [_assigned(chunk, readers, entry) for chunk in batch])
                watching.told(len(batch))
            count = await store.count_chunks(partition)
            if (documents[partition], count) != (entry.documents, entry.chunks):
                raise DataLoss(
                    f"{entry.tenant}/{entry.collection} has {documents[partition]:,} documents in {count:,} chunks after "
                    f"the restore, and not {entry.documents:,} in {entry.chunks:,}"
                )
            restored.append(Restored(entry.tenant, entry.collection, documents[partition], count))
    finally:
        await store.close()
    return restored


def _readers(contents: Contents, partition: Partition) -> dict[Version, int]:
    return {
        (document.document_id, document.version): document.reader_set
        for document in contents.documents
        if (document.tenant, document.collection) == (partition.tenant, partition.collection)
    }


def _assigned(chunk: StoredChunk, readers: dict[Version, int], entry: CollectionEntry) -> StoredChunk:
    reader_set = readers.get((chunk.document_id, chunk.version))
    if reader_set is None:
        raise DataLoss(f"{entry.tenant}/{entry.collection}: the backup has chunks that its catalog does not know")
    return replace(chunk, reader_set=reader_set)


def _some(chunks: Iterator[StoredChunk]) -> list[StoredChunk]:
    return list(islice(chunks, _BATCH))
