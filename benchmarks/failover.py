"""What a caller notices while things break: real processes on loopback, one fault at a time, under a steady load.

Retrieval and generation have a primary and a backup each; a caller with failover channels asks them at a fixed rate (a
fifth are searches), whether or not earlier calls have ended, and does not try again itself. Then

    kill        both primaries are killed (SIGKILL) at once, and started again a little later
    stop        both are stopped (SIGSTOP: connections stay open, nothing answers), and let go on later
    restart     every service of a mesh with two of each front service is restarted, one after another, while questions
                are answered
    overload    one retrieval service gets five times as many calls as it can answer

    python benchmarks/failover.py [--rate N] [--seconds N] [--faults kill,stop,...]

The last line on stdout is one JSON object; for each fault

    calls           calls made
    lost            calls that failed; under overload those that got neither an answer nor a clear "come back later"
    worst_ms        the longest that a call took, from the fault on
    recovery_ms     from the fault until no call was disturbed any more (failed, or slower than every call before the fault
                    by more than 50 ms); under overload from its end on
    usual_ms        the median before the fault

and for kill and stop also ``back_ms``, from the return of a primary until it was called again, and ``changes``, how
often the caller changed its mind about a primary for each transition. For overload: ``goodput_ratio``, answers per second against the peak
measured just before, and ``health_ms``, the slowest answer of the health service meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks._replicas import READY, Replica, Replicas, failover_channel, replicas
from groundwire.generation.v1 import generation_service_pb2 as generation_pb
from groundwire.generation.v1 import generation_service_pb2_grpc as generation_rpc
from groundwire.query.v1 import query_service_pb2 as query_pb
from groundwire.query.v1 import query_service_pb2_grpc as query_rpc
from groundwire.retrieval.v1 import retrieval_service_pb2 as retrieval_pb
from groundwire.retrieval.v1 import retrieval_service_pb2_grpc as retrieval_rpc
from services.resilience.endpoints import Member, Role
from services.resilience.pool import PoolEvent
from services.runtime.failover_channel import FailoverChannel

FAULTS = ("kill", "stop", "restart", "overload")
QUESTION = "How long are backups kept?"
_ROOT = Path(__file__).resolve().parent.parent
_DISTURBED = 0.05
Call = Callable[[], Awaitable[Any]]


# --- load --------------------------------------------------------------------------------------------------------------


@dataclass
class Load:
    """A call at a fixed rate, each on its own, and what became of it: when it began, how long it took, its error."""

    call: Call
    rate: float
    done: list[tuple[float, float, BaseException | None]] = field(default_factory=list)
    _stopped: bool = False

    async def run(self) -> None:
        """Call until :meth:`stop`, and wait for the last answer."""
        began, number = time.monotonic(), 0
        calls: set[asyncio.Task[None]] = set()
        while not self._stopped:
            calls.add(task := asyncio.ensure_future(self._one()))
            task.add_done_callback(calls.discard)
            number += 1
            await asyncio.sleep(max(0.0, began + number / self.rate - time.monotonic()))
        if calls:
            await asyncio.wait(calls)

    def stop(self) -> None:
        """Make no more calls."""
        self._stopped = True

    async def _one(self) -> None:
        began = time.monotonic()
        error: BaseException | None = None
        try:
            await self.call()
        except grpc.aio.AioRpcError as failed:
            error = failed
        self.done.append((began, time.monotonic() - began, error))

    def summary(self, fault: float, until: float = float("inf")) -> dict[str, Any]:
        """The row of a fault that came at ``fault``; what disturbs calls after ``until`` is something else."""
        before = [took for began, took, error in self.done if began + took < fault and error is None]
        after = [(began, took, error) for began, took, error in self.done if began + took >= fault]
        slow = max(before) + _DISTURBED
        disturbed = [
            began + took for began, took, error in after if (error is not None or took > slow) and began < until
        ]
        return {
            "calls": len(self.done),
            "lost": sum(error is not None for *_, error in self.done),
            "worst_ms": round(1000 * max(took for _, took, _ in after), 1),
            "recovery_ms": round(1000 * max(0.0, max(disturbed, default=fault) - fault), 1),
            "usual_ms": round(1000 * statistics.median(before), 1),
        }

    def errors(self) -> list[str]:
        """What went wrong, for people."""
        return [str(error.details()) for *_, error in self.done if isinstance(error, grpc.aio.AioRpcError)]


def search(channel: grpc.aio.Channel, token: Sequence[tuple[str, str]]) -> Call:
    """A search by words, without reranking: cheap enough to be made often."""
    stub = retrieval_rpc.RetrievalServiceStub(channel)
    request = retrieval_pb.RetrieveRequest(
        query="backups kept", mode=retrieval_pb.RETRIEVAL_MODE_LEXICAL, rerank=retrieval_pb.RERANK_MODE_OFF
    )

    async def call() -> None:
        await stub.Retrieve(request, metadata=token, timeout=10)

    return call


def list_endpoints(channel: grpc.aio.Channel, token: Sequence[tuple[str, str]]) -> Call:
    """A cheap call, of which there can be many."""
    stub = generation_rpc.GenerationServiceStub(channel)

    async def call() -> None:
        await stub.ListEndpoints(generation_pb.ListEndpointsRequest(), metadata=token, timeout=10)

    return call


def question(channel: grpc.aio.Channel, token: Sequence[tuple[str, str]]) -> Call:
    """A question to the front."""
    stub = query_rpc.QueryServiceStub(channel)

    async def call() -> None:
        await stub.Query(query_pb.QueryRequest(query=QUESTION), metadata=token, timeout=60)

    return call


# --- faults ------------------------------------------------------------------------------------------------------------

_FALLING = ("retrieval", "generation")
_FALL = {"store": 1, "witness": 1, "audit": 1, "retrieval": 2, "generation": 2, "ingestion": 1}
_SEARCHING = {"store": 1, "witness": 1, "audit": 1, "retrieval": 1, "ingestion": 1}
# A search takes several processes 25 ms of computing together, most calls a millisecond or two.
_SEARCHES = 0.2
_LIGHT = {"GROUNDWIRE_RETRIEVAL__RERANKER_ENDPOINT": "none:"}


async def primary_faults(kinds: Sequence[str], *, rate: float, seconds: float) -> dict[str, dict[str, Any]]:
    """Kill, or stop, the primary under ``rate`` calls a second; a row for each of ``kinds``.

    ``seconds`` pass before, while it is away, and after.
    """
    rows = {}
    async with replicas(_FALL, _LIGHT) as (running, token):
        for kind in kinds:
            rows[kind] = await _primary_fault(kind, running, token, rate, seconds)
    return rows


async def _primary_fault(
    kind: str, running: Replicas, token: Sequence[tuple[str, str]], rate: float, seconds: float
) -> dict[str, Any]:
    async with AsyncExitStack() as stack:
        channels: list[FailoverChannel] = []
        for service in _FALLING:
            primary, backup = running.of[service]
            channel = failover_channel(service, [primary.address], [backup.address])
            channels.append(await stack.enter_async_context(channel))
            await channel.channel_ready()
        changes: list[bool] = []

        def tell(event: PoolEvent) -> None:
            if event.endpoint is not None and event.endpoint.role is Role.PRIMARY and event.up is not None:
                changes.append(event.up)

        searches, states = search(channels[0], token), list_endpoints(channels[1], token)
        loads = [Load(searches, rate * _SEARCHES), Load(states, rate * (1 - _SEARCHES))]
        for load in loads * 10:
            await load.call()
        calling = [asyncio.ensure_future(load.run()) for load in loads]
        await asyncio.sleep(seconds)
        for channel in channels:
            channel.pool.listeners.append(tell)
        primaries = [running.of[service][0] for service in _FALLING]
        fault = time.monotonic()
        for primary in primaries:
            primary.send(signal.SIGKILL if kind == "kill" else signal.SIGSTOP)
        await asyncio.sleep(seconds)
        returns = time.monotonic()
        back = await asyncio.gather(*(_return(kind, *each) for each in zip(primaries, channels, strict=True)))
        await asyncio.sleep(seconds)
        for load in loads:
            load.stop()
        await asyncio.gather(*calling)
        row = together([load.summary(fault, returns) for load in loads])
        row |= {"back_ms": round(1000 * max(back), 1), "changes": len(changes) / 2 / len(channels)}
        if errors := sorted({error for load in loads for error in load.errors()}):
            row["errors"] = errors[:5]
        return row


async def _return(kind: str, primary: Replica, channel: FailoverChannel) -> float:
    if kind == "kill":
        await primary.end(signal.SIGKILL)
        primary.start()
        await primary.ready()
    else:
        primary.send(signal.SIGCONT)
    return await _called_again(channel.pool.members[0], time.monotonic())


def together(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One row of several loads: sums of calls, and the worst of the rest."""
    return {
        "calls": sum(row["calls"] for row in rows),
        "lost": sum(row["lost"] for row in rows),
        "worst_ms": max(row["worst_ms"] for row in rows),
        "recovery_ms": max(row["recovery_ms"] for row in rows),
        "usual_ms": max(row["usual_ms"] for row in rows),
    }


