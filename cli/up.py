"""``groundwire up``: the mesh until Ctrl-C."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rich.text import Text

from cli.errors import CliError, usage
from cli.interrupts import first_of, interrupts
from cli.mesh import Plan, check_ports, check_tls, plan, supervisor
from cli.one_mesh import HeldPorts, MeshLock
from cli.options import Globals
from cli.output import Format, Screen
from cli.supervisor import Supervisor
from services.runtime.data_directory import DATA_DIR_VARIABLE, keep_from_others, require_usable
from services.runtime.otlp import configured_collector
from services.runtime.settings import ConfigurationError, Settings


def up(
    options: Globals,
    screen: Screen,
    *,
    processes: bool,
    data_dir: Path | None,
    port_base: int | None,
    verbose: bool,
    insecure: bool = False,
) -> int:
    """Run the mesh; returns the exit code."""
    level = "info" if verbose else "warning"
    planned = plan(options, data_dir=data_dir, port_base=port_base, level=level, insecure=insecure)

    def say(message: str) -> None:
        screen.note(f"groundwire: {message}")

    check_tls(planned.settings)
    configured_collector()  # here, so that a wrong variable is told once, and before anything is started
    with taken_for_itself(planned, say) as lock:
        return _up(planned, lock, screen, options, processes=processes, say=say)


@contextmanager
def taken_for_itself(planned: Plan, say: Callable[[str], None]) -> Iterator[MeshLock]:
    """Hold the data directory and the ports of ``planned``; CliError, before anything was made, if that cannot be."""
    data_dir = planned.settings.data_dir
    lock = MeshLock.take(data_dir, say, make=False)
    ports = HeldPorts.of(planned.addresses)
    try:
        check_ports(planned.addresses, ports.taken, planned.port_base)
        _check_directories(planned.settings, say)
        lock = lock or MeshLock.take(data_dir, say, make=True)
        if lock is None:
            raise RuntimeError("a lock that may be made is never missing")
        yield lock
    finally:
        ports.close()
        if lock is not None:
            lock.close()


def _check_directories(settings: Settings, say: Callable[[str], None]) -> None:
    """Each is looked at once, and not by every process that needs it."""
    try:
        require_usable(settings.data_dir, named_by=f"--data-dir DIR or {DATA_DIR_VARIABLE}")
        if settings.spool.directory is not None:
            require_usable(settings.spool.directory, "the directory of the spools", "the setting spool.directory")
        for directory in filter(None, (settings.data_dir, settings.spool.directory)):
            if told := keep_from_others(directory):
                say(told)
    except ConfigurationError as error:
        raise usage(str(error)) from error


def _up(
    planned: Plan, lock: MeshLock, screen: Screen, options: Globals, *, processes: bool, say: Callable[[str], None]
) -> int:
    if planned.workers and not processes:
        names = ", ".join(f"{name}.workers" for name in planned.workers)
        say(f"{names}: ignored, because all services share one process; --processes gives each its own")
    running = supervisor(planned, processes=processes, say=say, debug=options.debug, lent=(lock.descriptor,))
    try:
        return asyncio.run(_run(running, planned, screen, options))
    except CliError as error:
        if error.message:
            raise
        return error.code


async def _run(running: Supervisor, planned: Plan, screen: Screen, options: Globals) -> int:
    with interrupts(again=running.kill) as interrupted:
        starting = asyncio.ensure_future(running.start())
        with screen.err.status("Starting Groundwire …"):
            await first_of(starting, interrupted.first)
        if not starting.done():
            starting.cancel()
            await asyncio.wait({starting})
            return interrupted.exit_code
        starting.result()
        show(screen, planned, options)
        ended = asyncio.ensure_future(running.run())
        try:
            await first_of(ended, interrupted.first)
        finally:
            with screen.err.status("Draining: calls in flight may end; Ctrl-C again ends them at once …"):
                await running.stop()
        if ended.done():
            ended.result()
        ended.cancel()
        if screen.pretty:
            screen.note("Stopped.", style="dim")
        return interrupted.exit_code


def show(screen: Screen, planned: Plan, options: Globals) -> None:
    """Where everything is, and what to do with it."""
    data_dir = str(planned.settings.data_dir.absolute())
    if screen.format is Format.JSON:
        screen.json({"addresses": planned.addresses, "data_dir": data_dir})
        return
    sections = {
        "Services": planned.addresses,
        "Data": {"directory": data_dir},
        "Try": commands(planned, options),
    }
    if screen.format is Format.TEXT:
        screen.text("Groundwire is ready.")
        for entries in sections.values():
            screen.text(*(f"{name}: {value}" for name, value in entries.items()))
        screen.text("Ctrl-C stops.")
        return
    screen.out.print(Text("Groundwire is ready.", style="bold green"))
    for title, entries in sections.items():
        screen.out.print(Text(f"\n{title}", style="bold"))
        for line in _pairs(entries):
            # Not wrapped by us: a command that is copied must stay one line.
            screen.out.print(line, soft_wrap=True)
    screen.out.print(Text("\nCtrl-C stops.", style="dim"))


def commands(planned: Plan, options: Globals) -> dict[str, str]:
    """What somebody may want to type next."""
    where = planned.addresses
    base = "groundwire"
    if options.config is not None:
        base += f" --config {shlex.quote(str(options.config))}"
    moved = planned.port_base is not None
    query = where["query"]
    to_query = f" --address {query}" if moved else ""
    to_ingestion = f" --address {where['ingestion']}" if moved else ""
    to_all = _status_options(where) if moved else ""
    first = {}
    if planned.data_dir_given:
        # It holds what this machine's own calls are let in with, too.
        first["first"] = f"export GROUNDWIRE_DATA_DIR={shlex.quote(str(planned.settings.data_dir))}"
    header = ""
    if planned.settings.authentication.required:
        issuers = planned.settings.authentication.issuers
        role = " --subject NAME --role admin" if issuers else ""
        first["a token"] = f"export GROUNDWIRE_TOKEN=$({base} token{role})"
        if issuers and all(issuer.secret is None for issuer in issuers):
            # Nothing on this machine can make one.
            first["a token"] = f"export GROUNDWIRE_TOKEN=…  # of {' or '.join(issuer.name for issuer in issuers)}"
        header = ' -H "authorization: Bearer $GROUNDWIRE_TOKEN"'
    target = f"-authority localhost {query}" if query.startswith("unix:") else query
    plain = "-plaintext"
    if planned.settings.tls.authorities is not None and not query.startswith("unix:"):
        plain = f"-cacert {shlex.quote(str(planned.settings.tls.authorities))}"
    question = '{"query": "How do I …?"}'
    return {
        **first,
        "add documents": f"{base} ingest ./docs --readers 'tenant:*'{to_ingestion}",
        "ask": f'{base} ask "How do I …?"{to_query}',
        "check": f"{base} status{to_all}",
        "any client": f"grpcurl {plain} {target} list",
        "call": f"grpcurl {plain}{header} -d '{question}' {target} groundwire.query.v1.QueryService/Query",
    }


def _status_options(where: Mapping[str, str]) -> str:
    if _consecutive(where):
        return f" --port-base {where['query'].rpartition(':')[2]}"
    return "".join(f" --address {name}={address}" for name, address in where.items())


def _consecutive(where: Mapping[str, str]) -> bool:
    ports = [int(address.rpartition(":")[2]) for address in where.values() if not address.startswith("unix:")]
    return ports == list(range(ports[0], ports[0] + len(ports)))


def _pairs(entries: Mapping[str, str]) -> list[Text]:
    width = max(map(len, entries))
    return [Text.assemble("  ", (name.ljust(width), "cyan"), "  ", value) for name, value in entries.items()]
