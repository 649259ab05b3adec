"""``certs``: what it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.options import OutputOption
from cli.output import Format, Screen


def certs(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where keys and certificates are kept.")],
    trust_domain: Annotated[
        str, typer.Option("--trust-domain", metavar="NAME", help="Identities are spiffe://NAME/SERVICE.")
    ] = "groundwire.local",
    host: Annotated[
        list[str] | None,
        typer.Option("--host", metavar="NAME", help="A name or address that services are called by; may be repeated."),
    ] = None,
    days: Annotated[
        int, typer.Option("--days", metavar="N", min=1, max=3650, help="How long certificates are valid.")
    ] = 30,
    output: OutputOption = Format.AUTO,
) -> None:
    """Make a development CA in DIR, a certificate for every service and one for clients, and print the settings.

    Repeat it to renew the certificates under the same CA: services that run take them up without a restart.
    """
    from cli.certs import make, show  # noqa: PLC0415 - cryptography is only needed now

    show(Screen(output), make(directory, trust_domain=trust_domain, hosts=host or (), days=days))
