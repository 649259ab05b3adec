"""Ingestion against the bare embedder: how much of the model's speed the whole path keeps, and what it costs others.

Serves the mesh as `groundwire up` does (the store in a process of its own, everything else in this one), has a client
process ingest real passages, and between the batches encodes the very same chunk texts with the embedder alone, so
that both are measured in the same run on the same machine. Meanwhile it watches this process's event loop: the lag is
what any call to any other service would wait.

    python benchmarks/ingest.py --documents 600

Progress goes to stderr; the last line on stdout is one JSON object with
    ratio_vs_embedder   chunks per second through the mesh, divided by the embedder's alone
    chunks_per_s        through the mesh
    peak_rss_mib        the peaks of all processes of the mesh, added up
    loop_lag_p99_ms     of the serving process's event loop while it ingests
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from cli.client import open_channel as open_client_channel
from groundwire.ingestion.v1 import ingestion_service_pb2 as pb
from groundwire.ingestion.v1 import ingestion_service_pb2_grpc as rpc
from services.embedding.onnx import OnnxEmbedder
from services.embedding.ports import EmbeddingModel
from services.generation import assembly as generation
from services.generation.settings import GenerationSettings
from services.ingestion import assembly as ingestion
from services.ingestion.settings import IngestionSettings
from services.query import assembly as query
from services.query.settings import QuerySettings
from services.retrieval import assembly as retrieval
from services.retrieval.settings import RetrievalSettings
from services.runtime.channels import check_serving, open_channel
from services.runtime.process import Process
from services.runtime.server import Server
from services.runtime.settings import AnySettings, load

ROOT = Path(__file__).resolve().parents[1]
SCIFACT = ROOT.parent / "shared" / "data" / "ir" / "scifact" / "corpus.jsonl.gz"
_BATCH = 25  # documents in a call
_ROUNDS = 4  # the passages are ingested, and encoded alone, in this many turns
_TICK = 0.005  # seconds between two looks at the clock


class Recording:
    """An embedder that remembers which texts it was given."""

    def __init__(self, inner: OnnxEmbedder) -> None:
        self._inner = inner
        self.texts: list[str] = []

    @property
    def model(self) -> EmbeddingModel:
        """See the port."""
        return self._inner.model

    async def embed_passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """See the port."""
        self.texts.extend(texts)
        return await self._inner.embed_passages(texts)

    async def embed_query(self, text: str) -> NDArray[np.float32]:
        """See the port."""
        return await self._inner.embed_query(text)

    async def close(self) -> None:
        """See the port."""
        await self._inner.close()


class LoopLag:
    """Measures how late the event loop runs what is due."""

    def __init__(self) -> None:
        self.milliseconds: list[float] = []
        self.watching = False

    async def run(self) -> None:
        """Look at the clock for ever; what is seen counts while ``watching``."""
        while True:
            due = time.perf_counter() + _TICK
            await asyncio.sleep(_TICK)
            if self.watching:
                self.milliseconds.append(1000 * max(0.0, time.perf_counter() - due))

    def percentile(self, share: float) -> float:
        """The ``share`` quantile, in milliseconds."""
        return float(np.quantile(self.milliseconds, share)) if self.milliseconds else 0.0


def passages(count: int) -> tuple[str, list[pb.DocumentInput]]:
    """Real passages: SciFact's where they are, else the files of the example corpus."""
    if SCIFACT.exists():
        with gzip.open(SCIFACT, "rt", encoding="utf-8") as file:
            rows = [json.loads(line) for _, line in zip(range(count), file, strict=False)]
        return "scifact", [
            pb.DocumentInput(
                document_id=f"scifact-{row['_id']}",
                title=row["title"],
                media_type="text/plain",
                content=row["text"].encode(),
            )
            for row in rows
        ]
    files = sorted(path for path in (ROOT / "examples" / "corpus").rglob("*") if path.suffix in _SUFFIXES)
    return "examples", [
        pb.DocumentInput(document_id=f"copy-{n}-{path.stem}", uri=path.name, content=path.read_bytes())
        for n, path in _copies(files, count)
    ]


_SUFFIXES = {".txt", ".md", ".html", ".pdf", ".docx"}


def _copies(files: Sequence[Path], count: int) -> Iterator[tuple[int, Path]]:
    for place in range(min(count, len(files))):
        yield place // len(files), files[place]


