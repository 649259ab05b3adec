"""A service in a process of its own, honest callers beside a hostile one, and what the service's process costs."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from groundwire.generation.v1 import generation_service_pb2 as pb
from groundwire.generation.v1 import generation_service_pb2_grpc as rpc
from tests.support.processes import GROUNDWIRE, ROOT, Running, health, running, settings_environment, until

LIST_ENDPOINTS = "/groundwire.generation.v1.GenerationService/ListEndpoints"
# Calls that one honest channel makes before it is replaced: who is new must be let in, too.
_CALLS_PER_CHANNEL = 25
_MIB = 1024


@dataclass(frozen=True)
class Target:
    """The service under attack."""

    address: str
    token: str
    running: Running

    @property
    def files(self) -> int:
        """How many files its process has open."""
        return sum(1 for _ in Path(f"/proc/{self.running.process.pid}/fd").iterdir())

    def memory(self) -> tuple[float, float]:
        """What its process holds now, and has held at most since :meth:`forget_peak`, in MiB."""
        lines = Path(f"/proc/{self.running.process.pid}/status").read_text(encoding="ascii").splitlines()
        sizes = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
        return int(sizes["VmRSS"][0]) / _MIB, int(sizes["VmHWM"][0]) / _MIB

    def forget_peak(self) -> None:
        """Measure the peak anew from here."""
        Path(f"/proc/{self.running.process.pid}/clear_refs").write_text("5", encoding="ascii")


@contextmanager
def generation_served(data_dir: Path, **connections: float) -> Iterator[Target]:
    """`groundwire serve generation` with these settings of ``[connections]``."""
    addresses, environment = settings_environment(data_dir)
    environment |= {f"GROUNDWIRE_CONNECTIONS__{name.upper()}": str(value) for name, value in connections.items()}
    environment["GROUNDWIRE_DRAIN__DELAY"] = "60"
    address = addresses["generation"]
    with running(*GROUNDWIRE, "serve", "generation", environment=environment) as process:
        until(lambda: health(address) == "SERVING", "generation", process)
        command = [*GROUNDWIRE, "token"]
        minted = subprocess.run(
            command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=True
        )
        yield Target(address, minted.stdout.strip(), process)
        process.process.kill()  # it would drain for as long as the attackers stay


@dataclass
class Honest:
    """Callers that do everything right, one call after another, and what became of them."""

    target: Target
    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    async def call(self, enough: Callable[[int], bool]) -> None:
        """Call until ``enough`` says so of the number of calls; each some milliseconds after the other."""
        done = 0
        metadata = (("authorization", f"Bearer {self.target.token}"),)
        while not enough(done):
            options = [("grpc.use_local_subchannel_pool", 1)]
            async with grpc.aio.insecure_channel(self.target.address, options=options) as channel:
                stub: Any = rpc.GenerationServiceStub(channel)
                # Connecting is not what is timed: an honest client does it once.
                await asyncio.wait_for(channel.channel_ready(), 60)
                for _ in range(_CALLS_PER_CHANNEL):
                    begun = time.perf_counter()
                    try:
                        await stub.ListEndpoints(pb.ListEndpointsRequest(), timeout=60, metadata=metadata)
                    except grpc.aio.AioRpcError as error:
                        self.failures.append(f"{error.code()}: {error.details()}")
                    self.seconds.append(time.perf_counter() - begun)
                    await asyncio.sleep(0.003)
                    done += 1

    @property
    def p99(self) -> float:
        """Of all calls so far, in seconds."""
        return sorted(self.seconds)[int(len(self.seconds) * 0.99)]


@dataclass
class Hostile:
    """The hostile process; ``report`` asks it what the server did about it so far."""

    process: subprocess.Popen[str]
    first: dict[str, int] = field(default_factory=dict)

    async def stands(self) -> dict[str, int]:
        """Wait until the attack has been carried out."""
        self.first = await asyncio.to_thread(self._read)
        return self.first

    def report(self) -> dict[str, int]:
        """Ask for another report."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, int]:
        assert self.process.stdout is not None
        read: dict[str, int] = json.loads(self.process.stdout.readline())
        return read


@contextmanager
def attacking(address: str, attack: str, options: Mapping[str, Any]) -> Iterator[Hostile]:
    """Start an attack (see tests/support/hostile.py) in a process of its own; it lets go in the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.hostile", address, attack, json.dumps(options)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Hostile(process)
    finally:
        process.kill()
        process.communicate()
