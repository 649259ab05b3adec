"""The order of a text's words is nowhere in a store: not in new rows, and not in those of releases before."""

from __future__ import annotations

import json
import random
import sqlite3
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from cli import doctor
from services.runtime.encryption import Encryption
from services.runtime.options import EncryptionOptions
from services.runtime.sealed_places import StoreChunks
from services.runtime.sealed_store import SealedVectorStore
from services.runtime.settings import Settings
from services.security.rotation import Rotation
from services.vectorstores.chunk_table import ChunkTable, TermOrder, find_term_order
from services.vectorstores.indexed import IndexedStore
from services.vectorstores.memory import MemoryVectorStore
from services.vectorstores.ports import Partition, StoredChunk, StoreHit
from services.vectorstores.tantivy_index import TantivyLexicalIndex
from tests.support.vector_index import DictVectorIndex

HERE = Partition("acme", "default")
WORDS = ["ferry", "leav", "harbour", "ferry", "noon", "except", "sunday", "harbour", "ferry"]


def chunk(ordinal: int, words: list[str]) -> StoredChunk:
    vector = np.eye(4, dtype=np.float32)[ordinal % 4]
    return StoredChunk(f"d#1.{ordinal}", "d", 1, ordinal, 1, b"payload %d" % ordinal, vector, tuple(words))


def open_store(directory: Path) -> IndexedStore:
    directory.mkdir(exist_ok=True)
    chunks = ChunkTable(directory / "chunks.sqlite3", vector_engine="dict")
    return IndexedStore(chunks, DictVectorIndex(), TantivyLexicalIndex(directory / "terms"))


def as_before(directory: Path, turn: int = 1) -> None:
    """Put every ``turn``-th row as a release before left it: hashes in the order of the text."""
    with closing(sqlite3.connect(directory / "chunks.sqlite3")) as db:
        for number, terms in db.execute("SELECT id, terms FROM contents").fetchall():
            if number % turn == 0:
                kept = json.loads(terms)
                db.execute("UPDATE contents SET terms = ? WHERE id = ?", (json.dumps(kept[::-1]), number))
        db.commit()


async def test_what_leaves_the_process_with_the_keys_has_no_order(tmp_path: Path) -> None:
    """Two texts of the same words in different orders give a store the same terms (D1)."""
    keys = Encryption.open(EncryptionOptions(), tmp_path / "keys")
    inner = Unsorting()
    store = SealedVectorStore(inner, keys.sealer, keys.terms)
    other = random.Random(4).sample(WORDS, len(WORDS))
    assert other != WORDS
    await store.upsert_chunks(HERE, [chunk(0, WORDS), chunk(1, other)])
    first, second = inner.sent
    assert first.terms == second.terms
    assert sorted(Counter(first.terms).values()) == sorted(Counter(WORDS).values())
    await store.search_lexical(HERE, WORDS, 5, None)
    await store.search_lexical(HERE, other, 5, None)
    assert inner.asked[0] == inner.asked[1]
    await keys.close()


class Unsorting(MemoryVectorStore):
    """Keeps chunks and questions as they come, as another store might."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[StoredChunk] = []
        self.asked: list[list[str]] = []

    async def upsert_chunks(self, partition: Partition, chunks: Sequence[StoredChunk]) -> None:
        self.sent.extend(chunks)

    async def search_lexical(
        self, partition: Partition, terms: Sequence[str], limit: int, reader_sets: frozenset[int] | None
    ) -> list[StoreHit]:
        self.asked.append(list(terms))
        return []


async def test_a_chunk_table_keeps_no_order_whatever_it_is_given(tmp_path: Path) -> None:
    """A restored backup of a release before is written in no order of the text (D1)."""
    store = open_store(tmp_path / "store")
    await store.upsert_chunks(HERE, [chunk(0, WORDS)])
    with closing(sqlite3.connect(tmp_path / "store" / "chunks.sqlite3")) as db:
        assert json.loads(db.execute("SELECT terms FROM contents").fetchone()[0]) == sorted(WORDS)
    await store.close()


async def test_older_rows_leave_the_store_without_their_order(tmp_path: Path) -> None:
    """A backup that is made of rows of a release before does not keep their order (D1)."""
    store = open_store(tmp_path / "store")
    await store.upsert_chunks(HERE, [chunk(0, WORDS)])
    as_before(tmp_path / "store")
    (kept,) = await store.list_chunks(HERE)
    assert kept.terms == tuple(sorted(WORDS))
    await store.close()


async def test_rotating_keys_rewrites_older_rows_and_the_doctor_sees_both(tmp_path: Path) -> None:
    """`keys rotate` rewrites rows that a release before left in the order of the text, online; doctor finds them (D1)."""
    keys = Encryption.open(EncryptionOptions(), tmp_path / "keys")
    store = open_store(tmp_path / "store")
    sealed = SealedVectorStore(store, keys.sealer, keys.terms)
    await sealed.upsert_chunks(HERE, [chunk(i, [*WORDS, f"only{i}"]) for i in range(200)])
    settings = Settings(data_dir=tmp_path)
    (found,) = doctor.word_order(settings)
    assert (found.state, find_term_order(tmp_path / "store" / "chunks.sqlite3")) == (doctor.OK, TermOrder(200, 0))
    as_before(tmp_path / "store", turn=3)
    before = find_term_order(tmp_path / "store" / "chunks.sqlite3")
    assert before == TermOrder(200, 66)
    (found,) = doctor.word_order(settings)
    assert (found.state, "66 of 200" in found.found) == (doctor.WARN, True), found
    assert "groundwire keys rotate --all-tenants" in found.remedy
    hits = await sealed.search_lexical(HERE, ["only7", "ferry"], 10, None)
    rotation = Rotation(keys.keyring, keys.sealer, keys.checkpoints, [StoreChunks(store, "store")])
    await rotation.begin(HERE.tenant)
    await rotation.finish(HERE.tenant)
    assert find_term_order(tmp_path / "store" / "chunks.sqlite3") == TermOrder(200, 0)
    assert await sealed.search_lexical(HERE, ["only7", "ferry"], 10, None) == hits
    await store.close()
    await keys.close()
    (found,) = doctor.word_order(settings)  # the same with nobody there
    assert found.state == doctor.OK


@pytest.mark.parametrize("limit", [1, 7, 50, 199])
async def test_a_large_table_is_looked_at_in_samples(tmp_path: Path, limit: int) -> None:
    """No more than the limit, spread over the table, also where rows were deleted."""
    store = open_store(tmp_path / "store")
    await store.upsert_chunks(HERE, [chunk(i, WORDS) for i in range(200)])
    as_before(tmp_path / "store")
    found = find_term_order(tmp_path / "store" / "chunks.sqlite3", limit=limit)
    assert max(1, limit // 2) <= found.looked_at <= limit
    assert found.in_text_order == found.looked_at
    await store.close()


def test_the_doctor_says_nothing_of_words_in_clear_or_before_there_are_any(tmp_path: Path) -> None:
    """Where nothing is encrypted words are in clear anyway."""
    assert list(doctor.word_order(Settings(data_dir=tmp_path))) == []
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "chunks.sqlite3").write_bytes(b"not a database" * 100)
    (found,) = doctor.word_order(Settings(data_dir=tmp_path))
    assert found.state == doctor.WARN
    clear = EncryptionOptions(enabled=False)
    assert list(doctor.word_order(Settings(data_dir=tmp_path, encryption=clear))) == []
