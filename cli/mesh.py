"""A whole mesh on this machine: which processes it has, where they listen, and when they are ready."""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cli.client import open_channel
from cli.errors import CliError, usage
from cli.options import Globals
from cli.services import APART, MESH, TIERS
from cli.supervisor import Child, Supervisor
from cli.workers import count_workers, workers_of
from services.runtime.options import TlsOptions
from services.runtime.settings import ConfigurationError, Settings
from services.runtime.shared_port import Reservation
from services.runtime.tls import CLIENT, listening_tls, open_tls

_DRAIN_DELAY = "0.1"
# Beyond what the drains of a process's tiers may take, in seconds.
_PATIENCE_MARGIN = 10.0
_READY_POLL = 0.1
# Below those that systems give to outgoing connections, which could take one before a service listens on it.
_PORTS = range(20_000, 32_000)


@dataclass(frozen=True)
class Plan:
    """Where everything is. ``environment`` is what makes the children agree."""

    settings: Settings
    environment: Mapping[str, str]
    port_base: int | None
    data_dir_given: bool
    workers: Mapping[str, int]
    """The services that the settings give several processes, and how many."""

    @property
    def addresses(self) -> dict[str, str]:
        """Each service's address, the front of the mesh first."""
        return {name: self.settings.address(name) for name in (*MESH, *APART)}


def plan(
    options: Globals,
    *,
    data_dir: Path | None,
    port_base: int | None,
    level: str | None,
    insecure: bool = False,
    environment: Mapping[str, str] | None = None,
) -> Plan:
    """Read the settings as the children will, with what the command line changes.

    ``environment`` is used in place of this process's own; ``insecure`` is the setting ``tls.insecure``. ``level`` is
    that of logs where no setting says one.
    """
    environment = dict(os.environ if environment is None else environment)
    if options.config is not None:
        environment["GROUNDWIRE_CONFIG"] = str(options.config)
    if data_dir is not None:
        environment["GROUNDWIRE_DATA_DIR"] = str(data_dir.absolute())
    if insecure:
        environment["GROUNDWIRE_TLS__INSECURE"] = "true"
    if port_base is not None:
        ports = free_ports(len(MESH)) if port_base == 0 else range(port_base, port_base + len(MESH))
        for name, port in zip(MESH, ports, strict=True):
            environment[f"GROUNDWIRE_ADDRESSES__{name.upper()}"] = f"127.0.0.1:{port}"
    with environment_of(environment):
        given = options.load(Settings)
    if "level" not in given.log.model_fields_set and level is not None:
        environment["GROUNDWIRE_LOG__LEVEL"] = level
    if "delay" not in given.drain.model_fields_set:
        # Nobody but the mesh itself watches its health here, and it learns of a drain at once.
        environment["GROUNDWIRE_DRAIN__DELAY"] = _DRAIN_DELAY
    with environment_of(environment):
        settings = options.load(Settings)
        counts = {name: count_workers(options, name)[0] for name in MESH}
    workers = {name: count for name, count in counts.items() if count > 1}
    return Plan(settings, environment, port_base, data_dir is not None, workers)


def check_ports(addresses: Mapping[str, str], announced: Collection[str] = (), port_base: int | None = None) -> None:
    """Raise CliError, before anything is started, when an address cannot be listened on.

    ``announced`` are the services where another ``groundwire up`` is about to listen. ``port_base`` is that of the
    command line.
    """
    problems: dict[str, list[str]] = {}
    for name, address in addresses.items():
        if name in announced:
            problems.setdefault("another `groundwire up` listens there", []).append(f"{address} ({name})")
            continue
        if address.startswith("unix:"):
            if socket_answers(address.removeprefix("unix:")):
                problems.setdefault("another groundwire uses this data directory", []).append(f"{address} ({name})")
            continue
        host, _, port = address.rpartition(":")
        if not port.isdecimal() or int(port) > 65535:
            raise usage(f"the {name} service's address {address!r} is not HOST:PORT")
        if problem := listen_problem(host.strip("[]"), int(port)):
            problems.setdefault(problem, []).append(f"{address} ({name})")
    if problems:
        told = "; ".join(f"{', '.join(where)}: {problem}" for problem, where in problems.items())
        who = f"`groundwire status --port-base {port_base}`" if port_base else "`groundwire doctor`"
        raise CliError(
            f"cannot listen on {told}; {who} shows who is there; "
            "--port-base N takes other ports (0: any free ones), --data-dir DIR another directory"
        )


