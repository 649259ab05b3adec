"""The audit log's durable events per second, beside a bare write+fdatasync loop of the same batch sizes.

Callers append one event at a time to the log itself (chain, tree, checkpoints, group commit), as many at once as
`--callers` says. Rounds alternate with a loop that does nothing but write and fdatasync batches of the very sizes that
group commit made, in the same directory: what remains of the disk's speed is the ratio of the two. Then the same events
go through the service, over gRPC, in batches, and the CPU time of the serving process is taken.

    python benchmarks/audit.py --events 40000

The last line on stdout is one JSON object with
    events_per_s          durable, at `--callers` concurrent callers
    p50_ms, p99_ms        of one append
    ratio_vs_fsync_loop   events_per_s divided by the bare loop's
    service_cpu_us_per_event, service_events_per_s      AppendEvents with 100 events a call
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from groundwire.audit.v1 import audit_service_pb2 as pb
from services.audit import convert
from services.audit.checkpointing import Checkpointing, WitnessKey
from services.audit.event import AuditEvent, Decision
from services.audit.log import AuditLog, LoggedEvent
from services.audit.note import Algorithm, Signer
from services.journal.files import DirectoryFiles

_ROUNDS = 4
_BATCH = 100


class CountingFiles(DirectoryFiles):
    """Remembers how much was written before each fdatasync."""

    def __init__(self, directory: Path, lock: int | None) -> None:
        super().__init__(directory, lock)
        self.sizes: list[int] = []

    def write(self, handle: int, data: bytes) -> None:
        """See the port."""
        self.sizes.append(len(data))
        super().write(handle, data)


def event(number: int) -> AuditEvent:
    """An event of a question that was answered from five passages."""
    return AuditEvent(
        event_id=f"{number:032x}",
        time=1_780_000_000_000_000_000 + number,
        tenant="default",
        principal="user:alice",
        method="/groundwire.query.v1.QueryService/Query",
        decision=Decision.ALLOWED,
        request_id=f"{number:032x}",
        trace_id=f"{number:032x}",
        client_address="ipv4:127.0.0.1:40000",
        resource="collections/default",
        policy_version="1",
        query_hmac=bytes(32),
        document_ids=tuple(f"handbook-{n}" for n in range(5)),
        chunk_ids=tuple(f"handbook-{n}:1:{n}" for n in range(5)),
        model_endpoint="extractive",
        answer_sha256=bytes(32),
        duration=41_000_000,
    )


async def through_log(directory: Path, events: list[AuditEvent], callers: int) -> dict[str, Any]:
    """Append with so many callers at once."""
    files = CountingFiles.open(directory / "events")
    log = await AuditLog.open(
        files, DirectoryFiles.open(directory / "checkpoints"), Signer("bench", Algorithm.ED25519, bytes(32))
    )
    checkpointing = Checkpointing(log, None, WitnessKey())
    checkpointing.start()
    files.sizes.clear()
    latencies: list[float] = []
    waiting = iter(events)

    async def caller() -> None:
        for one in waiting:
            began = time.perf_counter()
            await log.append([one])
            latencies.append(time.perf_counter() - began)

    started = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    seconds = time.perf_counter() - started
    await checkpointing.close()
    await log.close()
    return {"seconds": seconds, "latencies": latencies, "sizes": files.sizes}


def bare_loop(directory: Path, sizes: list[int]) -> float:
    """Seconds to write and fdatasync batches of these sizes, and nothing else."""
    data = os.urandom(max(sizes))
    handle = os.open(directory / "bare", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    started = time.perf_counter()
    for size in sizes:
        os.write(handle, data[:size])
        os.fdatasync(handle)
    seconds = time.perf_counter() - started
    os.close(handle)
    return seconds


async def through_service(directory: Path, events: list[AuditEvent]) -> tuple[float, float]:
    """What the handler does, from the request's bytes to the response's: seconds, and CPU seconds of all threads."""
    requests = [
        pb.AppendEventsRequest(
            events=[convert.write_event(LoggedEvent(0, one, b"")).event for one in events[at : at + _BATCH]]
        ).SerializeToString()
        for at in range(0, len(events), _BATCH)
    ]
    log = await AuditLog.open(
        DirectoryFiles.open(directory / "events"),
        DirectoryFiles.open(directory / "checkpoints"),
        Signer("bench", Algorithm.ED25519, bytes(32)),
    )

    async def handle(data: bytes) -> None:
        indexes = await log.append(convert.read_events(pb.AppendEventsRequest.FromString(data)))
        pb.AppendEventsResponse(indexes=indexes).SerializeToString()

    started, cpu = time.perf_counter(), time.process_time()
    for at in range(0, len(requests), 8):
        await asyncio.gather(*map(handle, requests[at : at + 8]))
    took = time.perf_counter() - started, time.process_time() - cpu
    await log.close()
    return took


async def measure(count: int, callers: int) -> dict[str, Any]:
    """One run."""
    size = count // _ROUNDS
    latencies: list[float] = []
    sizes: list[int] = []
    through = bare = 0.0
    with tempfile.TemporaryDirectory(prefix="groundwire-bench-", dir=Path.cwd()) as folder:
        for turn in range(_ROUNDS):
            directory = Path(folder) / str(turn)
            directory.mkdir()
            found = await through_log(directory, [event(turn * size + n) for n in range(size)], callers)
            through += found["seconds"]
            latencies += found["latencies"]
            sizes += found["sizes"]
            bare += bare_loop(directory, found["sizes"])
        served = Path(folder) / "service"
        served.mkdir()
        seconds, cpu = await through_service(served, [event(n) for n in range(size)])
    done = size * _ROUNDS
    return {
        "events": done,
        "callers": callers,
        "events_per_s": round(done / through),
        "p50_ms": round(1000 * float(np.quantile(latencies, 0.5)), 2),
        "p99_ms": round(1000 * float(np.quantile(latencies, 0.99)), 2),
        "fsync_loop_events_per_s": round(done / bare),
        "ratio_vs_fsync_loop": round(bare / through, 3),
        "events_per_commit": round(done / len(sizes), 1),
        "service_events_per_s": round(size / seconds),
        "service_cpu_us_per_event": round(1_000_000 * cpu / size, 1),
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description="Durable audit events per second.")
    parser.add_argument("--events", type=int, default=40_000, help="how many events to append (default: 40,000)")
    parser.add_argument("--callers", type=int, default=64, help="how many callers at once (default: 64)")
    arguments = parser.parse_args()
    print(json.dumps(asyncio.run(measure(arguments.events, arguments.callers))))


if __name__ == "__main__":
    main()
