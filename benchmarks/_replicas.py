"""A mesh whose services have several processes each, and the channel that services call each other with."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import grpc

from cli.mesh import free_ports, wait_until_ready
from groundwire.common.v1 import core_pb2
from groundwire.ingestion.v1 import ingestion_service_pb2 as ingestion_pb
from groundwire.ingestion.v1 import ingestion_service_pb2_grpc as ingestion_rpc
from services.resilience.endpoints import Endpoint, Role
from services.resilience.targets import Target, parse_targets
from services.runtime.channels import open_channel
from services.runtime.failover_channel import FailoverChannel

SERVICES = ("store", "witness", "audit", "retrieval", "generation", "ingestion", "query")
READY = 90.0
"""Seconds until a process must be ready."""
_TEXTS = tuple(f"Backups of system {number} are kept for {number + 1} years." for number in range(20))


@dataclass
class Replica:
    """One process of a service."""

    service: str
    address: str
    environment: Mapping[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, or start it again."""
        command = (sys.executable, "-m", "cli.main", "serve", self.service)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, env={**os.environ, **self.environment}, stdout=log, stderr=log, start_new_session=True
            )

    async def ready(self) -> None:
        """Return once it says that it is."""
        async with asyncio.timeout(READY):
            await wait_until_ready(self.address)

    def send(self, number: int) -> None:
        """Send a signal."""
        if self.process is not None:
            self.process.send_signal(number)

    async def end(self, number: int = signal.SIGTERM) -> None:
        """Send a signal and wait until it has ended."""
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(number)
            await asyncio.to_thread(self.process.wait)
            self.process = None


class Replicas:
    """Some processes of each service, in one data directory."""

    def __init__(
        self, directory: Path, counts: Mapping[str, int], environment: Mapping[str, str] | None = None
    ) -> None:
        ports = iter(free_ports(sum(counts.values())))
        addresses = {name: [f"127.0.0.1:{next(ports)}" for _ in range(count)] for name, count in counts.items()}
        common = {
            "GROUNDWIRE_DATA_DIR": str(directory),
            "GROUNDWIRE_LOG__FORMAT": "json",
            "GROUNDWIRE_DRAIN__DELAY": "0.5",
            # The only store of a mesh is not there for as long as it takes to start; that is to be waited for.
            "GROUNDWIRE_RETRIEVAL__STORE_TIMEOUT": "30",
            "GROUNDWIRE_FAILOVER__PATIENCE": "30",
            **(environment or {}),
        }
        for name, each in addresses.items():
            common[f"GROUNDWIRE_ADDRESSES__{name.upper()}"] = each[0]
            common[f"GROUNDWIRE_ENDPOINTS__{name.upper()}__PRIMARY"] = json.dumps(each)
        self.of: dict[str, list[Replica]] = {}
        for name, each in addresses.items():
            variable = f"GROUNDWIRE_ADDRESSES__{name.upper()}"
            self.of[name] = [
                Replica(
                    name,
                    address,
                    {**common, variable: address},
                    directory / f"{name}-{number}.log",
                )
                for number, address in enumerate(each)
            ]
        self.environment = common

    @property
    def all(self) -> list[Replica]:
        """Every process, the back of the mesh first."""
        return [replica for name in SERVICES for replica in self.of.get(name, ())]

    def token(self) -> tuple[tuple[str, str], ...]:
        """Metadata that lets calls in."""
        command = (sys.executable, "-m", "cli.main", "token")
        made = subprocess.run(
            command, env={**os.environ, **self.environment}, capture_output=True, text=True, check=True
        )
        return (("authorization", f"Bearer {made.stdout.strip()}"),)

    async def __aenter__(self) -> Self:
        for replica in self.all:
            replica.start()
        await asyncio.gather(*(replica.ready() for replica in self.all))
        return self

    async def __aexit__(self, *_: object) -> None:
        for replica in reversed(self.all):
            if replica.process is not None:
                await replica.end(signal.SIGKILL)


@asynccontextmanager
async def replicas(
    counts: Mapping[str, int], environment: Mapping[str, str] | None = None, *, texts: Sequence[str] = _TEXTS
) -> AsyncIterator[tuple[Replicas, tuple[tuple[str, str], ...]]]:
    """Processes that are ready, with a few documents, and what lets calls in."""
    with tempfile.TemporaryDirectory(prefix="gw-failover-", ignore_cleanup_errors=True) as directory:
        async with Replicas(Path(directory), counts, environment) as running:
            token = running.token()
            channel = grpc.aio.insecure_channel(running.of["ingestion"][0].address)
            stub = ingestion_rpc.IngestionServiceStub(channel)
            await stub.IngestDocuments(
                ingestion_pb.IngestDocumentsRequest(
                    documents=[
                        ingestion_pb.DocumentInput(
                            document_id=f"d{number}",
                            media_type="text/plain",
                            content=text.encode(),
                            access=core_pb2.Access(readers=["tenant:*"]),
                        )
                        for number, text in enumerate(texts)
                    ]
                ),
                metadata=token,
                timeout=120,
            )
            await channel.close()
            yield running, token


def failover_channel(service: str, primaries: Sequence[str], backups: Sequence[str] = ()) -> FailoverChannel:
    """What services of the mesh call each other with."""
    targets: list[tuple[Target, Role]] = [
        (target, role)
        for role, addresses in ((Role.PRIMARY, primaries), (Role.BACKUP, backups))
        for address in addresses
        for target in parse_targets(address)
    ]

    def connect(endpoint: Endpoint) -> grpc.aio.Channel:
        return open_channel(endpoint.address, health_checked=False)

    return FailoverChannel(service, targets, connect)