async def _called_again(member: Member, since: float) -> float:
    turn = member.turn
    async with asyncio.timeout(READY):
        while member.turn == turn:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.01)
    return time.monotonic() - since


_MESH = {"store": 1, "witness": 1, "audit": 1, "retrieval": 2, "generation": 2, "ingestion": 1, "query": 2}


async def rolling_restart(*, rate: float, seconds: float) -> dict[str, Any]:
    """Restart every process, one after another, while questions are asked and searches are made."""
    async with AsyncExitStack() as stack:
        running, token = await stack.enter_async_context(replicas(_MESH))
        to_query = failover_channel("query", [replica.address for replica in running.of["query"]])
        to_retrieval = failover_channel("retrieval", [replica.address for replica in running.of["retrieval"]])
        for channel in (to_query, to_retrieval):
            stack.push_async_callback(channel.close)
            await channel.channel_ready()
        loads = [Load(question(to_query, token), max(0.5, rate / 50)), Load(search(to_retrieval, token), rate / 5)]
        for load in loads:
            await load.call()
        calling = [asyncio.ensure_future(load.run()) for load in loads]
        await asyncio.sleep(max(seconds, 4.0))
        fault = time.monotonic()
        for replica in running.all:
            await replica.end()
            replica.start()
            await replica.ready()
        over = time.monotonic()
        await asyncio.sleep(seconds)
        for load in loads:
            load.stop()
        await asyncio.gather(*calling)
        row = together([load.summary(fault) for load in loads])
        row |= {"restarted": len(running.all), "took_s": round(over - fault, 1)}
        if errors := sorted({error for load in loads for error in load.errors()}):
            row["errors"] = errors[:5]
        return row


