"""``token``: what it takes."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.options import globals_of


def token(
    context: typer.Context,
    subject: Annotated[str, typer.Option("--subject", "-s", metavar="NAME", help="Whose token it is.")],
    tenant: Annotated[str, typer.Option("--tenant", metavar="NAME", help="Their tenant.")] = "default",
    group: Annotated[
        list[str] | None, typer.Option("--group", "-g", metavar="NAME", help="A group of theirs; may be repeated.")
    ] = None,
    role: Annotated[
        list[str] | None,
        typer.Option("--role", "-r", metavar="NAME", help="reader, writer, operator, auditor, admin; may be repeated."),
    ] = None,
    lifetime: Annotated[int, typer.Option("--lifetime", metavar="SECONDS", min=1, help="How long it is valid.")] = 3600,
    issuer: Annotated[
        str | None, typer.Option("--issuer", metavar="NAME", help="Which HS256 issuer signs; default: the first.")
    ] = None,
) -> None:
    """Mint a token with a shared secret of the settings, for development and tests; it is printed alone."""
    from cli.token import mint  # noqa: PLC0415 - the token library is only needed now
    from services.runtime.settings import Settings  # noqa: PLC0415

    options = globals_of(context).load(Settings).authentication
    print(
        mint(
            options,
            subject=subject,
            tenant=tenant,
            groups=group or (),
            roles=role or ("reader",),
            lifetime=lifetime,
            issuer=issuer,
        )
    )
