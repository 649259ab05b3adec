"""What several commands have in common: options, and the settings they are read with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from cli.errors import usage
from cli.output import Format

if TYPE_CHECKING:
    from services.runtime.settings import Settings

AnySettings = TypeVar("AnySettings", bound="Settings")

OutputOption = Annotated[
    Format,
    typer.Option("--output", "-o", help="auto: a table on a terminal, plain text elsewhere.", show_default=True),
]
AddressOption = Annotated[
    str | None,
    typer.Option("--address", metavar="ADDR", help="Where the service is; default: from the settings."),
]
CollectionsOption = Annotated[
    list[str] | None,
    typer.Option("--collection", "-c", metavar="NAME", help="A collection to search; may be repeated."),
]
FilterOption = Annotated[
    list[str] | None,
    typer.Option(
        "--filter",
        "-f",
        metavar="KEY=VALUE",
        help="Only documents with this metadata (also KEY!=V, KEY>=V, KEY<=V); may be repeated.",
    ),
]
TopKOption = Annotated[
    int | None, typer.Option("--top-k", "-k", metavar="N", min=1, max=100, help="How many passages to use.")
]


def directory(text: str) -> Path:
    """The path that an option gives: an empty one, as an unset variable leaves it, would be the current directory."""
    if not text:
        raise typer.BadParameter("is empty; it must be the path of a directory")
    return Path(text)


def principals(readers: str | None, otherwise: str) -> list[str]:
    """Who is listed in ``--readers``; nobody if the option is not given.

    CliError for what is no principal, and for an empty list, as an unset variable leaves it: ``otherwise`` says what
    leaving the option out means.
    """
    from cli.documents import reader_problems  # noqa: PLC0415 - which needs some of the services

    if readers is None:
        return []
    who = [reader.strip() for reader in readers.split(",") if reader.strip()]
    if not who:
        raise usage(f"--readers is empty; name who may read, such as user:ann,group:hr or tenant:*{otherwise}")
    if problems := list(reader_problems(who)):
        raise usage("--readers cannot be used", *problems)
    return who


DataDirOption = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", metavar="DIR", parser=directory, help="Where everything durable is kept; default: settings."
    ),
]
TimeoutOption = Annotated[float, typer.Option("--timeout", metavar="SECONDS", min=0.001, help="How long to wait.")]
MeshAtOption = Annotated[
    int | None,
    typer.Option(
        "--port-base",
        metavar="N",
        min=1,
        max=65530,
        help="The mesh was started with `groundwire up --port-base N`: its six ports are from N on.",
    ),
]
PortBaseOption = Annotated[
    int | None,
    typer.Option(
        "--port-base",
        metavar="N",
        min=0,
        max=65530,
        help="Use the six ports from N on, instead of those in the settings; 0: any free ones.",
    ),
]


@dataclass(frozen=True)
class Globals:
    """The options that stand before the command."""

    config: Path | None = None
    debug: bool = False

    def load(self, settings_class: type[AnySettings]) -> AnySettings:
        """Read settings; every problem with them is shown."""
        from services.runtime.settings import ConfigurationError, load  # noqa: PLC0415 - pydantic takes a while

        try:
            return load(settings_class, self.config)
        except ConfigurationError as error:
            first, *more = str(error).splitlines()
            raise usage(first, *more) from None


def globals_of(context: typer.Context) -> Globals:
    """The options given before the command."""
    found = context.find_object(Globals)
    return found if found is not None else Globals()
