"""Vectors in Chroma: embedded in this process, or on a Chroma server; ids and vectors only, no text, no metadata.

Chroma is never given an access filter: a metadata filter made a query 6 to 70 times slower than the plain one.
``IndexedStore`` narrows its results instead.
"""

from __future__ import annotations

import math
import shutil
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any, Self

import chromadb
import chromadb.errors
import numpy as np
from chromadb.config import Settings

from services.corpus.errors import GroundwireError, Unavailable
from services.vectorstores import chroma_server
from services.vectorstores.checks import dimension_mismatch
from services.vectorstores.ports import Partition, Vector

# Embedded Chroma holds the GIL through an upsert (64 vectors of 384: about 45 ms): small pieces let others run.
_EMBEDDED_UPSERT = 64
# Vectors travel to a server as JSON, about 8 KB each: far from its 40 MB limit on a request.
_SERVER_UPSERT = 512

# Chroma gives vectors back with the last bit of a float32 rounded.
_SAME_VECTOR = 1e-6

# A server says how many items it takes at once; this much of that is believed.
_MOST_AT_ONCE = 10_000
_DEFAULT_AT_ONCE = 1_000
# Of vectors that a server sends: parsing them holds the GIL.
_NUMBERS_AT_ONCE = 100_000
_WIDEST = 65_536

# ef_search 100, the default, finds 60 % of the true top 100 among random vectors of 384 dimensions (the worst
# case), 200 finds 84 % for half a millisecond more; on real embeddings both find nearly all.
_CONFIGURATION = {"hnsw": {"space": "cosine", "ef_search": 200}}


