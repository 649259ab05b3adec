"""``groundwire collections``: making, listing, showing and changing them."""

from __future__ import annotations

import difflib
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
from rich.table import Table

from cli.ask import as_json
from cli.client import connect, open_channel
from cli.errors import CliError, ExitCode
from cli.output import Format, Screen
from cli.rpc_errors import info_of
from cli.tables import fitted_table
from cli.text import one_line, plural
from groundwire.common.v1 import core_pb2
from groundwire.ingestion.v1 import ingestion_service_pb2 as pb
from groundwire.ingestion.v1 import ingestion_service_pb2_grpc as rpc
from services.corpus.cleaning import cleaned
from services.runtime.options import TlsOptions

if TYPE_CHECKING:
    from groundwire.ingestion.v1.ingestion_service_pb2_grpc import IngestionServiceAsyncStub

_TIMEOUT = 30.0
# An error does not wait longer for what it could say besides.
_HINT_TIMEOUT = 3.0
_PAGE = 200
_DAY = 86_400
# Names that an error lists, and those among which it looks for one that was meant.
_NAMED, _LOOKED_AT = 8, 50
# Readers that a table names; `collections show` names all.
_READERS = 3


@dataclass(frozen=True)
class Where:
    """The ingestion service's address, and how it is called."""

    address: str
    tls: TlsOptions | None


async def create(screen: Screen, where: Where, name: str, readers: Sequence[str], days: int | None) -> None:
    """Make a collection and show it; CliError if there is one of that name."""
    request = pb.CreateCollectionRequest(name=name)
    _fill(request, readers, days)
    async with connect("ingestion", where.address, where.tls) as channel:
        try:
            made = await _stub(channel).CreateCollection(request, timeout=_TIMEOUT)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.ALREADY_EXISTS:
                raise
            raise CliError(
                f"there is a collection {name} already; `groundwire collections show {name}` shows it and "
                f"`groundwire collections update {name}` changes it",
                code=ExitCode.REFUSED,
            ) from error
    _show_one(screen, made.collection)
    _say_of_retention(screen, days)


async def update(screen: Screen, where: Where, name: str, readers: Sequence[str], days: int | None) -> None:
    """Change default readers, retention, or both, and show the collection; CliError if there is none."""
    request = pb.UpdateCollectionRequest(name=name)
    _fill(request, readers, days)
    async with connect("ingestion", where.address, where.tls, collections_at=where.address) as channel:
        changed = await _stub(channel).UpdateCollection(request, timeout=_TIMEOUT)
    _show_one(screen, changed.collection)
    _say_of_retention(screen, days)


async def show(screen: Screen, where: Where, name: str) -> None:
    """Show one collection; CliError if there is none."""
    async with connect("ingestion", where.address, where.tls, collections_at=where.address) as channel:
        found = await _stub(channel).GetCollection(pb.GetCollectionRequest(name=name), timeout=_TIMEOUT)
    _show_one(screen, found.collection)


async def list_all(screen: Screen, where: Where) -> None:
    """Show every collection of the caller's tenant, by name."""
    async with connect("ingestion", where.address, where.tls) as channel:
        if screen.format is Format.TEXT:
            # As they come: nothing is known of how many there are.
            async for collection in _collections(channel):
                screen.text("\t".join(_cells(collection)))
            return
        with screen.busy("Listing collections …"):
            found = [collection async for collection in _collections(channel)]
    if screen.format is Format.JSON:
        screen.json([_document(collection) for collection in found])
    else:
        screen.table(_table(found, screen.out.width))


async def unknown(name: str, address: str | None, tls: TlsOptions | None) -> CliError:
    """That there is no collection ``name``, with those that there are.

    ``address`` is the ingestion service's; None if it is not known. What it does not tell is left out.
    """
    make = f"`groundwire collections create {name}` makes it"
    names: list[str] = []
    if address is not None:
        channel = open_channel(address, tls)
        with suppress(grpc.aio.AioRpcError):
            request = pb.ListCollectionsRequest(page_size=_LOOKED_AT)
            listed = await _stub(channel).ListCollections(request, timeout=_HINT_TIMEOUT)
            names = [cleaned(collection.name) for collection in listed.collections]
        await channel.close()
    if not names:
        told = f"there is no collection {name}; `groundwire collections list` shows those that there are, {make}"
        return CliError(told, code=ExitCode.REFUSED)
    meant = difflib.get_close_matches(name, names, n=1)
    more = len(names) > _NAMED
    listed_names = ", ".join(names[:_NAMED]) + (", … (`groundwire collections list`)" if more else "")
    return CliError(
        f"there is no collection {name}; there {'is' if len(names) == 1 else 'are'} {listed_names}. "
        + (f"Did you mean {meant[0]}? Otherwise {make}" if meant else make),
        code=ExitCode.REFUSED,
    )