def check_tls(settings: Settings) -> None:
    """Raise CliError, before anything is started, when a service may not listen where it should, or TLS lacks something."""
    problems: dict[str, None] = {}
    for name in (*MESH, *APART):
        try:
            listening_tls(settings, name, settings.address(name))
            open_tls(settings.tls, name)
            # What the supervisor asks with whether everything is ready.
            open_tls(settings.tls, CLIENT)
        except ConfigurationError as error:
            problems[str(error)] = None
    if problems:
        first, *more = problems
        raise usage(first, *more)


def listen_problem(host: str, port: int) -> str | None:
    """Why a server could not listen there, or None."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with closing(socket.socket(family, kind)) as probe:
            # As gRPC does it: connections that have just ended do not count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return (error.strerror or str(error)).lower()
    return None


def socket_answers(path: str) -> bool:
    """Whether a process listens on the unix socket ``path``; a file that a killed one left behind does not count."""
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as probe:
        probe.settimeout(1.0)  # a listener whose queue is full does not answer at once
        return probe.connect_ex(path) == 0


def free_ports(count: int, among: Sequence[int] = _PORTS) -> list[int]:
    """Ports of loopback that nobody listens on now."""
    probes: list[socket.socket] = []
    try:
        for port in random.sample(among, len(among)):
            probe = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            probes.append(probe)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                probes.pop().close()
            if len(probes) == count:
                return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()
    raise CliError(f"fewer than {count} ports are free on this machine; --port-base N names some")


def supervisor(
    planned: Plan,
    *,
    processes: bool,
    say: Callable[[str], None],
    debug: bool = False,
    output: IO[bytes] | None = None,
    lent: Sequence[int] = (),
) -> Supervisor:
    """The processes of the mesh: the store and the witness alone, and the others in one process or in one or more each.

    All of them inherit the descriptors ``lent``. CliError when the port of a service with several cannot be held for
    them.
    """
    held: list[Reservation] = []

    def children(name: str) -> list[Child]:
        if name not in planned.workers:
            return [Child(name, ("serve", name), (name,))]
        found, reservation = workers_of(name, planned.workers[name], planned.addresses[name])
        held.append(reservation)
        return found

    apart = [child for name in APART for child in children(name)]
    front = (
        [[child for name in tier for child in children(name)] for tier in TIERS if tier != APART]
        if processes
        else [[Child("mesh", ("_mesh",), MESH)]]
    )
    drain = planned.settings.drain
    drains = 1 if processes else len(TIERS) - 1

    async def ready(child: Child) -> None:
        await asyncio.gather(
            *(wait_until_ready(planned.addresses[name], planned.settings.tls) for name in child.services)
        )

    return Supervisor(
        [*front, apart],
        ready,
        environment=planned.environment,
        patience=drains * (drain.delay + drain.grace) + _PATIENCE_MARGIN,
        say=say,
        options=("--debug",) if debug else (),
        output=output,
        held=held,
        lent=lent,
    )


async def wait_until_ready(address: str, tls: TlsOptions | None = None) -> None:
    """Return once the service at ``address`` says that it and what it needs are there."""
    async with _channel(address, tls) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        while True:
            try:
                answer = await stub.Check(health_pb2.HealthCheckRequest(service="readiness"), timeout=2.0)
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return
            except grpc.aio.AioRpcError:
                pass
            await asyncio.sleep(_READY_POLL)


@asynccontextmanager
async def _channel(address: str, tls: TlsOptions | None) -> AsyncIterator[grpc.aio.Channel]:
    channel = open_channel(address, tls, reconnect_ms=100)
    try:
        yield channel
    finally:
        await channel.close()


class environment_of:  # noqa: N801 - a context manager that reads like a function
    """The process's environment, changed for a moment: settings are read from nowhere else."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._new = dict(environment)
        self._old: dict[str, str] = {}

    def __enter__(self) -> None:
        self._old = dict(os.environ)
        os.environ.clear()
        os.environ.update(self._new)

    def __exit__(self, *_: object) -> None:
        os.environ.clear()
        os.environ.update(self._old)
