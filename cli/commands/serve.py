"""``serve``, ``up`` and ``demo``: what they take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.options import OutputOption, PortBaseOption, directory, globals_of
from cli.output import Format, Screen

InsecureOption = Annotated[
    bool,
    typer.Option("--insecure", help="Serve addresses beyond this machine without TLS: everything crosses it in clear."),
]
SupervisedOption = Annotated[
    int | None, typer.Option("--supervised", hidden=True, help="The supervisor's process id: end when it ends.")
]


def serve(
    context: typer.Context,
    service: Annotated[
        str,
        typer.Argument(
            metavar="SERVICE", help="query, ingestion, retrieval, generation, audit, monitoring, store or witness."
        ),
    ],
    listen: Annotated[
        str | None,
        typer.Option("--listen", metavar="ADDR", help="HOST:PORT or unix:/path; default: from the settings."),
    ] = None,
    insecure: InsecureOption = False,
    supervised: SupervisedOption = None,
    worker: Annotated[int | None, typer.Option("--worker", hidden=True, help="Which of several processes.")] = None,
    report: Annotated[int | None, typer.Option("--report", hidden=True, help="Where to tell how it is.")] = None,
) -> None:
    """Run one service until SIGTERM or Ctrl-C, then drain it; with its setting `workers`, in several processes."""
    from cli.errors import usage  # noqa: PLC0415 - the services are only needed now
    from cli.services import NAMES  # noqa: PLC0415
    from cli.workers import count_workers, supervise  # noqa: PLC0415

    if service not in NAMES:
        raise usage(f"there is no service {service!r}; there are {', '.join(NAMES)}")
    options = globals_of(context)
    if supervised is None:
        count, settings = count_workers(options, service)
        if count > 1:
            raise typer.Exit(supervise(options, service, settings, listen=listen, insecure=insecure))
    from cli.serve import Worker, run  # noqa: PLC0415

    role = Worker(worker, report) if worker is not None and report is not None else None
    run(options, (service,), listen=listen, insecure=insecure, supervisor=supervised, worker=role)


def mesh(context: typer.Context, supervised: SupervisedOption = None) -> None:
    """Run every service but the store and the witness in this process, each on its own port."""
    from cli.serve import run  # noqa: PLC0415 - the services are only needed now
    from cli.services import MESH  # noqa: PLC0415

    run(globals_of(context), MESH, supervisor=supervised)


def up(
    context: typer.Context,
    processes: Annotated[bool, typer.Option("--processes", help="Give each service a process of its own.")] = False,
    data_dir: Annotated[
        Path | None,
        typer.Option("--data-dir", metavar="DIR", parser=directory, help="Where everything durable is kept."),
    ] = None,
    port_base: PortBaseOption = None,
    insecure: InsecureOption = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show the services' logs from info on.")] = False,
    output: OutputOption = Format.AUTO,
) -> None:
    """Run the whole mesh on this machine until Ctrl-C; what dies is started again."""
    from cli.up import up as run  # noqa: PLC0415 - grpc is only needed now

    raise typer.Exit(
        run(
            globals_of(context),
            Screen(output),
            processes=processes,
            data_dir=data_dir,
            port_base=port_base,
            verbose=verbose,
            insecure=insecure,
        )
    )


def demo(
    examples: Annotated[
        Path | None,
        typer.Option("--examples", metavar="DIR", help="The folder with corpus/ and questions.toml."),
    ] = None,
    complete: Annotated[bool, typer.Option("--all", help="Take in the complete corpus; takes twice as long.")] = False,
    processes: Annotated[bool, typer.Option("--processes", help="Give each service a process of its own.")] = False,
) -> None:
    """Start a private mesh, take in an example corpus, ask it questions, show the sources, and clean up."""
    from cli.demo import demo as run  # noqa: PLC0415 - grpc is only needed now

    raise typer.Exit(run(Screen(Format.AUTO), examples=examples, complete=complete, processes=processes))
