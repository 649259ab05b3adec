"""Ranking quality of retrieval on a public collection, through the real domain and the embedded store.

nDCG@10 of search by words (BM25), by meaning, by both, and reranked where the policy reranks; every figure comes from
one run over the same store, so they can be compared with each other. The collections stand beside the repository in
../shared/data/ir in BEIR layout; without them the benchmark says so and measures nothing.

    python benchmarks/retrieval.py --collection scifact --limit-docs 1000 --limit-queries 100

Progress goes to stderr; the last line on stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import hashlib
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from services.catalog.memory import MemoryCatalog
from services.corpus.chunk import Passage, chunk_id
from services.corpus.document import DEFAULT_COLLECTION, Collection, Document, DocumentState, MediaType
from services.corpus.principal import EVERYBODY, Access, Caller
from services.corpus.terms import analyze
from services.embedding.onnx import OnnxCrossEncoder, OnnxEmbedder
from services.retrieval.ports import NamedStore
from services.retrieval.request import RerankMode, RetrievalMode, RetrieveQuery
from services.retrieval.rerank import RerankPolicy
from services.retrieval.retrieval import RetrievalPolicy, Retriever
from services.vectorstores.embedded import open_embedded
from services.vectorstores.ports import Partition, StoredChunk, Vector, VectorStore

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "ir"
CALLER = Caller("bench", "bench")
EVERYONE = Access(frozenset({EVERYBODY}))
DEPTH = 10
_PIECE = 64


@dataclass(frozen=True)
class Task:
    """A collection's documents, questions and judgements (question id → document id → grade)."""

    documents: dict[str, str]
    questions: dict[str, str]
    grades: dict[str, dict[str, int]]


def load(folder: Path, limit_docs: int | None, limit_queries: int | None) -> Task:
    """Read a collection; limited, it keeps the first questions and their relevant documents, then fills up."""
    grades: dict[str, dict[str, int]] = {}
    for line in (folder / "qrels.tsv").read_text().splitlines()[1:]:
        question, document, grade = line.split("\t")
        if int(grade) > 0:
            grades.setdefault(question, {})[document] = int(grade)
    asked = {row["_id"]: row["text"] for row in _rows(folder / "queries.jsonl.gz") if row["_id"] in grades}
    texts = {row["_id"]: f"{row.get('title', '')}\n{row['text']}".strip() for row in _rows(folder / "corpus.jsonl.gz")}
    # Evenly spread, because neighbours often ask about the same document.
    step = max(1, len(asked) // limit_queries) if limit_queries else 1
    questions = dict(list(asked.items())[::step][:limit_queries])
    if limit_docs is not None:
        needed = {document for question in questions for document in grades[question]}
        order = sorted(texts, key=lambda document: (document not in needed, document))
        texts = {document: texts[document] for document in order[: max(limit_docs, len(needed))]}
    return Task(texts, questions, grades)


def _rows(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


async def embed(embedder: OnnxEmbedder, texts: Sequence[str], cache: Path | None) -> Vector:
    """One row per text; with a cache directory, computed once per model and texts."""
    digest = hashlib.sha256("\0".join([embedder.model.name, *texts]).encode()).hexdigest()[:32]
    path = cache / f"{digest}.npy" if cache else None
    if path is not None and path.exists():
        return np.asarray(np.load(path), dtype=np.float32)
    rows = []
    started = time.perf_counter()
    for first in range(0, len(texts), _PIECE):
        rows.append(await embedder.embed_passages(texts[first : first + _PIECE]))
        done = min(first + _PIECE, len(texts))
        if done % (8 * _PIECE) == 0 or done == len(texts):
            _say(f"embedded {done} of {len(texts)}, {done / (time.perf_counter() - started):.1f} per second")
    vectors = np.concatenate(rows)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, vectors)
    return vectors


async def fill(catalog: MemoryCatalog, store: VectorStore, embedder: OnnxEmbedder, task: Task, vectors: Vector) -> None:
    """Put every document into the catalog and, as one chunk each, into the store."""
    now = datetime.now(UTC)
    model = embedder.model
    await catalog.create_collection(
        Collection(CALLER.tenant, DEFAULT_COLLECTION, model.name, model.dimension, None, None, now)
    )
    chunks = []
    for (name, text), vector in zip(task.documents.items(), vectors, strict=True):
        plan = await catalog.plan_version(CALLER.tenant, DEFAULT_COLLECTION, name, EVERYONE)
        document = Document(
            tenant=CALLER.tenant,
            collection=DEFAULT_COLLECTION,
            document_id=name,
            version=plan.version,
            title=name,
            uri="",
            media_type=MediaType.TEXT,
            metadata={},
            access=EVERYONE,
            owner="user:bench",
            state=DocumentState.ACTIVE,
            content_sha256="",
            chunk_count=1,
            create_time=now,
            update_time=now,
        )
        await catalog.activate_version(document)
        payload = Passage(text, 0, len(text)).to_payload()
        identity = chunk_id(name, plan.version, 0)
        chunks.append(
            StoredChunk(identity, name, plan.version, 0, plan.reader_set, payload, vector, tuple(analyze(text)))
        )
    for first in range(0, len(chunks), 512):
        await store.upsert_chunks(Partition(CALLER.tenant, DEFAULT_COLLECTION), chunks[first : first + 512])


async def measure(retriever: Retriever, task: Task, mode: RetrievalMode, rerank: RerankMode) -> dict[str, float]:
    """Mean nDCG@10 and median milliseconds of one way to search."""
    gains, times = [], []
    for question, text in task.questions.items():
        result = await retriever.retrieve(CALLER, RetrieveQuery(text, top_k=DEPTH, mode=mode, rerank=rerank))
        gains.append(ndcg([passage.key.document_id for passage in result.passages], task.grades[question]))
        times.append(result.timings.total)
    return {"ndcg_at_10": round(statistics.fmean(gains), 4), "p50_ms": round(1000 * statistics.median(times), 2)}


def ndcg(found: Sequence[str], grades: dict[str, int]) -> float:
    """Normalised discounted cumulative gain at 10, linear gains (Järvelin and Kekäläinen 2002; as trec_eval)."""

    def dcg(gains: Sequence[int]) -> float:
        return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains[:DEPTH], start=1))

    return dcg([grades.get(document, 0) for document in found]) / dcg(sorted(grades.values(), reverse=True))