def missing_in(error: grpc.aio.AioRpcError) -> str:
    """The collection that a call failed for because there is none of that name; else empty."""
    info = info_of(error)
    if info is None or info.reason != "COLLECTION_NOT_FOUND":
        return ""
    return one_line(info.metadata.get("collection", ""))


def _stub(channel: grpc.aio.Channel) -> IngestionServiceAsyncStub:
    stub: IngestionServiceAsyncStub = rpc.IngestionServiceStub(channel)
    return stub


def _fill(
    request: pb.CreateCollectionRequest | pb.UpdateCollectionRequest, readers: Sequence[str], days: int | None
) -> None:
    if readers:
        request.default_access.CopyFrom(core_pb2.Access(readers=readers))
    if days is not None:
        request.retention.FromSeconds(days * _DAY)


async def _collections(channel: grpc.aio.Channel) -> AsyncIterator[pb.Collection]:
    token = ""
    while True:
        request = pb.ListCollectionsRequest(page_size=_PAGE, page_token=token)
        page = await _stub(channel).ListCollections(request, timeout=_TIMEOUT)
        for collection in page.collections:
            yield collection
        token = page.next_page_token
        if not token:
            return


def _show_one(screen: Screen, collection: pb.Collection) -> None:
    if screen.format is Format.JSON:
        screen.json(_document(collection))
        return
    facts = {
        "name": cleaned(collection.name),
        "documents": f"{collection.document_count:,}",
        "default readers": _readers(collection),
        "retention": _retention(collection),
        "embedding model": f"{cleaned(collection.embedding_model)}, {collection.dimension} dimensions",
        "created": _created(collection),
    }
    if screen.format is Format.TEXT:
        screen.text(*(f"{name}: {value}" for name, value in facts.items()))
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(ratio=1, overflow="fold")
    for name, value in facts.items():
        table.add_row(name.capitalize(), value.replace(",", ", ") if name == "default readers" else value)
    screen.table(table)


def _table(collections: Sequence[pb.Collection], width: int) -> Table:
    rows = []
    for collection in collections:
        name, count, readers, retention, created = _cells(collection)
        lines = readers.split(",")
        if len(lines) > _READERS:
            lines[_READERS:] = [f"and {len(lines) - _READERS} more"]
        rows.append((name, count, "\n".join(lines), retention, created[:10]))
    heads = ("Name", "Documents", "Default readers", "Retention", "Created (UTC)")
    return fitted_table(heads, rows, width, yielding=("Name", "Default readers"), right=("Documents",))


def _cells(collection: pb.Collection) -> tuple[str, ...]:
    return (
        cleaned(collection.name),
        f"{collection.document_count}",
        _readers(collection),
        _retention(collection),
        _created(collection),
    )


def _readers(collection: pb.Collection) -> str:
    if not collection.HasField("default_access"):
        return "owner alone"
    return ",".join(one_line(reader) for reader in collection.default_access.readers) or "none"


def _retention(collection: pb.Collection) -> str:
    return plural(collection.retention.seconds // _DAY, "day") if collection.HasField("retention") else "no limit"


def _created(collection: pb.Collection) -> str:
    return collection.create_time.ToDatetime().strftime("%Y-%m-%dT%H:%M:%SZ")


def _document(collection: pb.Collection) -> dict[str, Any]:
    """For JSON: the contract's names, every field there, and numbers that are numbers."""
    absent: dict[str, Any] = {"default_access": None, "retention": None}
    return {**absent, **as_json(collection), "document_count": collection.document_count}


def _say_of_retention(screen: Screen, days: int | None) -> None:
    if days:
        screen.note("note: the retention is kept on record; nothing deletes documents by itself yet")
