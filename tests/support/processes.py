"""Real processes for end-to-end tests: a mesh in each of its topologies, and the servers that stand beside it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cli import mesh
from tests.support.clients import clients

ROOT = Path(__file__).resolve().parents[2]
GROUNDWIRE = (sys.executable, "-m", "cli.main")
NAMES = ("query", "ingestion", "retrieval", "generation", "audit", "monitoring")
SERVED = ("store", "witness", "audit", "monitoring", "generation", "retrieval", "ingestion", "query")
# Long enough for a machine that is busy with other things; a test that runs into it has failed anyway.
PATIENCE = 90.0
# Each process that runs tests at the same time has ports of its own: one that is free may not be so a moment later.
_PORTS = range(first := 10_000 + 1_000 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]), first + 1_000)


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on, and no other test will."""
    return mesh.free_ports(count, _PORTS)


@dataclass
class Running:
    """A child process and what it has printed so far."""

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)
    reader: threading.Thread | None = None

    def text(self) -> str:
        """Everything printed so far."""
        return "".join(self.lines)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def wait(self) -> int:
        """The exit code, once it has ended and everything that it printed was read."""
        code = self.process.wait(timeout=PATIENCE)
        self.read_all()
        return code

    def read_all(self) -> None:
        """Return when what a process printed that has ended was read; a child that outlives it may go on printing."""
        if self.reader is not None:
            self.reader.join(timeout=5)


@contextmanager
def running(*command: str, environment: Mapping[str, str] | None = None) -> Iterator[Running]:
    """Start a process in a session of its own; end it, and everything that it started, afterwards."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    started = Running(process)
    stream = process.stdout
    assert stream is not None

    def collect() -> None:
        started.lines.extend(iter(stream.readline, ""))

    started.reader = threading.Thread(target=collect, daemon=True)
    started.reader.start()
    try:
        yield started
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        started.read_all()


def until(condition: Callable[[], Any], what: str, alive: Running | None = None) -> Any:
    """Poll ``condition`` until it gives something true; fail when ``alive`` has died or patience runs out."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if found := condition():
            return found
        if alive is not None and alive.process.poll() is not None:
            # It may have printed what is waited for as the last thing that it did.
            alive.read_all()
            if found := condition():
                return found
            raise AssertionError(f"ended with {alive.process.returncode} while waiting for {what}:\n{alive.text()}")
        time.sleep(0.05)
    raise AssertionError(f"no {what} within {PATIENCE:.0f} s" + (f":\n{alive.text()}" if alive else ""))


def health(address: str, service: str = "readiness", *, tls: grpc.ChannelCredentials | None = None) -> str:
    """What the health service at ``address`` says, or "" when it does not answer."""
    with grpc.secure_channel(address, tls) if tls else grpc.insecure_channel(address) as channel:
        try:
            response = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=service), timeout=30
            )
        except grpc.RpcError:
            return ""
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(response.status))


