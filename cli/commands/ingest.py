"""``ingest``: what it takes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from cli.errors import CliError, ExitCode, usage
from cli.options import AddressOption, OutputOption, TimeoutOption, globals_of, principals
from cli.output import Format, Screen
from cli.text import plural


def ingest(
    context: typer.Context,
    paths: Annotated[
        list[Path] | None, typer.Argument(metavar="PATH...", help="Files, or folders with .md .txt .html .pdf .docx.")
    ] = None,
    collection: Annotated[
        str, typer.Option("--collection", "-c", metavar="NAME", help='The collection to fill; default: "default".')
    ] = "",
    readers: Annotated[
        str | None,
        typer.Option(
            "--readers",
            metavar="LIST",
            help="Who may read files whose manifest does not say: user:ann,group:hr or tenant:* for everybody.",
        ),
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option(
            "--manifest", metavar="FILE", help="Ids, titles, readers and metadata; also read from PATH/manifest.toml."
        ),
    ] = None,
    follow_links: Annotated[
        bool,
        typer.Option("--follow-links", help="Take in links, too, that lead to files in the same folder; never others."),
    ] = False,
    address: AddressOption = None,
    timeout: TimeoutOption = 600.0,
    output: OutputOption = Format.AUTO,
) -> None:
    """Take documents in. Repeating the same command changes nothing; a changed file becomes a new version.

    Ctrl-C waits for what is on its way and says how far it came; the same command goes on from there.
    """
    from cli import ingest as work  # noqa: PLC0415 - grpc is only needed now
    from cli import ingest_report as results  # noqa: PLC0415
    from cli.caller import principals as principals_of_caller  # noqa: PLC0415
    from cli.documents import find, skipped_by_type  # noqa: PLC0415
    from cli.progress import progress  # noqa: PLC0415
    from services.runtime.settings import Settings  # noqa: PLC0415

    if not paths and manifest is None:
        raise usage("nothing to ingest: name a file, a folder or a --manifest")
    who = principals(readers, "; without the option, the collection's default readers count")
    settings = globals_of(context).load(Settings)
    where = address or settings.address("ingestion")
    screen = Screen(output)
    try:
        found = find(paths or [], manifest, who, follow_links=follow_links)
    except KeyboardInterrupt:
        raise CliError("interrupted before anything was sent: nothing is taken in", code=ExitCode.INTERRUPTED) from None
    if not found.entries:
        raise usage(
            "no document was found; files in folders must end in .md .txt .html .pdf or .docx (or the like)",
            *([f"skipped {skipped_by_type(found.skipped)}"] if found.skipped else []),
        )
    if found.skipped:
        screen.note(f"note: skipped {skipped_by_type(found.skipped)}")
    if found.unlisted:
        screen.note(
            f"note: {plural(len(found.unlisted), 'file')} beside a manifest but not in it: {found.unlisted[0]}, …"
        )
    alone = sum(entry.readers is None for entry in found.entries)
    if alone:
        me = principals_of_caller(settings, where)
        asyncio.run(work.say_who_reads(screen, where, collection, alone, me, settings.tls))
    report = asyncio.run(
        work.ingest_until_interrupted(
            screen,
            where,
            collection,
            found,
            progress(screen.err, "Ingesting", "document"),
            patience=timeout,
            tls=settings.tls,
        )
    )
    results.show(screen, report)
    results.say_how_to_go_on(screen, report)
    raise typer.Exit(results.exit_code(report))
