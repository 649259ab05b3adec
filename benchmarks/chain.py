"""What the interceptors cost: a unary call through the production chain against a bare grpc.aio echo.

One process on one core serves the same handler several times, each time behind one interceptor more of the chain that
services/runtime/server.py builds: from none (bare) to all of them, with a real tracer and a real, signed token. The last
one records every call (AUDIT_ALWAYS) in a spool that is handed on to an audit service in a process of its own. A client
on another core calls one server at a time, in short rounds and an order that changes, so that noise of the machine falls
on all alike.

    python benchmarks/chain.py [--rounds N] [--calls N]

The last line on stdout is one JSON object:

    ratio_full_chain    throughput through the whole chain, divided by the bare echo's (median over the rounds). Throughput
                        is calls per second of the server's core: calls divided by the processor time of its process
    ratio_with_audit    the same through the chain that records every call, handing the events on included
    ratio_wall, ratio_wall_with_audit       both by wall clock, client included
    rows                for each layer: the microseconds per call that it adds, and the ratio up to and with it
    us_per_call_bare    processor time of a bare call in the server; the least of the rounds, as in all such figures
    callers, calls      concurrent callers; calls per server and round

What a bare call costs depends on the machine more than what the layers add: where it is cheap the ratios are lower. And
the chain that records calls may turn out cheaper than the one that does not, because it answers calls in groups, as the
spool makes their events durable; with each event written in the turn of the loop in which it came, ``ratio_with_audit``
was 0.36 and 0.41 where it was 0.76 and 0.80 before.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from cli.garbage import collect_rarely, keep_everything
from groundwire.query.v1 import query_service_pb2 as pb
from groundwire.query.v1 import query_service_pb2_grpc as rpc
from interceptors._shapes import Context, Layer
from interceptors.authentication import Authentication
from interceptors.chain import Position, build
from services.runtime import development
from services.runtime.auditing.delivery import open_recorder
from services.runtime.authentication import TokenAuthentication
from services.runtime.channels import open_channel
from services.runtime.server import MIB, Server, Service, refuse_unknown, server_options
from services.runtime.settings import Settings
from services.runtime.telemetry import sdk_tracer
from services.security.tokens import TokenVerifier

CALLERS = 64
# What a call leaves to be done, handing its event on, is done after this, in seconds; it counts.
_QUIET = 0.15
AUDITED = "audit, every call on record"
UNCACHED = "authentication, token not cached"


async def echo(request: pb.QueryRequest, _context: Context) -> pb.QueryResponse:
    """Say what was asked."""
    return pb.QueryResponse(answer=request.query)


class Nowhere(SpanExporter):
    """Takes spans and drops them."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """See the class."""
        del spans
        return SpanExportResult.SUCCESS


# --- the server's process ----------------------------------------------------------------------------------------------


async def serve(data_dir: Path) -> None:
    """Serve the echo behind every part of the chain until stdin ends; print the ports."""
    collect_rarely()  # as `groundwire serve` does
    settings = Settings(data_dir=data_dir)
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(Nowhere()))
    authentication = await TokenAuthentication.start(settings)
    recorder = await open_recorder(
        "query", settings.spool_path("query"), open_channel(settings.address("audit")), max_bytes=256 * MIB
    )
    service = Service(
        "query", [pb.DESCRIPTOR.services_by_name["QueryService"]], _register, _nothing, authentication.close, recorder
    )
    production = Server(
        service, settings, authentication.identify, sdk_tracer(provider, "benchmark"), confirm=authentication.confirm
    )
    everything = production.layers("127.0.0.1:0")
    layers = [found for found in everything if found[0] not in (Position.AUDIT, Position.ANNOUNCEMENT)]
    named: dict[str, list[tuple[Position, Layer]]] = {"bare": [], "(the chain itself)": []}
    for n, (position, _) in enumerate(layers, start=1):
        named[position.name.lower()] = layers[:n]
    named[UNCACHED] = [
        (position, _uncached(authentication) if position is Position.AUTHENTICATION else layer)
        for position, layer in layers
    ]
    named[AUDITED] = everything
    servers, ports = [], {}
    for name, some in named.items():
        interceptors = (
            [] if name == "bare" else [build(some, refuse_unknown, request_time=settings.connections.request_time)]
        )
        server = grpc.aio.server(interceptors=interceptors, options=server_options(4 * MIB))
        _register(server)
        ports[name] = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        servers.append(server)
    keep_everything()
    print(json.dumps({"ports": ports, "token": development.mint(settings)}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for server in servers:
        await server.stop(None)
    await recorder.close()
    await authentication.close()


def _register(server: grpc.aio.Server) -> None:
    handler = grpc.unary_unary_rpc_method_handler(echo, pb.QueryRequest.FromString, pb.QueryResponse.SerializeToString)
    name = pb.DESCRIPTOR.services_by_name["QueryService"].full_name
    server.add_registered_method_handlers(name, {"Query": handler})


async def _nothing() -> None:
    """Nothing is needed."""


def _uncached(authentication: TokenAuthentication) -> Authentication:
    """Verifies every call's token from its signature on, as if it had never been seen."""
    verifier: TokenVerifier = authentication._verifier  # noqa: SLF001 - what would be asked if nothing were remembered

    async def identify(call: Any) -> Any:
        verifier._accepted.clear()  # noqa: SLF001
        return await authentication.identify(call)

    return Authentication(identify, lambda _: False)


# --- the client --------------------------------------------------------------------------------------------------------


@dataclass
class Measured:
    """One server's rounds: seconds per call, of the server's processor and by the clock."""

    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)


