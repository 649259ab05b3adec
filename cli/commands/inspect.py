"""``status`` and ``doctor``: what they take."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated

import typer

from cli.options import MeshAtOption, OutputOption, directory, globals_of
from cli.output import Format, Screen


def status(
    context: typer.Context,
    address: Annotated[
        list[str] | None,
        typer.Option("--address", metavar="NAME=ADDR", help="Where one service is; may be repeated."),
    ] = None,
    port_base: MeshAtOption = None,
    data_dir: Annotated[
        Path | None,
        typer.Option("--data-dir", metavar="DIR", parser=directory, help="The data directory whose store to ask."),
    ] = None,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", min=0.001, help="How long to wait for each answer.")
    ] = 3.0,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Go on, and show each change as it happens, until Ctrl-C.")
    ] = False,
    output: OutputOption = Format.AUTO,
) -> None:
    """Show how every service, vector store and LLM endpoint is; exit code 3 unless all are healthy."""
    from cli.status import show_status  # noqa: PLC0415 - grpc is only needed now
    from cli.status_ask import find  # noqa: PLC0415
    from cli.status_watch import watch_status  # noqa: PLC0415
    from services.runtime.settings import Settings  # noqa: PLC0415

    settings = globals_of(context).load(Settings)
    if data_dir is not None:
        # Its calls carry a token of that directory, too.
        os.environ["GROUNDWIRE_DATA_DIR"] = str(data_dir.absolute())
        settings = globals_of(context).load(Settings)
    where = find(settings, address or (), port_base, timeout)
    show = watch_status if watch else show_status
    raise typer.Exit(asyncio.run(show(Screen(output), where)))


def doctor(context: typer.Context, output: OutputOption = Format.AUTO) -> None:
    """Check this machine and the settings; each finding comes with its remedy. Exit code 1 if one FAILs."""
    from cli.doctor import show_doctor  # noqa: PLC0415 - grpc is only needed now

    raise typer.Exit(asyncio.run(show_doctor(Screen(output), globals_of(context))))
