"""``groundwire serve``: services in this process."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from cli.errors import CliError, ExitCode, usage
from cli.garbage import keep_everything
from cli.mesh import listen_problem
from cli.options import Globals
from cli.report import tell
from cli.services import TIERS, assembly, settings_class
from services.corpus.errors import FailedPrecondition, GroundwireError, Unavailable
from services.runtime import logs
from services.runtime.data_directory import keep_from_others, require_usable
from services.runtime.lifecycle import die_with_parent, serve_until_stopped
from services.runtime.limits import allow_many_files
from services.runtime.otlp import configured_collector
from services.runtime.process import Process
from services.runtime.restoring import require_restored
from services.runtime.server import Server
from services.runtime.settings import ConfigurationError, Settings
from services.runtime.tls import listening_tls

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Worker:
    """One of several processes of a service: its number, and the pipe to its supervisor (:mod:`cli.report`)."""

    number: int
    report: int


def run(
    options: Globals,
    names: Sequence[str],
    *,
    listen: str | None = None,
    insecure: bool = False,
    supervisor: int | None = None,
    worker: Worker | None = None,
) -> None:
    """Serve ``names`` until told to stop. ``supervisor`` is the process whose end is also ours.

    As a ``worker`` this process shares its address with others of the same service.
    """
    if supervisor is not None:
        die_with_parent()
        # It may have died before the kernel knew that we care.
        if os.getppid() != supervisor:
            sys.exit(ExitCode.INTERRUPTED)
    settings = {name: options.load(settings_class(name)) for name in names}
    if insecure:
        settings = {
            name: each.replace(tls=each.tls.model_copy(update={"insecure": True})) for name, each in settings.items()
        }
    logs.configure(next(iter(settings.values())).log, worker=worker.number if worker else None)
    allow_many_files()
    try:
        asyncio.run(_serve(settings, listen, worker))
    except ConfigurationError as error:
        first, *more = str(error).splitlines()
        raise usage(first, *more) from error
    except FailedPrecondition as error:
        # Nothing that a restart would change: a person has to act, as with wrong settings.
        raise CliError(_start_failed(names, error), code=ExitCode.USAGE) from error
    except Unavailable as error:
        raise CliError(_start_failed(names, error), code=ExitCode.UNAVAILABLE) from error
    except GroundwireError as error:
        raise CliError(_start_failed(names, error)) from error


async def _serve(settings: dict[str, Settings], listen: str | None, worker: Worker | None) -> None:
    # Before anything is opened or made.
    configured_collector()
    for name, each in settings.items():
        address = listen or each.address(name)
        listening_tls(each, name, address)
        require_restored(each.data_dir)
        if worker is None:
            _require_free(name, address)
    data_dir = next(iter(settings.values())).data_dir
    require_usable(data_dir)
    if told := await asyncio.to_thread(keep_from_others, data_dir):
        _log.warning(told)
    process = Process(tls=next(iter(settings.values())).tls)
    servers: dict[str, Server] = {}
    telling: list[asyncio.Task[None]] = []
    try:
        # From the back of the mesh to its front, so that a service finds those that it calls.
        for name in (name for tier in reversed(TIERS) for name in tier if name in settings):
            # First, so that whatever a service asks of others at its start is asked with a token.
            identify = await process.identify(settings[name])
            service = await assembly(name)(settings[name], process)
            server = Server(
                service,
                settings[name],
                identify,
                process.telemetry.tracer(name),
                dependencies=process.dependencies(name),
                shared=worker is not None,
                confirm=process.confirm,
            )
            try:
                await server.start(listen or settings[name].address(name))
            except BaseException:
                await service.end()
                raise
            servers[name] = server
            if worker is not None:
                telling.append(asyncio.create_task(tell(worker.report, server)))
        keep_everything()
        await serve_until_stopped([[servers[name] for name in tier if name in servers] for tier in TIERS])
    finally:
        # After an orderly stop nothing is left to drain: this is for a start that failed half-way.
        for server in reversed(servers.values()):
            await server.drain(delay=0.0, grace=0.0)
        await process.close()


def _require_free(name: str, address: str) -> None:
    """Raise ConfigurationError now: what is opened first may take seconds, and has things to tell."""
    host, _, port = address.rpartition(":")
    if (
        not address.startswith("unix:")
        and port.isdecimal()
        and (problem := listen_problem(host.strip("[]"), int(port)))
    ):
        raise ConfigurationError(
            f"{name}: cannot listen on {address}: {problem} (is another groundwire running? `groundwire status` shows it)"
        )


def _start_failed(names: Sequence[str], error: GroundwireError) -> str:
    who = names[0] if len(names) == 1 else "the mesh"
    return f"{who} cannot start: {error.message}"
