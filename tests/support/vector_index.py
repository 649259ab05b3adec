"""A vector index in dictionaries, for tests of what stands above it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from services.vectorstores.ports import Partition, Vector


class DictVectorIndex:
    """Exact, in memory; outlives the stores that are opened on it, as a disk does."""

    engine = "dict"

    def __init__(self) -> None:
        self.kept: dict[Partition, dict[str, Vector]] = {}
        self.depths: list[int] = []

    def upsert(self, partition: Partition, ids: Sequence[str], vectors: Vector) -> None:
        self.kept.setdefault(partition, {}).update(zip(ids, vectors, strict=True))

    def delete(self, partition: Partition, ids: Sequence[str]) -> None:
        for chunk_id in ids:
            self.kept.get(partition, {}).pop(chunk_id, None)

    def drop(self, partition: Partition) -> None:
        self.kept.pop(partition, None)

    def search(self, partition: Partition, vector: Vector, limit: int) -> list[tuple[str, float]]:
        self.depths.append(limit)
        scored = [(i, float(v @ vector)) for i, v in self.kept.get(partition, {}).items()]
        return sorted(scored, key=lambda pair: -pair[1])[:limit]

    def vectors(self, partition: Partition, ids: Sequence[str]) -> tuple[list[str], Vector]:
        kept = self.kept.get(partition, {})
        found = [i for i in ids if i in kept]
        return found, np.stack([kept[i] for i in found]) if found else np.empty((0, 0), dtype=np.float32)

    def close(self) -> None:
        pass