def groundwire(*arguments: str, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a client command to its end."""
    done = clients().run(arguments, {**os.environ, **(environment or {})}, timeout=PATIENCE)
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


@dataclass(frozen=True)
class Mesh:
    """A mesh that is ready: where its services are, its settings' variables, and its processes by name."""

    addresses: Mapping[str, str]
    environment: Mapping[str, str]
    processes: Mapping[str, Running]

    def groundwire(
        self, *arguments: str, check: bool = True, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a client command against this mesh."""
        done = groundwire(*arguments, environment={**self.environment, **(environment or {})})
        if check:
            done.check_returncode()
        return done

    def authorization(self, *arguments: str) -> tuple[tuple[str, str], ...]:
        """Metadata with a token, for calls that are not commands; ``arguments`` are those of ``groundwire token``."""
        return (("authorization", f"Bearer {self.groundwire('token', *arguments).stdout.strip()}"),)

    def ask(self, question: str, *arguments: str) -> dict[str, Any]:
        """The final response to a question, as JSON."""
        asked = self.groundwire("ask", question, "--output", "json", *arguments)
        answer: dict[str, Any] = json.loads(asked.stdout)
        return answer


def settings_environment(data_dir: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Free addresses for every service, and the variables that make a mesh use them."""
    addresses = dict(zip(NAMES, (f"127.0.0.1:{port}" for port in free_ports(len(NAMES))), strict=True))
    environment = {f"GROUNDWIRE_ADDRESSES__{name.upper()}": address for name, address in addresses.items()}
    environment["GROUNDWIRE_DATA_DIR"] = str(data_dir)
    environment["GROUNDWIRE_LOG__FORMAT"] = "json"
    # A machine that is busy with other tests must not leave passages unread, and so change what is answered.
    environment["GROUNDWIRE_RETRIEVAL__RERANK_BUDGET"] = environment["GROUNDWIRE_RETRIEVAL__STORE_TIMEOUT"] = "60"
    environment["GROUNDWIRE_ADMISSION__BROWNOUT"] = "false"
    environment["GROUNDWIRE_ADMISSION__MAX_WAIT"] = "240"
    return addresses, environment


@contextmanager
def mesh_up(
    data_dir: Path,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    tls: grpc.ChannelCredentials | None = None,
    before: Sequence[str] = (),
) -> Iterator[Mesh]:
    """`groundwire up`, ready to be called; ``tls`` is what its ports are asked with, ``before`` a command that runs it."""
    addresses, variables = settings_environment(data_dir)
    variables |= environment or {}
    with running(*before, *GROUNDWIRE, "up", *arguments, environment=variables) as supervisor:
        for name in NAMES:
            until(partial(_ready, addresses[name], tls), f"readiness of {name}", supervisor)
        yield Mesh(addresses, variables, {"up": supervisor})


@contextmanager
def mesh_served(
    data_dir: Path, *, environment: Mapping[str, str] | None = None, services: Sequence[str] = SERVED
) -> Iterator[Mesh]:
    """Each of ``services`` as a `groundwire serve` of its own."""
    addresses, variables = settings_environment(data_dir)
    variables |= environment or {}
    with ExitStack() as stack:
        processes = {}
        for name in services:
            processes[name] = stack.enter_context(running(*GROUNDWIRE, "serve", name, environment=variables))
        for name in NAMES:
            if name in processes:
                until(partial(_ready, addresses[name], None), f"readiness of {name}", processes[name])
        yield Mesh(addresses, variables, processes)


@contextmanager
def chroma_server(directory: Path) -> Iterator[str]:
    """A Chroma server, as the deployment guide starts it; gives its ``host:port``."""
    port = free_ports(1)[0]
    program = str(Path(sys.executable).with_name("chroma"))
    command = (program, "run", "--path", str(directory), "--host", "127.0.0.1", "--port", str(port))
    with running(*command, environment={"ANONYMIZED_TELEMETRY": "False"}) as server:
        until(lambda: _listens(port), "Chroma server", server)
        yield f"127.0.0.1:{port}"


@contextmanager
def collector() -> Iterator[tuple[str, Running]]:
    """A rotel collector that prints the traces that it receives; gives its ``host:port``."""
    program = str(distribution("rotel").locate_file("rotel/rotel-agent"))
    grpc_port, http_port = free_ports(2)
    listen = ("--otlp-grpc-endpoint", f"127.0.0.1:{grpc_port}", "--otlp-http-endpoint", f"127.0.0.1:{http_port}")
    show = ("--exporter", "blackhole", "--debug-log", "traces", "--debug-log-verbosity", "detailed")
    with running(program, "start", *listen, *show) as server:
        until(lambda: _listens(grpc_port), "collector", server)
        yield f"127.0.0.1:{grpc_port}", server


def grpcurl(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run grpcurl."""
    program = str(Path(sys.executable).with_name("grpcurl"))
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=PATIENCE, check=False)


def _ready(address: str, tls: grpc.ChannelCredentials | None) -> bool:
    return health(address, tls=tls) == "SERVING"


def _listens(port: int) -> bool:
    async def connect() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        writer.close()
        return True

    return asyncio.run(connect())