@asynccontextmanager
async def store_process(data_dir: Path) -> Any:
    """The store in a process of its own, as `groundwire up` runs it."""
    environment = {**os.environ, "GROUNDWIRE_DATA_DIR": str(data_dir), "GROUNDWIRE_LOG__LEVEL": "error"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cli.main", "serve", "store", env=environment, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def serving(address: str, process: asyncio.subprocess.Process) -> None:
    """Wait until the peer at ``address`` is ready; exit if it has died."""
    channel = open_channel(address)
    async with channel:
        while True:
            if process.returncode is not None:
                sys.exit("the store ended before it was ready")
            try:
                return await check_serving(channel, "store")
            except Exception:  # noqa: BLE001 - not yet
                await asyncio.sleep(0.05)


async def mesh(data_dir: Path, process: Process) -> list[Server]:
    """Serve everything but the store from this process, on free ports."""
    servers: list[Server] = []

    def settings(kind: type[AnySettings], **found: str) -> AnySettings:
        made = load(kind).replace(data_dir=data_dir)
        return made.replace(addresses=made.addresses.model_copy(update=found))

    async def serve(module: Any, made: Any) -> str:
        identify = await process.identify(made)
        server = Server(await module.assemble(made, process), made, identify)
        await server.start("127.0.0.1:0")
        servers.append(server)
        return f"127.0.0.1:{server.port}"

    await serve(ingestion, settings(IngestionSettings))
    at_retrieval = await serve(retrieval, settings(RetrievalSettings))
    at_generation = await serve(generation, settings(GenerationSettings))
    await serve(query, settings(QuerySettings, retrieval=at_retrieval, generation=at_generation))
    return servers


async def ingest_remotely(port: int, documents: Sequence[pb.DocumentInput], folder: Path) -> dict[str, Any]:
    """Have a client process ingest ``documents``, so that its work is not this loop's; return what it counted."""
    file = folder / "batch.bin"
    file.write_bytes(pb.IngestDocumentsRequest(documents=documents).SerializeToString())
    client = await asyncio.create_subprocess_exec(
        sys.executable,
        str(ROOT / "benchmarks" / "ingest.py"),
        "--client",
        f"127.0.0.1:{port}",
        str(file),
        env={**os.environ, "GROUNDWIRE_DATA_DIR": str(folder)},
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await client.communicate()
    if client.returncode != 0:
        sys.exit("the client failed")
    counted: dict[str, Any] = json.loads(output)
    return counted


async def client(address: str, documents: Sequence[pb.DocumentInput]) -> None:
    """Ingest the documents, four calls at a time; print the counts as JSON."""
    async with open_client_channel(address) as channel:  # with a token of the data directory's developer
        stub: Any = rpc.IngestionServiceStub(channel)
        four = asyncio.Semaphore(4)

        async def send(batch: Sequence[pb.DocumentInput]) -> pb.IngestDocumentsResponse:
            async with four:
                response: pb.IngestDocumentsResponse = await stub.IngestDocuments(
                    pb.IngestDocumentsRequest(documents=batch), timeout=600
                )
                return response

        await channel.channel_ready()
        started = time.perf_counter()
        batches = [documents[first : first + _BATCH] for first in range(0, len(documents), _BATCH)]
        responses = await asyncio.gather(*map(send, batches))
        seconds = time.perf_counter() - started
    chunks = sum(result.chunks for response in responses for result in response.results)
    failed = sum(response.failed for response in responses)
    print(json.dumps({"seconds": seconds, "chunks": chunks, "failed": failed}))


def peak_rss_mib(pids: Sequence[int]) -> float:
    """The peaks of these processes and their children, added up."""
    total = 0
    for pid in pids:
        for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
            for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    total += int(line.split()[1])
    return total / 1024


async def measure(count: int) -> dict[str, Any]:
    """One run."""
    source, documents = passages(count)
    _say(f"{len(documents)} documents from {source}")
    embedder = Recording(await OnnxEmbedder.load())
    process = Process(embedder=embedder)
    lag = LoopLag()
    with tempfile.TemporaryDirectory(prefix="groundwire-bench-") as folder:
        data_dir = Path(folder)
        async with store_process(data_dir) as store:
            servers = await mesh(data_dir, process)
            await serving(servers[0].settings.address("store"), store)
            watcher = asyncio.create_task(lag.run())
            through, alone, chunks, failed = 0.0, 0.0, 0, 0
            cpu_through, cpu_alone = 0.0, 0.0
            size = -(-len(documents) // _ROUNDS)
            for turn in range(_ROUNDS):
                batch = documents[turn * size : (turn + 1) * size]
                if not batch:
                    break
                embedder.texts.clear()
                lag.watching = True
                cpu = time.process_time()
                counted = await ingest_remotely(servers[0].port, batch, data_dir)
                lag.watching = False
                cpu_through += time.process_time() - cpu
                texts = list(embedder.texts)
                started, cpu = time.perf_counter(), time.process_time()
                await embedder.embed_passages(texts)
                alone += time.perf_counter() - started
                cpu_alone += time.process_time() - cpu
                through += counted["seconds"]
                chunks += counted["chunks"]
                failed += counted["failed"]
                _say(
                    f"{min((turn + 1) * size, len(documents))} of {len(documents)}: {chunks / through:.1f} chunks/s"
                    f" through the mesh, {chunks / alone:.1f} alone, loop lag p99 {lag.percentile(0.99):.1f} ms"
                )
            peak = peak_rss_mib([os.getpid()])
            store_cpu = sum(psutil.Process(store.pid).cpu_times()[:2])
            watcher.cancel()
            for server in reversed(servers):
                await server.drain(delay=0.0)
    await process.close()
    return {
        "source": source,
        "documents": len(documents),
        "failed": failed,
        "chunks": chunks,
        "chunks_per_s": round(chunks / through, 2),
        "embedder_alone_per_s": round(chunks / alone, 2),
        "ratio_vs_embedder": round(alone / through, 3),
        "loop_lag_p50_ms": round(lag.percentile(0.5), 2),
        "loop_lag_p99_ms": round(lag.percentile(0.99), 2),
        "loop_lag_max_ms": round(lag.percentile(1.0), 2),
        "peak_rss_mib": round(peak, 1),
        "serving_cpu_ms_per_chunk": round(1000 * cpu_through / max(1, chunks), 2),
        "embedder_cpu_ms_per_chunk": round(1000 * cpu_alone / max(1, chunks), 2),
        "store_cpu_ms_per_chunk": round(1000 * store_cpu / max(1, chunks), 2),
    }


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Run the benchmark, or be its client."""
    parser = argparse.ArgumentParser(description="Ingestion against the bare embedder.")
    parser.add_argument("--documents", type=int, default=600, help="how many passages to ingest (default: 600)")
    parser.add_argument("--client", nargs=2, metavar=("ADDRESS", "FILE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.client:
        address, file = arguments.client
        asyncio.run(client(address, pb.IngestDocumentsRequest.FromString(Path(file).read_bytes()).documents))
        return
    print(json.dumps(asyncio.run(measure(arguments.documents))))


if __name__ == "__main__":
    main()
