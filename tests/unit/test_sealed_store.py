"""What a store behind SealedVectorStore gets to see, and what happens when it gives back something else."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from services.runtime.sealed_store import SealedVectorStore
from services.security.key_stores import MemoryKeyStore
from services.security.keyed_terms import KeyedTerms
from services.security.keyring import Keyring
from services.security.master_keys import SecretMasterKey
from services.security.sealed import Refusal, RefusedBecause, Sealer
from services.vectorstores.memory import MemoryVectorStore
from services.vectorstores.ports import FetchedChunk, Partition, StoredChunk

HERE = Partition("tenant", "default")


class Swapping(MemoryVectorStore):
    """Gives back the payloads of two chunks in each other's place."""

    swapped: tuple[tuple[Partition, str], tuple[Partition, str]] | None = None

    async def fetch_chunks(self, partition: Partition, chunk_ids: list[str]) -> list[FetchedChunk]:  # type: ignore[override] # a list is all that is asked for
        """See the port."""
        fetched = await super().fetch_chunks(partition, chunk_ids)
        if self.swapped is None:
            return fetched
        first, second = self.swapped
        other = {first: second, second: first}
        changed = []
        for chunk in fetched:
            where, name = other.get((partition, chunk.chunk_id), (partition, chunk.chunk_id))
            (source,) = await super().fetch_chunks(where, [name])
            changed.append(dataclasses.replace(chunk, payload=source.payload))
        return changed


def chunk(document: str, ordinal: int = 0, version: int = 1) -> StoredChunk:
    return StoredChunk(
        chunk_id=f"{document}#{version}.{ordinal}",
        document_id=document,
        version=version,
        ordinal=ordinal,
        reader_set=1,
        payload=f"text of {document} {version} {ordinal}".encode(),
        vector=np.eye(4, dtype=np.float32)[ordinal],
        terms=("zeppelin", document),
    )


def sealed(inner: MemoryVectorStore, refusals: list[Refusal]) -> SealedVectorStore:
    keyring = Keyring(SecretMasterKey.generate(), MemoryKeyStore())
    return SealedVectorStore(inner, Sealer(keyring, on_refused=refusals.append), KeyedTerms(keyring))


async def test_the_store_sees_neither_text_nor_words() -> None:
    inner = MemoryVectorStore()
    store = sealed(inner, [])
    await store.upsert_chunks(HERE, [chunk("report")])
    (kept,) = await inner.fetch_chunks(HERE, ["report#1.0"])
    assert b"text" not in kept.payload
    assert await inner.search_lexical(HERE, ["zeppelin"], 5, None) == []
    assert len(await store.search_lexical(HERE, ["zeppelin"], 5, None)) == 1
    (read,) = await store.fetch_chunks(HERE, ["report#1.0"])
    assert read.payload == b"text of report 1 0"


@pytest.mark.parametrize(
    ("other", "because"),
    [
        ((HERE, "memo#1.0"), RefusedBecause.MOVED),
        ((HERE, "report#1.1"), RefusedBecause.MOVED),
        ((HERE, "report#2.0"), RefusedBecause.MOVED),
        ((Partition("tenant", "other"), "report#1.0"), RefusedBecause.MOVED),
        ((Partition("stranger", "default"), "report#1.0"), RefusedBecause.DAMAGED),
    ],
    ids=["document", "chunk", "version", "collection", "tenant"],
)
async def test_swapped_payloads_are_refused_and_reported(other: tuple[Partition, str], because: RefusedBecause) -> None:
    inner = Swapping()
    refusals: list[Refusal] = []
    store = sealed(inner, refusals)
    for where in (HERE, Partition("tenant", "other"), Partition("stranger", "default")):
        await store.upsert_chunks(where, [chunk("report"), chunk("report", 1), chunk("report", 0, 2), chunk("memo")])
    inner.swapped = ((HERE, "report#1.0"), other)
    names = ["report#1.0", "report#1.1", "report#2.0", "memo#1.0"]
    intact = {name for name in names if (HERE, name) not in inner.swapped}
    assert {chunk.chunk_id for chunk in await store.fetch_chunks(HERE, names)} == intact
    assert refusals
    assert {refusal.because for refusal in refusals} == {because}
    assert {refusal.tenant for refusal in refusals} == {"tenant"}
