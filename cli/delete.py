"""``groundwire delete``: a document out of reach, and the receipt that says what was removed from where."""

from __future__ import annotations

import sys

from google.protobuf.timestamp_pb2 import Timestamp
from rich.table import Table

from cli.ask import as_json
from cli.client import connect
from cli.errors import usage
from cli.output import Format, Screen
from cli.tables import fitted_table
from groundwire.ingestion.v1 import ingestion_service_pb2 as pb
from groundwire.ingestion.v1 import ingestion_service_pb2_grpc as rpc
from services.corpus.cleaning import cleaned
from services.runtime.options import TlsOptions


async def delete(
    screen: Screen, address: str, request: pb.DeleteDocumentRequest, patience: float, *, tls: TlsOptions | None = None
) -> pb.ErasureReceipt:
    """Delete a document and show its receipt."""
    async with connect("ingestion", address, tls, collections_at=address) as channel:
        response: pb.DeleteDocumentResponse = await rpc.IngestionServiceStub(channel).DeleteDocument(
            request, timeout=patience
        )
    receipt = response.receipt
    if screen.format is Format.JSON:
        screen.json(as_json(receipt))
    elif screen.format is Format.TEXT:
        screen.text(*("\t".join(_cells(step)) for step in receipt.steps), _standing(receipt))
    else:
        screen.table(_table(receipt, screen.out.width))
        screen.out.print(_standing(receipt), style="green" if receipt.HasField("complete_time") else "yellow")
    return receipt


def confirm(screen: Screen, document_id: str, collection: str) -> None:
    """Ask whoever sits at a terminal; CliError if they do not want to."""
    if not sys.stdin.isatty():
        return
    where = f" from {cleaned(collection)}" if collection else ""
    screen.err.print(f"Delete {cleaned(document_id)}{where} for good? [y/N] ", end="")
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise usage("nothing was deleted")


def _table(receipt: pb.ErasureReceipt, width: int) -> Table:
    heads = ("Place", "Removed", "Left", "Done")
    rows = [_cells(step) for step in receipt.steps]
    return fitted_table(heads, rows, width, yielding=("Place",), right=("Removed", "Left"))


def _cells(step: pb.ErasureStep) -> tuple[str, str, str, str]:
    done = _iso(step.complete_time) if step.HasField("complete_time") else "not yet"
    return cleaned(step.place), f"{step.removed}", f"{step.remaining}", done


def _standing(receipt: pb.ErasureReceipt) -> str:
    name = f"{cleaned(receipt.collection)}/{cleaned(receipt.document_id)}"
    if receipt.HasField("complete_time"):
        return f"{name} is deleted and nothing of it is left · receipt {cleaned(receipt.receipt_id)}"
    return (
        f"{name} is deleted: nobody can read it any more. Erasing it goes on; the same command again shows how far "
        f"that is · receipt {cleaned(receipt.receipt_id)}"
    )


def _iso(moment: Timestamp) -> str:
    return moment.ToDatetime().strftime("%Y-%m-%dT%H:%M:%SZ")
