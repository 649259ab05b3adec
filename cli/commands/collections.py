"""``collections``: what its commands take."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from cli.errors import usage
from cli.help import example
from cli.options import AddressOption, OutputOption, globals_of, principals
from cli.output import Format, Screen

if TYPE_CHECKING:
    from cli.collections import Where

app = typer.Typer(help="Make, list, show and change collections of documents.", no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Its name: 1 to 128 of A-Z a-z 0-9 . _ -")]
ReadersOption = Annotated[
    str | None,
    typer.Option(
        "--readers",
        metavar="LIST",
        help="Who may read documents that are ingested without readers of their own: user:ann,group:hr or tenant:*.",
    ),
]
RetentionOption = Annotated[
    int | None,
    typer.Option(
        "--retention",
        metavar="DAYS",
        min=0,
        max=36_500,
        help="How long documents are meant to be kept; 0: no limit. Kept on record: nothing deletes by itself yet.",
    ),
]


@app.command(
    "list",
    epilog=example("groundwire collections list", "groundwire collections list --output json | jq -r '.[].name'"),
)
def list_(context: typer.Context, address: AddressOption = None, output: OutputOption = Format.AUTO) -> None:
    """Show the collections of your tenant by name, and how many of their documents you may read."""
    from cli import collections as work  # noqa: PLC0415 - grpc is only needed now

    asyncio.run(work.list_all(Screen(output), _where(context, address)))


@app.command("create", epilog=example("groundwire collections create hr --readers group:hr,user:ann"))
def create(
    context: typer.Context,
    name: NameArgument,
    readers: ReadersOption = None,
    retention: RetentionOption = None,
    address: AddressOption = None,
    output: OutputOption = Format.AUTO,
) -> None:
    """Make a collection, with the embedding model that the service runs.

    Without --readers its documents are read by their owner alone, unless they come with readers.
    """
    from cli import collections as work  # noqa: PLC0415 - grpc is only needed now

    who = principals(readers, "; without the option, documents are read by their owner alone")
    asyncio.run(work.create(Screen(output), _where(context, address), name, who, retention))


@app.command("show", epilog=example("groundwire collections show hr"))
def show(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help='Its name; default: "default".')] = "",
    address: AddressOption = None,
    output: OutputOption = Format.AUTO,
) -> None:
    """Show one collection."""
    from cli import collections as work  # noqa: PLC0415 - grpc is only needed now

    asyncio.run(work.show(Screen(output), _where(context, address), name))


@app.command("update", epilog=example("groundwire collections update hr --readers 'tenant:*'"))
def update(
    context: typer.Context,
    name: NameArgument,
    readers: ReadersOption = None,
    retention: RetentionOption = None,
    address: AddressOption = None,
    output: OutputOption = Format.AUTO,
) -> None:
    """Change a collection's default readers or retention, for documents that are ingested from then on.

    What is in it already keeps its readers.
    """
    from cli import collections as work  # noqa: PLC0415 - grpc is only needed now

    who = principals(readers, ": a collection that has default readers cannot lose all of them again")
    if not who and retention is None:
        raise usage("say what to change: --readers LIST, --retention DAYS, or both")
    asyncio.run(work.update(Screen(output), _where(context, address), name, who, retention))


def _where(context: typer.Context, given: str | None) -> Where:
    from cli.collections import Where  # noqa: PLC0415 - grpc is only needed now
    from services.runtime.settings import Settings  # noqa: PLC0415 - pydantic takes a while

    settings = globals_of(context).load(Settings)
    return Where(given or settings.address("ingestion"), settings.tls)