# Three passages that the cross-encoder reads for each call: that is what a call costs.
_TOPICS = ("Parental leave", "Annual leave", "Leave for moving house")
_COSTLY = retrieval_pb.RetrieveRequest(
    query="Who approves leave, and how many weeks before?",
    mode=retrieval_pb.RETRIEVAL_MODE_LEXICAL,
    rerank=retrieval_pb.RERANK_MODE_ON,
    top_k=5,
)


async def overload(*, seconds: float) -> dict[str, Any]:
    """Five times the calls that retrieval can answer for ``seconds``, half of them without a deadline."""
    texts = [
        f"{topic} is approved by the head of the department, four weeks before. {topic}. " * 4 for topic in _TOPICS
    ]
    async with replicas(_SEARCHING, texts=texts) as (running, token):
        address = running.of["retrieval"][0].address
        plan = {
            "address": address,
            "method": "/groundwire.retrieval.v1.RetrievalService/Retrieve",
            "request": _COSTLY.SerializeToString().hex(),
            "authorization": token[0][1],
            "patience": 4.0,
            "callers": (2, 4),
            "peak_seconds": min(6.0, seconds / 3),
            "factor": 5.0,
            "overload_seconds": seconds,
        }
        asked: list[tuple[float, float]] = []
        health = asyncio.ensure_future(_ask_for_health(address, asked))
        load = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks._load", json.dumps(plan), stdout=asyncio.subprocess.PIPE, cwd=_ROOT
        )
        printed, _ = await load.communicate()
        health.cancel()
        await asyncio.wait([health])
    measured = json.loads(printed)
    loaded, settling, after = measured["overload"], measured["settling"], measured["after"]
    answers = [took for at, took in asked if loaded["began"] <= at <= loaded["ended"]]
    lost = sum(count for code, count in loaded["codes"].items() if code not in _CLEAR)
    return {
        "calls": loaded["sent"],
        "lost": lost + after["sent"] - after["codes"].get("OK", 0),
        "worst_ms": round(1000 * loaded["worst"], 1),
        "recovery_ms": round(1000 * settling["recovered"], 1),
        "usual_ms": round(1000 / measured["peak"], 1),
        "goodput_ratio": round(loaded["goodput"] / measured["peak"], 2),
        "refused": loaded["codes"].get("RESOURCE_EXHAUSTED", 0),
        "economised": loaded["economised"],
        "health_ms": round(1000 * max(answers), 1),
    }


# What tells a caller clearly where it stands: an answer, "come back later", or the deadline that it set itself.
_CLEAR = frozenset({"OK", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"})


async def _ask_for_health(address: str, answers: list[tuple[float, float]]) -> None:
    """Add when each answer was asked for, and how long it took."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        while True:
            began = time.monotonic()
            await stub.Check(health_pb2.HealthCheckRequest(service="readiness"), timeout=10)
            answers.append((began, time.monotonic() - began))
            await asyncio.sleep(0.05)


async def measure(faults: Sequence[str], *, rate: float, seconds: float) -> dict[str, Any]:
    """A row for each of ``faults``."""
    rows: dict[str, Any] = {}
    print(f"{', '.join(faults)} ...", file=sys.stderr, flush=True)
    if primary := [fault for fault in faults if fault in ("kill", "stop")]:
        rows |= await primary_faults(primary, rate=rate, seconds=seconds)
    if "restart" in faults:
        rows["restart"] = await rolling_restart(rate=rate, seconds=seconds)
    if "overload" in faults:
        rows["overload"] = await overload(seconds=4 * seconds)
    return rows


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rate", type=float, default=50.0, help="calls a second (default: 50)")
    parser.add_argument("--seconds", type=float, default=6.0, help="before, during and after a fault (default: 6)")
    parser.add_argument("--faults", default=",".join(FAULTS), help="which, with commas between them")
    options = parser.parse_args()
    faults = options.faults.split(",")
    if unknown := [fault for fault in faults if fault not in FAULTS]:
        parser.error(f"no such fault: {', '.join(unknown)} (there are {', '.join(FAULTS)})")
    rows = asyncio.run(measure(faults, rate=options.rate, seconds=options.seconds))
    print(json.dumps({**rows, "cpus": os.cpu_count()}))


if __name__ == "__main__":
    main()
