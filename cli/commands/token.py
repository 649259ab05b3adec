"""``token`` and ``revoke``: what they take."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.options import globals_of
from cli.output import Format, Screen


def token(
    context: typer.Context,
    subject: Annotated[
        str | None,
        typer.Option("--subject", "-s", metavar="NAME", help="Whose token it is; default: the settings' developer."),
    ] = None,
    tenant: Annotated[
        str | None, typer.Option("--tenant", metavar="NAME", help="Their tenant; default: the settings' developer's.")
    ] = None,
    group: Annotated[
        list[str] | None, typer.Option("--group", "-g", metavar="NAME", help="A group of theirs; may be repeated.")
    ] = None,
    role: Annotated[
        list[str] | None,
        typer.Option("--role", "-r", metavar="NAME", help="reader, writer, operator, auditor, admin; may be repeated."),
    ] = None,
    lifetime: Annotated[
        int | None,
        typer.Option(
            "--lifetime",
            metavar="SECONDS",
            min=1,
            max=86_400,
            help="How long it is valid; default: an hour, or as long as its issuer's setting max_lifetime allows.",
        ),
    ] = None,
    issuer: Annotated[
        str | None, typer.Option("--issuer", metavar="NAME", help="Which HS256 issuer signs; default: the first.")
    ] = None,
) -> None:
    """Mint a token with a shared secret of the settings, or with that of the data directory; it is printed alone.

    Without --subject it is the token of the settings' developer, with all their roles.
    """
    from cli.token import mint  # noqa: PLC0415 - the token library is only needed now
    from services.runtime.settings import Settings  # noqa: PLC0415

    if subject == "":
        # What an unset variable leaves: the developer's token, with all roles, is asked for by leaving the option out.
        raise typer.BadParameter("is empty; it must name the user", param_hint="--subject")
    settings = globals_of(context).load(Settings)
    developer = settings.development
    # The developer's own roles and groups go with their name alone.
    groups, roles = ((), ("reader",)) if subject else (developer.groups, developer.roles)
    print(
        mint(
            settings,
            subject=subject or developer.subject,
            tenant=tenant or developer.tenant,
            groups=group or groups,
            roles=role or roles,
            lifetime=lifetime,
            issuer=issuer,
            warn=Screen(Format.AUTO).note,
        )
    )


def revoke(
    context: typer.Context,
    token_id: Annotated[
        str | None, typer.Option("--token-id", metavar="JTI", help="One token, by its id; needs --issuer.")
    ] = None,
    issuer: Annotated[str | None, typer.Option("--issuer", metavar="NAME", help="Who issued that token.")] = None,
    subject: Annotated[
        str | None, typer.Option("--subject", "-s", metavar="NAME", help="Every token of this person, up to now.")
    ] = None,
    tenant: Annotated[str | None, typer.Option("--tenant", metavar="NAME", help="The person's tenant.")] = None,
) -> None:
    """Make tokens void before they expire, within a second and in every service; without options the one on stdin."""
    from cli.token import revoke as run  # noqa: PLC0415 - the token library is only needed now
    from services.runtime.settings import Settings  # noqa: PLC0415

    settings = globals_of(context).load(Settings)
    said = run(settings, token_id=token_id, issuer=issuer, subject=subject, tenant=tenant)
    Screen(Format.TEXT).text(said)
