"""BM25 in tantivy: one index directory per partition, holding terms, chunk ids and reader sets, never text.

A directory per partition keeps tenants' statistics apart (a shared index would leak, through scores, how common
a word is with other tenants) and makes dropping a partition the removal of a directory.

Scores are tantivy's, with the idf of what the caller may read (allowed_statistics.py): k1 = 1.2, b = 0.75. It keeps
document lengths in one byte, exact up to 40 terms and rounded down by up to an eighth beyond; and deleted chunks count
in its average length until their segment is merged.
"""

from __future__ import annotations

import hashlib
import shutil
import threading
import uuid
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import tantivy

from services.corpus.errors import DataLoss, Unavailable
from services.vectorstores.allowed_statistics import AllowedStatistics
from services.vectorstores.ports import IndexedTerms, Partition

_TRASH = "trash-"
# tantivy's smallest budget; our batches are far below it.
_WRITER_MEMORY = 15_000_000
# tantivy silently skips terms beyond 65,530 bytes; no analyser makes words of this length, so hash them earlier.
_LONGEST_TERM = 1_000


class TantivyLexicalIndex:
    """Implements LexicalIndex under ``directory``, which no other process may have open.

    At most ``max_open`` partitions are kept open for searches and ``max_writers`` for writes, the most recently
    used ones. A commit is atomic and on disk when a write returns. Raises Unavailable when a write fails (and
    then nothing of it is visible) and DataLoss when an index cannot be read.
    """

    def __init__(self, directory: Path, *, max_open: int = 64, max_writers: int = 8) -> None:
        self._directory = directory
        self._max_open = max_open
        self._max_writers = max_writers
        self._schema = _schema()
        # Counts commits, so that what was counted before one is not used after it.
        self._generations: Counter[Partition] = Counter()
        self._statistics = AllowedStatistics(self._schema, terms="terms", readers="reader_set")
        self._indexes: OrderedDict[Partition, tantivy.Index] = OrderedDict()
        self._writers: OrderedDict[Partition, tantivy.IndexWriter] = OrderedDict()
        # _lock guards _indexes and makes "open" and "reload after a commit" exclude each other, so that no
        # searcher stays behind a commit that has returned; _writing guards _writers.
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for leftover in directory.glob(f"{_TRASH}*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def upsert(self, partition: Partition, entries: Sequence[IndexedTerms]) -> None:
        """Index terms under their chunk ids, replacing earlier ones; one commit, searchable on return."""
        if not entries:
            return
        with self._committing(partition) as writer:
            for entry in entries:
                writer.delete_documents_by_term("chunk_id", entry.chunk_id)
                writer.add_document(_document(entry))

    def delete(self, partition: Partition, ids: Sequence[str]) -> None:
        """Remove ids; unknown ones are ignored."""
        if not ids or not self._exists(partition):
            return
        with self._committing(partition) as writer:
            for chunk_id in ids:
                writer.delete_documents_by_term("chunk_id", chunk_id)

    def drop(self, partition: Partition) -> None:
        """Remove the whole partition."""
        with self._writing:
            self._close_writer(partition)
            with self._lock:
                self._indexes.pop(partition, None)
                self._generations[partition] += 1
                if not self._path(partition).exists():
                    return
                # Renamed first: a removal that is interrupted must not leave half an index under its name.
                trash = self._directory / f"{_TRASH}{uuid.uuid4().hex}"
                self._path(partition).rename(trash)
        shutil.rmtree(trash, ignore_errors=True)

    def search(
        self, partition: Partition, terms: Sequence[str], limit: int, reader_sets: frozenset[int] | None
    ) -> list[tuple[str, float]]:
        """The best ids with their BM25 score, best first; a term that the query repeats counts as often."""
        if limit < 1 or not terms or (reader_sets is not None and not reader_sets):
            return []
        index = self._index(partition)
        if index is None:
            return []
        try:
            # In this order: at worst what is counted now is thrown away too early.
            generation = self._generations[partition]
            searcher = index.searcher()
            # tantivy sets memory aside for the limit, however few documents there are.
            depth = min(limit, searcher.num_docs)
            if depth == 0:
                return []
            query = self._query((partition, generation), searcher, terms, reader_sets)
            if query is None:
                return []
            found = searcher.search(query, depth, count=False)
            return [(str(searcher.doc(address)["chunk_id"][0]), float(score)) for score, address in found.hits]
        except (ValueError, OSError) as error:
            raise DataLoss("the lexical index of a collection cannot be read; run `groundwire reindex`") from error

    def close(self) -> None:
        """Wait for merges and release every file."""
        with self._writing:
            for partition in list(self._writers):
                self._close_writer(partition)
        with self._lock:
            self._indexes.clear()

    def _query(
        self,
        state: tuple[Partition, int],
        searcher: tantivy.Searcher,
        terms: Sequence[str],
        reader_sets: frozenset[int] | None,
    ) -> tantivy.Query | None:
        # Built from objects, never from a query string: a term holds whatever a caller typed.
        counted = Counter(map(_indexable, terms))
        weights = (
            dict.fromkeys(counted, 1.0)
            if reader_sets is None
            else self._statistics.weights(state, searcher, counted, reader_sets)
        )
        clauses = []
        for term, weight in weights.items():
            query = tantivy.Query.term_query(self._schema, "terms", term, "freq")
            boost = counted[term] * weight
            clauses.append((tantivy.Occur.Should, query if boost == 1.0 else tantivy.Query.boost_query(query, boost)))
        if not clauses:
            return None
        any_term = tantivy.Query.boolean_query(clauses)
        if reader_sets is None:
            return any_term
        readable = tantivy.Query.term_set_query(self._schema, "reader_set", sorted(reader_sets))
        filtered = tantivy.Query.const_score_query(readable, 0.0)
        return tantivy.Query.boolean_query([(tantivy.Occur.Must, any_term), (tantivy.Occur.Must, filtered)])

    def _path(self, partition: Partition) -> Path:
        return self._directory / partition.key

    def _exists(self, partition: Partition) -> bool:
        # meta.json is the last thing that tantivy writes when it creates an index.
        return (self._path(partition) / "meta.json").exists()

    def _index(self, partition: Partition) -> tantivy.Index | None:
        """The partition's index, opened for searches; None when it does not exist."""
        with self._lock:
            index = self._indexes.get(partition)
            if index is None:
                if not self._exists(partition):
                    return None
                try:
                    index = tantivy.Index(self._schema, str(self._path(partition)))
                    # We reload ourselves after a commit; otherwise tantivy runs a watching thread per index.
                    index.config_reader("manual")
                    index.reload()
                except (ValueError, OSError) as error:
                    raise DataLoss("a collection's lexical index cannot be read; run `groundwire reindex`") from error
                self._indexes[partition] = index
            self._indexes.move_to_end(partition)
            while len(self._indexes) > self._max_open:
                self._indexes.popitem(last=False)  # a search that still runs keeps its files open until it ends
            return index

    @contextmanager
    def _committing(self, partition: Partition) -> Iterator[tantivy.IndexWriter]:
        """A writer whose changes are committed, and visible to searches, when the block ends without an error."""
        with self._writing:
            try:
                writer = self._writer(partition)
                yield writer
                writer.commit()
                with self._lock:
                    index = self._indexes.get(partition)
                    if index is not None:
                        index.reload()
                    self._generations[partition] += 1
            except BaseException as error:
                # Whatever went wrong, half a batch must not ride along with the next commit.
                self._roll_back(partition)
                if isinstance(error, ValueError | OSError):
                    raise Unavailable("the lexical index could not be written") from error
                raise

    def _roll_back(self, partition: Partition) -> None:
        writer = self._writers.get(partition)
        if writer is None:
            return
        try:
            writer.rollback()
        except (ValueError, OSError):
            # Beyond use; closing it gives up its lock, so that a new one can start from the last commit.
            del self._writers[partition]
            with suppress(ValueError, OSError):
                writer.wait_merging_threads()

    def _writer(self, partition: Partition) -> tantivy.IndexWriter:
        writer = self._writers.get(partition)
        if writer is None:
            self._path(partition).mkdir(mode=0o700, exist_ok=True)
            index = tantivy.Index(self._schema, str(self._path(partition)))
            writer = self._writers[partition] = index.writer(_WRITER_MEMORY, 1)
        self._writers.move_to_end(partition)
        while len(self._writers) > self._max_writers:
            self._close_writer(next(iter(self._writers)))
        return writer

    def _close_writer(self, partition: Partition) -> None:
        writer = self._writers.pop(partition, None)
        if writer is not None:
            writer.wait_merging_threads()


def _schema() -> tantivy.Schema:
    builder = tantivy.SchemaBuilder()
    # "raw" is tantivy's tokenizer that changes nothing; every term is added as a value of its own, so that a term
    # may hold blanks, NULs or the syntax of a query language.
    builder.add_text_field("chunk_id", stored=True, tokenizer_name="raw", index_option="basic")
    builder.add_text_field("terms", tokenizer_name="raw", index_option="freq")
    builder.add_unsigned_field("reader_set", indexed=True, fast=True)
    return builder.build()


def _document(entry: IndexedTerms) -> tantivy.Document:
    document = tantivy.Document()
    document.add_text("chunk_id", entry.chunk_id)
    document.add_unsigned("reader_set", entry.reader_set)
    for term in entry.terms:
        document.add_text("terms", _indexable(term))
    return document


def _indexable(term: str) -> str:
    encoded = term.encode()
    return term if len(encoded) <= _LONGEST_TERM else f"sha256:{hashlib.sha256(encoded).hexdigest()}"
