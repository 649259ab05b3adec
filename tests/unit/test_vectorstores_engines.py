"""The engines alone: tantivy's handles and repairs, Chroma's files and unanswering servers, the table's counts."""

from __future__ import annotations

import http.server
import socket
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.corpus.errors import DataLoss, FailedPrecondition, Unavailable
from services.vectorstores.chroma import ChromaVectorIndex
from services.vectorstores.chunk_table import ChunkTable
from services.vectorstores.ports import IndexedTerms, Partition, StoredChunk, Vector
from services.vectorstores.tantivy_index import TantivyLexicalIndex
from tests.support.serving import PATIENT

PARTITION = Partition("acme", "default")


def rows(count: int, dimension: int = 4, *, seed: int = 0) -> Vector:
    matrix = np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32)
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    return matrix


def test_partition_keys_are_fixed_and_distinct() -> None:
    # Written on disk: a change of this value loses every existing index.
    assert Partition("acme", "default").key == "77f28d684c2679dbeaae6805803cfafc884a69ef"
    similar = [Partition("a", "b\0c"), Partition("a\0b", "c"), Partition("a", "bc"), Partition("ab", "c")]
    assert len({partition.key for partition in similar}) == len(similar)


# --- tantivy ------------------------------------------------------------------------------------------------------


def test_many_partitions_pass_through_few_handles(tmp_path: Path) -> None:
    index = TantivyLexicalIndex(tmp_path, max_open=2, max_writers=2)
    partitions = [Partition("acme", f"c{i}") for i in range(6)]
    for round_ in range(2):
        for i, partition in enumerate(partitions):
            index.upsert(partition, [IndexedTerms(f"{round_}-{i}", 0, ("word",))])
            assert len(index.search(partition, ["word"], 10, None)) == round_ + 1
    assert len(index._indexes) <= 2
    assert len(index._writers) <= 2
    for i, partition in enumerate(partitions):
        assert {found for found, _ in index.search(partition, ["word"], 10, None)} == {f"0-{i}", f"1-{i}"}
    index.close()


def test_an_index_that_was_opened_before_a_write_sees_it(tmp_path: Path) -> None:
    index = TantivyLexicalIndex(tmp_path)
    for i in range(5):
        index.upsert(PARTITION, [IndexedTerms(f"{i}", 0, ("word",))])
        assert len(index.search(PARTITION, ["word"], 10, None)) == i + 1
        index.delete(PARTITION, [f"{i}", "unknown"])
        index.upsert(PARTITION, [IndexedTerms(f"{i}", 1, ("word",))])
        assert len(index.search(PARTITION, ["word"], 10, frozenset({1}))) == i + 1
    index.close()


def test_a_removal_that_was_interrupted_is_finished_on_opening(tmp_path: Path) -> None:
    (tmp_path / "trash-1").mkdir()
    (tmp_path / "trash-1" / "leftover").write_bytes(b"x")
    (tmp_path / PARTITION.key).mkdir()  # a creation that got no further
    index = TantivyLexicalIndex(tmp_path)
    assert not (tmp_path / "trash-1").exists()
    assert index.search(PARTITION, ["word"], 10, None) == []
    index.upsert(PARTITION, [IndexedTerms("0", 0, ("word",))])
    assert len(index.search(PARTITION, ["word"], 10, None)) == 1
    index.drop(PARTITION)
    assert list(tmp_path.iterdir()) == []
    index.close()


def test_files_of_an_uncommitted_write_do_no_harm(tmp_path: Path) -> None:
    index = TantivyLexicalIndex(tmp_path)
    index.upsert(PARTITION, [IndexedTerms("0", 0, ("word",))])
    index.close()
    for name in ("0123456789abcdef0123456789abcdef.store", "0123456789abcdef0123456789abcdef.idx", ".tmpAbCdEf"):
        (tmp_path / PARTITION.key / name).write_bytes(b"half a segment")
    index = TantivyLexicalIndex(tmp_path)
    index.upsert(PARTITION, [IndexedTerms("1", 0, ("word",))])
    assert len(index.search(PARTITION, ["word"], 10, None)) == 2
    index.close()


def test_half_a_batch_is_never_committed(tmp_path: Path) -> None:
    index = TantivyLexicalIndex(tmp_path)
    index.upsert(PARTITION, [IndexedTerms("0", 0, ("word",))])
    with pytest.raises(OverflowError):  # tantivy takes no negative number
        index.upsert(PARTITION, [IndexedTerms("1", 0, ("word",)), IndexedTerms("2", -1, ("word",))])
    index.upsert(PARTITION, [IndexedTerms("3", 0, ("word",))])
    assert {found for found, _ in index.search(PARTITION, ["word"], 10, None)} == {"0", "3"}
    index.close()


