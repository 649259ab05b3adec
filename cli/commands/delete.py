"""``delete``: what it takes."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from cli.options import AddressOption, OutputOption, TimeoutOption, globals_of
from cli.output import Format, Screen


def delete(
    context: typer.Context,
    document_id: Annotated[str, typer.Argument(metavar="DOCUMENT_ID", help="The document's id, as `ingest` gave it.")],
    collection: Annotated[
        str, typer.Option("--collection", "-c", metavar="NAME", help='Its collection; default: "default".')
    ] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; nobody is asked but on a terminal.")] = False,
    address: AddressOption = None,
    timeout: TimeoutOption = 60.0,
    output: OutputOption = Format.AUTO,
) -> None:
    """Delete a document of yours: nobody can read it from then on, and a receipt says what was removed from where.

    Given again, it shows how far erasing has come.
    """
    from cli import delete as work  # noqa: PLC0415 - grpc is only needed now
    from groundwire.ingestion.v1 import ingestion_service_pb2 as pb  # noqa: PLC0415
    from services.runtime.settings import Settings  # noqa: PLC0415

    settings = globals_of(context).load(Settings)
    where = address or settings.address("ingestion")
    screen = Screen(output)
    if not yes:
        work.confirm(screen, document_id, collection)
    request = pb.DeleteDocumentRequest(document_id=document_id, collection=collection)
    asyncio.run(work.delete(screen, where, request, timeout, tls=settings.tls))