async def measure(ports: dict[str, int], token: str, pid: int, rounds: int, calls: int) -> dict[str, Measured]:
    """Load one server after another, ``rounds`` times."""
    metadata = (("authorization", f"Bearer {token}"),)
    channels = {name: grpc.aio.insecure_channel(f"127.0.0.1:{port}") for name, port in ports.items()}
    measured = {name: Measured() for name in ports}
    request = pb.QueryRequest(query="How long are backups kept?")

    async def load(name: str, total: int) -> None:
        call: Any = rpc.QueryServiceStub(channels[name]).Query
        left = iter(range(total))

        async def caller() -> None:
            for _ in left:
                await call(request, metadata=metadata, timeout=60)

        await asyncio.gather(*(caller() for _ in range(CALLERS)))

    for name in ports:
        await load(name, calls)  # connections, caches and allocators warm up
    order = list(ports)
    chance = random.Random(1)
    for number in range(rounds):
        # Never the same neighbours, so that what one leaves behind falls on all alike.
        chance.shuffle(order)
        for name in order:
            await load(name, CALLERS)
            await asyncio.sleep(_QUIET)
            before, began = processor_seconds(pid), time.perf_counter()
            await load(name, calls)
            measured[name].wall.append((time.perf_counter() - began) / calls)
            await asyncio.sleep(_QUIET)
            measured[name].cpu.append((processor_seconds(pid) - before) / calls)
        if (number + 1) % 10 == 0:
            print(f"round {number + 1} of {rounds}", file=sys.stderr)
    for channel in channels.values():
        await channel.close()
    return measured


def processor_seconds(pid: int) -> float:
    """What a process's threads have used; Linux counts it in nanoseconds (psutil only in hundredths of a second)."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text(encoding="ascii").split()[0]) for thread in threads) / 1e9


def report(measured: dict[str, Measured], calls: int) -> dict[str, Any]:
    """The figures, from medians over the rounds."""

    def ratios(name: str, what: str) -> list[float]:
        pairs = zip(getattr(measured["bare"], what), getattr(measured[name], what), strict=True)
        return [bare / chained for bare, chained in pairs]

    # The least of the rounds: whatever else the machine does can only add to it.
    cost = {name: min(found.cpu) * 1e6 for name, found in measured.items()}
    layers = [name for name in measured if name not in ("bare", UNCACHED, AUDITED)]
    rows, before = [], "bare"
    for name in layers:
        rows.append(
            {
                "layer": name,
                "us_per_call": round(cost[name] - cost[before], 1),
                "ratio_vs_bare": round(statistics.median(ratios(name, "cpu")), 3),
            }
        )
        before = name
    full = layers[-1]
    rows += [
        {
            "layer": name if name == AUDITED else f"({name})",
            "us_per_call": round(cost[name] - cost[full], 1),
            "ratio_vs_bare": round(statistics.median(ratios(name, "cpu")), 3),
        }
        for name in (AUDITED, UNCACHED)
    ]
    return {
        "ratio_full_chain": round(statistics.median(ratios(full, "cpu")), 3),
        "ratio_full_chain_min_max": [round(min(ratios(full, "cpu")), 3), round(max(ratios(full, "cpu")), 3)],
        "ratio_with_audit": round(statistics.median(ratios(AUDITED, "cpu")), 3),
        "ratio_with_audit_min_max": [round(min(ratios(AUDITED, "cpu")), 3), round(max(ratios(AUDITED, "cpu")), 3)],
        "ratio_wall": round(statistics.median(ratios(full, "wall")), 3),
        "ratio_wall_with_audit": round(statistics.median(ratios(AUDITED, "wall")), 3),
        "us_per_call_bare": round(cost["bare"], 1),
        "us_per_call_full": round(cost[full], 1),
        "us_per_call_with_audit": round(cost[AUDITED], 1),
        "rows": rows,
        "callers": CALLERS,
        "calls": calls,
    }


@contextmanager
def audit_service(data_dir: Path, cores: Sequence[int]) -> Iterator[None]:
    """A real one, away from the core that is measured."""
    environment = {
        **os.environ,
        "GROUNDWIRE_DATA_DIR": str(data_dir),
        "GROUNDWIRE_AUDIT__WITNESS": "false",
        "GROUNDWIRE_AUTHENTICATION__REQUIRED": "false",
    }
    command = [str(Path(sys.executable).with_name("groundwire")), "serve", "audit"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        os.sched_setaffinity(process.pid, cores)
        try:
            yield
        finally:
            process.terminate()


def main() -> None:
    """Start the server, measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if options.serve is not None:
        os.sched_setaffinity(0, cores[:1])
        asyncio.run(serve(options.serve))
        return
    with tempfile.TemporaryDirectory(prefix="groundwire-bench-") as folder:
        data = Path(folder) / "data"
        command = [sys.executable, str(Path(__file__).resolve()), "--serve", str(data)]
        os.environ["GROUNDWIRE_ADDRESSES__AUDIT"] = f"unix:{Path(folder) / 'audit.sock'}"
        with (
            audit_service(data, cores[-1:]),
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server,
        ):
            if len(cores) > 1:
                os.sched_setaffinity(0, cores[1:])
            line = (server.stdout or sys.stdin).readline()
            ready = json.loads(line)
            work = measure(ready["ports"], ready["token"], server.pid, options.rounds, options.calls)
            measured = asyncio.run(work)
            if server.stdin is not None:
                server.stdin.close()
    found = report(measured, options.calls)
    for row in found["rows"]:
        print(f"{row['layer']:34} {row['us_per_call']:8.1f} us  {row['ratio_vs_bare']:.3f}", file=sys.stderr)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