def test_a_failed_write_is_unavailable_and_can_be_repeated(tmp_path: Path) -> None:
    index = TantivyLexicalIndex(tmp_path)
    index.upsert(PARTITION, [IndexedTerms("0", 0, ("word",))])
    (tmp_path / PARTITION.key).rename(tmp_path / "away")
    with pytest.raises(Unavailable):
        index.upsert(PARTITION, [IndexedTerms("1", 0, ("word",))])
    (tmp_path / "away").rename(tmp_path / PARTITION.key)
    index.upsert(PARTITION, [IndexedTerms("2", 0, ("word",))])
    assert {found for found, _ in index.search(PARTITION, ["word"], 10, None)} == {"0", "2"}
    index.close()


def test_a_damaged_index_is_data_loss(tmp_path: Path) -> None:
    index = TantivyLexicalIndex(tmp_path)
    index.upsert(PARTITION, [IndexedTerms("0", 0, ("word",))])
    index.close()
    (tmp_path / PARTITION.key / "meta.json").write_bytes(b"{")
    index = TantivyLexicalIndex(tmp_path)
    with pytest.raises(DataLoss, match="groundwire reindex"):
        index.search(PARTITION, ["word"], 10, None)
    index.close()


# --- Chroma -------------------------------------------------------------------------------------------------------


def test_a_dropped_partition_leaves_no_vectors_on_the_disk(tmp_path: Path) -> None:
    index = ChromaVectorIndex.embedded(tmp_path)
    other = Partition("acme", "other")
    ids = [f"{i}" for i in range(1100)]  # Chroma writes vector files from 1,000 on
    for partition in (PARTITION, other):
        index.upsert(partition, ids, rows(1100))
    assert len([entry for entry in tmp_path.iterdir() if entry.is_dir()]) == 2
    index.drop(PARTITION)
    assert len([entry for entry in tmp_path.iterdir() if entry.is_dir()]) == 1
    assert len(index.search(other, rows(1)[0], 50)) == 50
    index.close()
    index = ChromaVectorIndex.embedded(tmp_path)
    assert len(index.search(other, rows(1)[0], 50)) == 50
    assert index.search(PARTITION, rows(1)[0], 50) == []
    index.close()


def test_vectors_come_back_as_they_went_in(tmp_path: Path) -> None:
    index = ChromaVectorIndex.embedded(tmp_path)
    matrix = rows(100, 384)
    index.upsert(PARTITION, [f"{i}" for i in range(100)], matrix)
    ids, found = index.vectors(PARTITION, ["7", "unknown", "3"])
    assert found.dtype == np.float32
    for chunk_id, vector in zip(ids, found, strict=True):
        np.testing.assert_allclose(vector, matrix[int(chunk_id)], atol=1e-6)
    assert sorted(ids) == ["3", "7"]
    assert index.vectors(PARTITION, [])[0] == []
    assert index.vectors(Partition("acme", "none"), ["7"])[0] == []
    index.close()


def test_only_vectors_that_changed_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = ChromaVectorIndex.embedded(tmp_path)
    ids = [f"{i}" for i in range(10)]
    matrix = rows(10, 384)
    index.upsert(PARTITION, ids[:6], matrix[:6])
    written: list[str] = []
    collection = index._open(PARTITION)
    real = collection.upsert

    def upsert(**given: Any) -> None:
        written.extend(given["ids"])
        real(**given)

    monkeypatch.setattr(collection, "upsert", upsert)
    matrix[3] = rows(1, 384, seed=9)[0]
    index.upsert(PARTITION, ids, matrix)
    assert written == ["3", "6", "7", "8", "9"]
    assert index.search(PARTITION, matrix[3], 1)[0][0] == "3"
    index.upsert(PARTITION, ids, matrix)
    assert len(written) == 5
    index.close()


def test_chroma_itself_refuses_another_dimension(tmp_path: Path) -> None:
    index = ChromaVectorIndex.embedded(tmp_path)
    index.upsert(PARTITION, ["0"], rows(1))
    with pytest.raises(FailedPrecondition, match="groundwire reindex"):
        index.upsert(PARTITION, ["1"], rows(1, 5))
    with pytest.raises(FailedPrecondition, match="groundwire reindex"):
        index.search(PARTITION, rows(1, 5)[0], 1)
    index.close()


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A server that accepts connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield int(listener.getsockname()[1])


def test_a_server_that_never_answers_is_unavailable(silent_port: int) -> None:
    with pytest.raises(Unavailable):
        ChromaVectorIndex.server("127.0.0.1", silent_port, timeout=0.05)


