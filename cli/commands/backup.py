"""``backup`` and ``restore``: what they take."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from cli.errors import usage
from cli.help import example
from cli.options import DataDirOption, OutputOption, globals_of
from cli.output import Format, Screen

if TYPE_CHECKING:
    from cli.recovery import Installation

_CREATE = "create"


class _TargetFirst(TyperGroup):
    """``backup DIR`` is ``backup create DIR``: the command is only named when another one is meant."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # the class of ctx is typer's own secret
        """Put the name in its place."""
        if args and args[0] not in {*self.commands, "-h", "--help"}:
            args = [_CREATE, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_TargetFirst,
    no_args_is_help=True,
    help="Back up everything but the keys while the mesh serves: `groundwire backup DIR`. docs/backup.md is the guide.",
)


@app.command(_CREATE, epilog=example("groundwire backup /backups/monday --keys /elsewhere/keys-monday"))
def create(
    context: typer.Context,
    target: Annotated[
        Path | None,
        typer.Argument(metavar="DIR|FILE.tar", help="Where the backup goes; it must not exist, or be empty."),
    ] = None,
    keys: Annotated[
        Path | None,
        typer.Option(
            "--keys", metavar="FILE", help="Write the keys, to a file of their own; without DIR nothing else."
        ),
    ] = None,
    data_dir: DataDirOption = None,
    output: OutputOption = Format.AUTO,
) -> None:
    """Back up catalog, index, audit log and revocations, as of one moment, while everything goes on.

    Keys are never in it; what was encrypted stays so. Without a running mesh the store is opened for the time being.
    """
    from cli import recovery  # noqa: PLC0415 - grpc is only needed now

    if target is None and keys is None:
        raise usage("say where the backup goes: DIR, or FILE.tar; --keys FILE for the keys")
    if keys is not None and target is not None and keys.absolute().is_relative_to(target.absolute()):
        raise usage("keys never go into the backup of the data: name a FILE elsewhere")
    screen, installation = Screen(output), _installation(context, data_dir)
    code = asyncio.run(recovery.back_up(screen, installation, target and target.absolute(), keys and keys.absolute()))
    raise typer.Exit(code)


@app.command("verify", epilog=example("groundwire backup verify /backups/monday"))
def verify(
    source: Annotated[Path, typer.Argument(metavar="DIR|FILE.tar", help="The backup.")],
    output: OutputOption = Format.AUTO,
) -> None:
    """Check every hash, every record and the audit log of a backup. Nothing is changed; no keys are needed."""
    from cli import recovery  # noqa: PLC0415 - grpc is only needed now

    recovery.verify(Screen(output), source)


def restore(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(metavar="DIR|FILE.tar", help="The backup.")],
    data_dir: DataDirOption = None,
    keys: Annotated[
        Path | None, typer.Option("--keys", metavar="FILE", help="The keys, from `groundwire backup --keys FILE`.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Set aside what the data directory holds; a newer audit log stays.")
    ] = False,
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(
            "--checkpoint", metavar="FILE", help="A checkpoint of the audit log that the backup must have; repeatable."
        ),
    ] = None,
    new_log: Annotated[
        bool, typer.Option("--new-log", help="Keep the backup's audit log for evidence, and begin a new one.")
    ] = False,
    output: OutputOption = Format.AUTO,
) -> None:
    """Restore a backup into an empty data directory, once everything in it was verified; then count it again.

    The mesh must not run. What is interrupted leaves nothing that could be started; give the command again.
    """
    from cli import recovery  # noqa: PLC0415 - grpc is only needed now

    wanted = recovery.Wanted(source, keys, replace, new_log, tuple(checkpoint or ()))
    asyncio.run(recovery.restore(Screen(output), _installation(context, data_dir), wanted))


def _installation(context: typer.Context, data_dir: Path | None) -> Installation:
    from cli.recovery import Installation  # noqa: PLC0415 - pydantic takes a while

    return Installation.of(globals_of(context), data_dir)
