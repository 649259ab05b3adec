"""Opening an IndexedStore: Chroma in this process or on a server, terms and the chunk table in a directory.

Importing this module imports Chroma, which takes a second: only what opens such a store should do it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from services.vectorstores.chroma import ChromaVectorIndex
from services.vectorstores.chunk_table import ChunkTable
from services.vectorstores.directory_lock import DirectoryLock
from services.vectorstores.indexed import IndexedStore
from services.vectorstores.tantivy_index import TantivyLexicalIndex


async def open_embedded(directory: Path) -> IndexedStore:
    """Open (or create) a store that lives in ``directory`` alone.

    Raises FailedPrecondition when another process has it open, or when its format or engine is another one.
    """
    return await asyncio.to_thread(
        _open, directory, "chroma-embedded", lambda: ChromaVectorIndex.embedded(directory / "vectors")
    )


async def open_with_chroma_server(
    directory: Path, host: str, port: int, *, ssl: bool = False, request_timeout: float = 30.0
) -> IndexedStore:
    """Open (or create) a store with its vectors on a Chroma server and the rest in ``directory``.

    ``request_timeout`` in seconds bounds each request. Raises Unavailable when the server does not answer, and as above.
    """
    return await asyncio.to_thread(
        _open,
        directory,
        "chroma-server",
        lambda: ChromaVectorIndex.server(host, port, ssl=ssl, timeout=request_timeout),
    )


def _open(directory: Path, engine: str, open_vectors: Callable[[], ChromaVectorIndex]) -> IndexedStore:
    with ExitStack() as undo:
        lock = DirectoryLock.acquire(directory)
        undo.callback(lock.release)
        # The table first: it knows whether this directory is ours to read.
        chunks = ChunkTable(directory / "chunks.sqlite3", vector_engine=engine)
        undo.callback(chunks.close)
        vectors = open_vectors()
        undo.callback(vectors.close)
        lexical = TantivyLexicalIndex(directory / "terms")
        undo.callback(lexical.close)
        store = IndexedStore(chunks, vectors, lexical, lock=lock)
        store.recover()
        undo.pop_all()
    return store
