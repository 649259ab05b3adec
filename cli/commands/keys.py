"""``keys``: what its commands take."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.errors import usage
from cli.help import example
from cli.options import DataDirOption, Globals, OutputOption, globals_of
from cli.output import Format, Screen

if TYPE_CHECKING:
    from services.runtime.settings import Settings

app = typer.Typer(
    no_args_is_help=True,
    help="Make, list, rotate and destroy the keys that encrypt what is stored. docs/encryption.md explains them.",
)


@app.command("generate", epilog=example("groundwire keys generate", "groundwire keys generate --print"))
def generate(
    context: typer.Context,
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="The file to make; default: the one that the settings name.")
    ] = None,
    print_: Annotated[
        bool, typer.Option("--print", help="Write a key to stdout instead, for a variable or a secret store.")
    ] = False,
    data_dir: DataDirOption = None,
) -> None:
    """Make a new master key: in a file that only you can read, or on stdout. Nothing is ever overwritten."""
    from cli import keys  # noqa: PLC0415 - the keys are only needed now

    if print_:
        if file is not None:
            raise usage("a FILE or --print, not both")
        keys.print_key()
    else:
        keys.generate(Screen(Format.AUTO), _settings(globals_of(context), data_dir), file)


@app.command("list", epilog=example("groundwire keys list --output json"))
def list_(context: typer.Context, data_dir: DataDirOption = None, output: OutputOption = Format.AUTO) -> None:
    """Show every tenant's keys by number, age and master key. Keys themselves are never shown."""
    from cli import keys  # noqa: PLC0415 - the keys are only needed now

    keys.show(Screen(output), _settings(globals_of(context), data_dir))


@app.command("rotate", epilog=example("groundwire keys rotate acme", "groundwire keys rotate --master"))
def rotate(
    context: typer.Context,
    tenant: Annotated[
        str | None, typer.Argument(metavar="TENANT", help="Whose data is encrypted again, under a new key.")
    ] = None,
    all_tenants: Annotated[bool, typer.Option("--all-tenants", help="Every tenant, one after another.")] = False,
    master: Annotated[
        bool, typer.Option("--master", help="A new master key, which wraps the tenants' keys; data stays as it is.")
    ] = False,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="SOURCE", help="With --master: wrap with this master key, such as file:PATH."),
    ] = None,
    retire: Annotated[
        bool,
        typer.Option("--retire", help="Make no new key; finish what is left and then destroy the older keys."),
    ] = False,
    data_dir: DataDirOption = None,
    output: OutputOption = Format.AUTO,
) -> None:
    """Put a new key in the place of an older one, while the mesh runs. What was interrupted goes on where it was."""
    from cli import rotate_master, rotate_tenants  # noqa: PLC0415 - the keys are only needed now

    if sum((tenant is not None, all_tenants, master)) != 1:
        raise usage("say what to rotate: TENANT, --all-tenants or --master")
    if to is not None and (not master or retire):
        raise usage("--to SOURCE goes with --master, and without --retire")
    options, screen = globals_of(context), Screen(output)
    settings = _settings(options, data_dir)
    if master:
        rotate_master.rotate(screen, settings, to=to, retire=retire)
        return
    code = asyncio.run(rotate_tenants.rotate(screen, options, settings, tenant=tenant, retire=retire))
    raise typer.Exit(code)


@app.command("shred", epilog=example("groundwire keys shred acme"))
def shred(
    context: typer.Context,
    tenant: Annotated[str, typer.Argument(metavar="TENANT", help="Whose keys are destroyed, for good.")],
    yes: Annotated[
        str | None, typer.Option("--yes", metavar="TENANT", help="The tenant's name once more, instead of a question.")
    ] = None,
    data_dir: DataDirOption = None,
    output: OutputOption = Format.AUTO,
) -> None:
    """Destroy a tenant's keys: its data becomes unreadable everywhere, backups of the data included."""
    from cli import keys  # noqa: PLC0415 - the keys are only needed now

    asyncio.run(keys.shred(Screen(output), _settings(globals_of(context), data_dir), tenant, confirmed=yes))


def _settings(options: Globals, data_dir: Path | None) -> Settings:
    from services.runtime.settings import Settings  # noqa: PLC0415 - pydantic takes a while

    settings = options.load(Settings)
    if data_dir is not None:
        settings = settings.replace(data_dir=data_dir)
    if not settings.encryption.enabled:
        raise usage("encryption.enabled is false: there are no keys")
    return settings
