"""``audit``: what its commands take."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.help import example
from cli.options import AddressOption, OutputOption, globals_of
from cli.output import Format, Screen

if TYPE_CHECKING:
    from cli.audit import Where

app = typer.Typer(help="Read, prove and verify the audit log.", no_args_is_help=True)

PrincipalOption = Annotated[str, typer.Option("--principal", metavar="NAME", help="Only this principal's: user:alice.")]
MethodOption = Annotated[str, typer.Option("--method", metavar="PATH", help="Only this method's.")]
DocumentOption = Annotated[str, typer.Option("--document", metavar="ID", help="Only what touched this document.")]
RequestOption = Annotated[str, typer.Option("--request-id", metavar="ID", help="Only this request's.")]
DeniedOption = Annotated[bool, typer.Option("--denied", help="Only what was refused.")]
SinceOption = Annotated[str, typer.Option("--since", metavar="TIME", help="Only from here on: 2026-01-31T12:00:00Z.")]
UntilOption = Annotated[str, typer.Option("--until", metavar="TIME", help="Only before this.")]


def _where(context: typer.Context, given: str | None) -> Where:
    from cli.audit import Where  # noqa: PLC0415 - grpc is only needed now
    from services.runtime.settings import Settings  # noqa: PLC0415 - pydantic takes a while

    settings = globals_of(context).load(Settings)
    return Where(given or settings.address("audit"), settings.tls)


@app.command(
    "list",
    epilog=example(
        "groundwire audit list --since 2026-01-01T00:00:00Z --denied",
        "groundwire audit list --limit 1000 --output json",
    ),
)
def list_(
    context: typer.Context,
    principal: PrincipalOption = "",
    method: MethodOption = "",
    document: DocumentOption = "",
    request_id: RequestOption = "",
    denied: DeniedOption = False,
    since: SinceOption = "",
    until: UntilOption = "",
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, metavar="N", help="How many at most.")] = 100,
    address: AddressOption = None,
    output: OutputOption = Format.AUTO,
) -> None:
    """Show the newest events of your tenant, the newest last; a line says when there are older ones."""
    from cli.audit import event_filter, show_events  # noqa: PLC0415 - grpc is only needed now

    wanted = event_filter(principal, method, document, request_id, denied=denied, since=since, until=until)
    raise typer.Exit(asyncio.run(show_events(Screen(output), _where(context, address), wanted, limit)))


@app.command("tail", epilog=example("groundwire audit tail --output json"))
def tail(
    context: typer.Context,
    principal: PrincipalOption = "",
    method: MethodOption = "",
    denied: DeniedOption = False,
    start: Annotated[int, typer.Option("--from", metavar="INDEX", help="Begin here; default: new events alone.")] = -1,
    address: AddressOption = None,
    output: OutputOption = Format.AUTO,
) -> None:
    """Show events as they are written, until Ctrl-C."""
    from cli.audit import event_filter  # noqa: PLC0415
    from cli.audit import tail as run  # noqa: PLC0415

    wanted = event_filter(principal, method, denied=denied)
    raise typer.Exit(asyncio.run(run(Screen(output), _where(context, address), wanted, start)))


@app.command("export", epilog=example("groundwire audit export --since 2026-01-01T00:00:00Z > audit.jsonl"))
def export(
    context: typer.Context,
    principal: PrincipalOption = "",
    method: MethodOption = "",
    document: DocumentOption = "",
    denied: DeniedOption = False,
    since: SinceOption = "",
    until: UntilOption = "",
    address: AddressOption = None,
) -> None:
    """Write events as JSON Lines to stdout, for a SIEM: one object a line, with index and leaf hash."""
    from cli.audit import event_filter  # noqa: PLC0415
    from cli.audit import export as run  # noqa: PLC0415

    wanted = event_filter(principal, method, document, denied=denied, since=since, until=until)
    raise typer.Exit(asyncio.run(run(Screen(Format.JSON), _where(context, address), wanted)))


@app.command("prove", epilog=example("groundwire audit prove 0"))
def prove(
    context: typer.Context,
    index: Annotated[int, typer.Argument(metavar="INDEX", min=0, help="The event's index.")],
    address: AddressOption = None,
    output: OutputOption = Format.AUTO,
) -> None:
    """Fetch and check the proof that an event is in the log under its newest checkpoint."""
    from cli.audit import prove as run  # noqa: PLC0415

    raise typer.Exit(asyncio.run(run(Screen(output), _where(context, address), index)))


@app.command(
    "verify",
    epilog=example(
        "groundwire audit verify", "groundwire audit verify ./copy --log-key log.key --witness-key witness.key"
    ),
)
def verify(
    context: typer.Context,
    directory: Annotated[
        Path | None,
        typer.Argument(metavar="DIR", help="A log or a copy of one; without it the service verifies its own."),
    ] = None,
    log_key: Annotated[
        list[str] | None, typer.Option("--log-key", metavar="KEY", help="The log's verifier key, or a file with it.")
    ] = None,
    witness_key: Annotated[
        list[str] | None,
        typer.Option("--witness-key", metavar="KEY", help="The witness's verifier key, or a file with it."),
    ] = None,
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(
            "--checkpoint",
            metavar="FILE",
            help="A checkpoint from elsewhere that the log must contain, and with --witness-key the witness must have "
            "signed; may be repeated.",
        ),
    ] = None,
    lag: Annotated[
        int,
        typer.Option(
            "--lag", min=0, metavar="EVENTS", help="How many events at the end the witness may not have signed."
        ),
    ] = 0,
    address: AddressOption = None,
    output: OutputOption = Format.AUTO,
) -> None:
    """Verify every frame, hash and signature.

    The exit code is 1 if anything does not hold, and 5 if all does but the witness has not signed the log up to its end.
    """
    screen = Screen(output)
    if directory is not None:
        from cli.audit_verify import verify_copy  # noqa: PLC0415

        raise typer.Exit(verify_copy(screen, directory, log_key or (), witness_key or (), checkpoint or (), lag=lag))
    from cli.audit import verify_service  # noqa: PLC0415

    used: list[Any] = [log_key, witness_key, checkpoint, lag]
    if any(used):
        from cli.errors import usage  # noqa: PLC0415

        raise usage("keys and checkpoints are for a DIR; without one the service verifies with its own")
    raise typer.Exit(asyncio.run(verify_service(screen, _where(context, address))))
