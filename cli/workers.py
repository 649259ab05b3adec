"""``groundwire serve`` with ``workers``: a small process that keeps several of one service running on one address.

It serves nothing itself and does not load gRPC. SIGTERM and Ctrl-C drain all workers together; SIGHUP puts a new one,
which reads its settings anew, in the place of each.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import structlog

from cli.errors import CliError, ExitCode, usage
from cli.interrupts import BUT_HANGUP, first_of, interrupts
from cli.options import Globals
from cli.services import settings_class
from cli.supervisor import Child, Supervisor
from cli.text import seconds
from services.runtime import logs
from services.runtime.otlp import configured_collector
from services.runtime.settings import Settings
from services.runtime.shared_port import Reservation, reserve

# Seconds: for the first worker to serve, for a new one to be ready, and beyond what a drain may take.
_START = 120.0
_REPLACEMENT = 120.0
_PATIENCE_MARGIN = 10.0
_log = structlog.get_logger(__name__)


def worker_count(settings: Settings, service: str) -> int:
    """How many processes ``service`` has; 1 for services that cannot have more."""
    return int(getattr(getattr(settings, service, None), "workers", 1))


def workers_of(service: str, count: int, address: str, *options: str) -> tuple[list[Child], Reservation]:
    """The processes of ``service``, and the port that is held for them.

    CliError when ``address`` cannot be shared, or somebody else has it.
    """
    if address.startswith("unix:"):
        raise usage(
            f"{service}.workers: {count} processes cannot share a unix socket ({address}); "
            f"give addresses.{service} a HOST:PORT, or set workers to 1"
        )
    if sys.platform != "linux":
        raise usage(f"{service}.workers: several processes on one port need Linux; set workers to 1")
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise usage(f"{service}: cannot listen on {address!r}: that is not HOST:PORT")
    try:
        held = reserve(host.strip("[]"), int(port))
    except OSError as error:
        raise usage(
            f"{service}: cannot listen on {address}: {(error.strerror or str(error)).lower()} "
            "(is another groundwire running? `groundwire status` shows it)"
        ) from None
    arguments = ("serve", service, "--listen", f"{host}:{held.port}", *options)
    return [Child(f"{service} worker {number}", arguments, (service,), number) for number in range(1, count + 1)], held


def supervise(options: Globals, service: str, settings: Settings, *, listen: str | None, insecure: bool) -> int:
    """Keep the workers of ``service`` running until told to stop; the exit code. CliError when they cannot be."""
    count, address = worker_count(settings, service), listen or settings.address(service)
    logs.configure(settings.log)

    def say(message: str) -> None:
        _log.warning(message, service=service)

    configured_collector()  # here, so that a wrong variable is told once, and not by each worker
    children, held = workers_of(service, count, address, *(("--insecure",) if insecure else ()))
    running = Supervisor(
        [children],
        _nobody,
        environment=os.environ,
        patience=settings.drain.delay + settings.drain.grace + _PATIENCE_MARGIN,
        say=say,
        options=("--debug",) if options.debug else (),
        held=(held,),
    )
    # An old worker lets its connections end before it drains.
    farewell = settings.workers.connection_age * 1.1 + settings.drain.grace + 2 * _PATIENCE_MARGIN
    _log.info("starting workers", service=service, workers=count, port=held.port)
    try:
        return asyncio.run(_run(running, service, farewell))
    except CliError as error:
        if error.message:
            raise
        return error.code  # the worker has said why


async def _run(running: Supervisor, service: str, farewell: float) -> int:
    hangup = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hangup.set)
    with interrupts(running.kill, BUT_HANGUP) as interrupted:
        kept = asyncio.ensure_future(_keep(running, service, hangup, farewell))
        try:
            await first_of(kept, interrupted.first)
            if kept.done():
                kept.result()
        finally:
            kept.cancel()
            await asyncio.wait({kept})
            await running.stop()
    _log.info("stopped", service=service)
    return ExitCode.OK


async def _keep(running: Supervisor, service: str, hangup: asyncio.Event, farewell: float) -> None:
    starting = asyncio.ensure_future(running.start())
    serving = asyncio.ensure_future(running.serves())
    try:
        await asyncio.wait({starting, serving}, timeout=_START, return_when=asyncio.FIRST_COMPLETED)
        if not (starting.done() or serving.done()):
            raise CliError(f"no worker of {service} served within {seconds(_START)}", code=ExitCode.UNAVAILABLE)
        # What they depend on may come later.
        await starting
    finally:
        serving.cancel()
        if not starting.done():
            starting.cancel()
            await asyncio.wait({starting})
    ended = asyncio.ensure_future(running.run())
    try:
        while True:
            asked = asyncio.ensure_future(hangup.wait())
            await first_of(ended, asked)
            asked.cancel()
            if not ended.done():
                hangup.clear()
                _log.info("replacing workers", service=service)
                replacing = asyncio.ensure_future(running.replace(within=_REPLACEMENT, patience=farewell))
                try:
                    await first_of(ended, replacing)
                finally:
                    replacing.cancel()
                    await asyncio.wait({replacing})
                if not replacing.cancelled() and replacing.result():
                    _log.info("all workers are replaced", service=service)
            if ended.done():
                ended.result()
    finally:
        ended.cancel()


async def _nobody(child: Child) -> None:
    raise AssertionError(f"{child.name} tells by itself when it is ready")


def count_workers(options: Globals, service: str) -> tuple[int, Settings]:
    """The service's settings, and how many processes they give it."""
    settings = options.load(settings_class(service))
    return worker_count(settings, service), settings