class ChromaVectorIndex:
    """Implements VectorIndex on a Chroma client, with one Chroma collection per partition.

    Raises Unavailable when a server does not answer and FailedPrecondition when a dimension does not fit.
    """

    def __init__(
        self, client: Any, *, engine: str, upsert_size: int, directory: Path | None = None, remote: bool = False
    ) -> None:
        self.engine = engine
        self._remote = remote
        self._client = client
        self._directory = directory
        self._collections: dict[Partition, Any] = {}
        self._lock = threading.Lock()
        self._dimensions: dict[Partition, int] = {}
        with self._translated():
            self._batch_size = _batch_size(client.get_max_batch_size())
        self._upsert_size = min(upsert_size, self._batch_size)

    @classmethod
    def embedded(cls, directory: Path) -> Self:
        """Open (or create) an index in ``directory``, which no other process may have open."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        client = chromadb.PersistentClient(str(directory), settings=_settings())
        index = cls(client, engine="chroma-embedded", upsert_size=_EMBEDDED_UPSERT, directory=directory)
        index._remove_dropped_files()
        return index

    @classmethod
    def server(cls, host: str, port: int, *, ssl: bool = False, timeout: float = 30.0) -> Self:
        """Connect to a Chroma server; ``timeout`` in seconds bounds each request. Raises Unavailable."""
        with _translated(remote=True):
            client = chroma_server.connect(host, port, _settings(), ssl=ssl, timeout=timeout)
        return cls(client, engine="chroma-server", upsert_size=_SERVER_UPSERT, remote=True)

    def upsert(self, partition: Partition, ids: Sequence[str], vectors: Vector) -> None:
        """Store rows of ``vectors`` under ``ids``; those that are stored already are left alone.

        Chroma takes five times as long to replace a vector as to add it, and holds the GIL all the while: a
        repeated write of the same chunks must not cost that.
        """
        if not ids:
            return
        self._dimensions[partition] = vectors.shape[1]
        stored = dict(zip(*self.vectors(partition, ids), strict=True))
        changed = [
            row
            for row, chunk_id in enumerate(ids)
            if (old := stored.get(chunk_id)) is None
            or old.shape != vectors[row].shape
            or not np.allclose(old, vectors[row], rtol=0, atol=_SAME_VECTOR)
        ]
        with self._using(partition):
            collection = self._open(partition, create=True)
            for piece in _pieces(len(changed), self._upsert_size):
                rows = changed[piece]
                collection.upsert(ids=[ids[row] for row in rows], embeddings=vectors[rows])

    def delete(self, partition: Partition, ids: Sequence[str]) -> None:
        """Remove ids; unknown ones are ignored."""
        with self._using(partition):
            collection = self._open(partition)
            for piece in _pieces(len(ids), self._batch_size):
                if collection is not None:
                    collection.delete(ids=list(ids[piece]))

    def drop(self, partition: Partition) -> None:
        """Remove the whole partition."""
        self._forget(partition)
        with self._translated():
            try:
                self._client.delete_collection(_name(partition))
            except chromadb.errors.NotFoundError:
                return
            self._remove_dropped_files()

    def search(self, partition: Partition, vector: Vector, limit: int) -> list[tuple[str, float]]:
        """The nearest ids with their cosine similarity, best first (approximate: HNSW)."""
        self._dimensions[partition] = len(vector)
        limit = min(limit, chroma_server.MOST_HITS) if self._remote else limit
        with self._using(partition):
            collection = self._open(partition)
            if collection is None or limit < 1:
                return []
            with chroma_server.expecting_hits(limit):
                found = collection.query(query_embeddings=[vector], n_results=limit, include=["distances"])
            return _hits(found["ids"][0], found["distances"][0])[:limit]

    def vectors(self, partition: Partition, ids: Sequence[str]) -> tuple[list[str], Vector]:
        """The stored vectors of those of ``ids`` that exist, in no particular order."""
        found: dict[str, Vector] = {}
        done = 0
        with self._using(partition):
            collection = self._open(partition)
            while collection is not None and done < len(ids):
                piece = list(ids[done : done + self._vectors_at_once(partition)])
                done += len(piece)
                with chroma_server.expecting_vectors(len(piece), self._dimensions.get(partition, _WIDEST)):
                    answer = collection.get(ids=piece, include=["embeddings"])
                if answer["ids"]:
                    matrix = np.asarray(answer["embeddings"], dtype=np.float32)
                    wanted = set(piece)
                    rows = zip(answer["ids"], matrix, strict=True)
                    found.update((chunk_id, row) for chunk_id, row in rows if chunk_id in wanted)
                    self._dimensions.setdefault(partition, matrix.shape[1])
            return list(found), np.stack(list(found.values())) if found else np.empty((0, 0), dtype=np.float32)

    def _vectors_at_once(self, partition: Partition) -> int:
        """How many vectors are asked for at once; a server's are parsed at one go."""
        if not self._remote:
            return self._batch_size
        return max(1, min(self._batch_size, _NUMBERS_AT_ONCE // self._dimensions.get(partition, _WIDEST)))

    def close(self) -> None:
        """Release files and connections."""
        self._collections.clear()
        self._client.close()

    def _open(self, partition: Partition, *, create: bool = False) -> Any:
        """The partition's Chroma collection; None when it does not exist and is not to be created."""
        with self._lock:
            collection = self._collections.get(partition)
        if collection is None:
            # Without an explicit None Chroma would set up its default embedding function, a download.
            if create:
                collection = self._client.get_or_create_collection(
                    _name(partition), embedding_function=None, configuration=_CONFIGURATION
                )
            else:
                try:
                    collection = self._client.get_collection(_name(partition), embedding_function=None)
                except chromadb.errors.NotFoundError:
                    return None
            with self._lock:
                self._collections[partition] = collection
        return collection

    def _forget(self, partition: Partition) -> None:
        with self._lock:
            self._collections.pop(partition, None)

    def _translated(self) -> AbstractContextManager[None]:
        return _translated(remote=self._remote)

    @contextmanager
    def _using(self, partition: Partition) -> Iterator[None]:
        with self._translated():
            try:
                yield
            except chromadb.errors.NotFoundError as error:
                # Dropped while it was in use, or the server lost it: the next call looks the collection up anew.
                self._forget(partition)
                raise _unavailable() from error

    def _remove_dropped_files(self) -> None:
        """Delete the vector files of dropped collections: embedded Chroma itself leaves them on the disk."""
        if self._directory is None:
            return
        with closing(sqlite3.connect(f"file:{self._directory / 'chroma.sqlite3'}?mode=ro", uri=True)) as database:
            alive = {str(row[0]) for row in database.execute("SELECT id FROM segments")}
        for entry in self._directory.iterdir():
            if entry.is_dir() and entry.name not in alive:
                shutil.rmtree(entry, ignore_errors=True)


def _settings() -> Settings:
    # Without _env_file Chroma would read settings from a .env of whatever directory we were started in.
    return Settings(anonymized_telemetry=False, _env_file=None)


def _name(partition: Partition) -> str:
    return f"gw-{partition.key}"


def _pieces(length: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, length, size))


def _unavailable() -> Unavailable:
    return Unavailable("the vector index did not answer")


def _batch_size(told: object) -> int:
    """How many items Chroma takes at once; it is not trusted to be a sensible number."""
    return min(told, _MOST_AT_ONCE) if isinstance(told, int) and told > 0 else _DEFAULT_AT_ONCE


def _hits(ids: Sequence[Any], distances: Sequence[Any]) -> list[tuple[str, float]]:
    """Ids with their similarities, each once; ValueError or TypeError for what are none."""
    found: dict[str, float] = {}
    for chunk_id, distance in zip(ids, distances, strict=True):
        similarity = 1.0 - float(distance)
        if not isinstance(chunk_id, str) or not math.isfinite(similarity):
            raise ValueError("no hit")
        found.setdefault(chunk_id, similarity)
    return list(found.items())


@contextmanager
def _translated(*, remote: bool) -> Iterator[None]:
    """Turn Chroma's errors into the domain's.

    Of a server anything may come, and Chroma's client raises whatever that leads to: none of it is a defect of ours.
    """
    try:
        yield
    except GroundwireError:
        raise
    except chromadb.errors.InvalidDimensionException as error:
        raise dimension_mismatch() from error
    except chromadb.errors.InvalidArgumentError as error:
        if "dimension" in str(error):
            raise dimension_mismatch() from error
        if remote:
            raise _unavailable() from error
        raise
    except (chromadb.errors.InternalError, chromadb.errors.RateLimitError) as error:
        raise _unavailable() from error
    except Exception as error:
        if remote:
            raise _unavailable() from error
        raise