async def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure one collection."""
    task = load(DATA / options.collection, options.limit_docs, options.limit_queries)
    _say(f"{options.collection}: {len(task.documents)} documents, {len(task.questions)} questions")
    embedder = await OnnxEmbedder.load()
    encoder = await OnnxCrossEncoder.load() if options.rerank else None
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as directory:
        store = await open_embedded(Path(directory))
        catalog = MemoryCatalog()
        try:
            await fill(
                catalog, store, embedder, task, await embed(embedder, list(task.documents.values()), options.cache)
            )
            # Quality is measured, not haste: the budget must not cut the reranker short on a slow machine.
            policy = RetrievalPolicy(store_timeout=60.0, rerank=RerankPolicy(budget=600.0))
            retriever = Retriever(
                stores=[NamedStore("embedded", store)],
                catalog=catalog,
                embedder=embedder,
                cross_encoder=encoder,
                policy=policy,
            )
            ways = {
                "lexical": (RetrievalMode.LEXICAL, RerankMode.OFF),
                "dense": (RetrievalMode.DENSE, RerankMode.OFF),
                "hybrid": (RetrievalMode.HYBRID, RerankMode.OFF),
            }
            if encoder is not None:
                ways["hybrid_rerank_auto"] = (RetrievalMode.HYBRID, RerankMode.AUTO)
                ways["hybrid_rerank_on"] = (RetrievalMode.HYBRID, RerankMode.ON)
            for name, (mode, rerank) in ways.items():
                figures[name] = await measure(retriever, task, mode, rerank)
                _say(f"{name}: {figures[name]}")
        finally:
            await store.close()
            await embedder.close()
            if encoder is not None:
                await encoder.close()
    best_half = max(figures["lexical"]["ndcg_at_10"], figures["dense"]["ndcg_at_10"])
    return {
        "benchmark": "retrieval",
        "skipped": False,
        "collection": options.collection,
        "documents": len(task.documents),
        "questions": len(task.questions),
        "complete": options.limit_docs is None and options.limit_queries is None,
        "hybrid_over_best_half": round(figures["hybrid"]["ndcg_at_10"] / best_half, 4) if best_half else None,
        **figures,
    }


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Read the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collection", default="scifact")
    parser.add_argument("--limit-docs", type=int, default=None, help="documents to search, the relevant ones first")
    parser.add_argument("--limit-queries", type=int, default=None)
    parser.add_argument("--rerank", action="store_true", help="measure the cross-encoder as well (slow)")
    parser.add_argument("--cache", type=Path, default=None, help="directory that keeps embeddings between runs")
    options = parser.parse_args()
    if not (DATA / options.collection / "corpus.jsonl.gz").exists():
        _say(f"the collection {options.collection} is not in {DATA.name}; nothing was measured")
        print(json.dumps({"benchmark": "retrieval", "skipped": True}))
        return
    print(json.dumps(asyncio.run(run(options))))


if __name__ == "__main__":
    main()