class FakeChroma(http.server.BaseHTTPRequestHandler):
    """Answers what a client asks while it connects, and anything else with a gateway's error or not at all."""

    mode = "gateway-error"
    released = threading.Event()

    def do_GET(self) -> None:
        answers = {
            "/api/v2/heartbeat": b'{"nanosecond heartbeat": 1}',
            "/api/v2/auth/identity": b'{"user_id": "", "tenant": "default_tenant", "databases": ["default_database"]}',
            "/api/v2/tenants/default_tenant": b'{"name": "default_tenant"}',
            "/api/v2/tenants/default_tenant/databases/default_database":
                b'{"id": "00000000-0000-0000-0000-000000000000", "name": "default_database", "tenant": "x"}',
            "/api/v2/pre-flight-checks": b'{"max_batch_size": 1000}',
        }  # fmt: skip
        body = answers.get(self.path)
        if body is None and self.mode == "silence":
            self.released.wait(30)
            return
        self.send_response(200 if body is not None else 502)
        self.send_header("Content-Length", str(len(body or b"<html>")))
        self.end_headers()
        self.wfile.write(body or b"<html>")

    do_POST = do_GET  # noqa: N815 (named by the standard library)

    def log_message(self, *args: Any) -> None:
        pass


def connected(port: int) -> ChromaVectorIndex:
    """With as little patience as a connection took."""
    for seconds in PATIENT:
        try:
            return ChromaVectorIndex.server("127.0.0.1", port, timeout=seconds)
        except Unavailable:
            continue
    raise AssertionError("no connection")


@pytest.mark.parametrize("mode", ["gateway-error", "silence"])
def test_a_server_that_stops_answering_is_unavailable(mode: str) -> None:
    released = threading.Event()
    handler = type("Handler", (FakeChroma,), {"mode": mode, "released": released})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            index = connected(server.server_address[1])
            with pytest.raises(Unavailable):
                index.search(PARTITION, rows(1)[0], 1)
            with pytest.raises(Unavailable):
                index.upsert(PARTITION, ["0"], rows(1))
            with pytest.raises(Unavailable):
                index.drop(PARTITION)
            index.close()
        finally:
            released.set()
            server.shutdown()
            thread.join()


# --- the chunk table ----------------------------------------------------------------------------------------------


def chunk(ordinal: int, *, readers: int = 0) -> StoredChunk:
    return StoredChunk(f"{ordinal}", f"d{ordinal % 3}", 1, ordinal, readers, b"p", rows(1)[0], ("a", "b"))


@pytest.fixture
def table(tmp_path: Path) -> Iterator[ChunkTable]:
    opened = ChunkTable(tmp_path / "chunks.sqlite3", vector_engine="any")
    yield opened
    opened.close()


def test_tallies_follow_every_change(table: ChunkTable) -> None:
    chunks = [chunk(i, readers=i % 2) for i in range(9)]
    table.reserve(PARTITION, 4, chunks)
    assert table.tallies(PARTITION) == {}
    table.put(PARTITION, chunks)
    table.put(PARTITION, chunks)
    assert table.tallies(PARTITION) == {0: 5, 1: 4}
    table.reserve(PARTITION, 4, chunks)
    assert table.tallies(PARTITION) == {0: 5, 1: 4}
    table.set_readers(PARTITION, "d0", 7)  # 0, 3 and 6
    assert table.tallies(PARTITION) == {0: 3, 1: 3, 7: 3}
    table.hide(PARTITION, ["0", "0", "1"])
    assert table.tallies(PARTITION) == {0: 3, 1: 2, 7: 2}
    table.remove(PARTITION, ["0", "1", "2"])
    assert table.tallies(PARTITION) == {0: 2, 1: 2, 7: 2}
    table.hide_partition(PARTITION)
    assert table.tallies(PARTITION) == {}
    table.remove_partition(PARTITION)
    assert table.dimension(PARTITION) is None


def test_a_removed_chunk_leaves_no_content(table: ChunkTable, tmp_path: Path) -> None:
    chunks = [chunk(i) for i in range(3)]
    table.reserve(PARTITION, 4, chunks)
    table.put(PARTITION, chunks)
    table.remove(PARTITION, ["0", "1"])
    with closing(sqlite3.connect(tmp_path / "chunks.sqlite3")) as database:
        assert database.execute("SELECT count(*) FROM contents").fetchone() == (1,)


def test_commits_are_durable_and_deletes_overwrite(table: ChunkTable) -> None:
    assert table._writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert table._writer.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    assert table._writer.execute("PRAGMA secure_delete").fetchone() == (1,)


def test_a_failed_write_changes_nothing(table: ChunkTable) -> None:
    good = chunk(0)
    table.reserve(PARTITION, 4, [good])
    bad = StoredChunk("1", "d", 1, 1, 2**70, b"p", rows(1)[0], ())
    with pytest.raises(OverflowError):
        table.put(PARTITION, [good, bad])
    assert table.rows(PARTITION, ["0", "1"]) == {}
    table.put(PARTITION, [good])
    assert list(table.rows(PARTITION, ["0", "1"])) == ["0"]
