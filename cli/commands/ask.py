"""``ask`` and ``search``: what they take."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from cli.errors import usage
from cli.options import (
    AddressOption,
    CollectionsOption,
    FilterOption,
    OutputOption,
    TimeoutOption,
    TopKOption,
    globals_of,
)
from cli.output import Format, Screen

if TYPE_CHECKING:
    from services.runtime.settings import Settings

_HALF = re.compile("[\udc80-\udcff]")


class Mode(StrEnum):
    """How passages are looked for."""

    HYBRID = "hybrid"
    DENSE = "dense"
    LEXICAL = "lexical"


class Rerank(StrEnum):
    """Whether a cross-encoder reads the best candidates again."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


def ask(
    context: typer.Context,
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="The question; - reads it from stdin.")],
    collection: CollectionsOption = None,
    top_k: TopKOption = None,
    filter_: FilterOption = None,
    session: Annotated[
        str, typer.Option("--session", metavar="ID", help="The conversation that the question belongs to.")
    ] = "",
    min_confidence: Annotated[
        float, typer.Option("--min-confidence", metavar="X", min=0.0, max=1.0, help="Below this, no answer is given.")
    ] = 0.0,
    max_tokens: Annotated[
        int,
        typer.Option(
            "--max-tokens", metavar="N", min=0, max=8192, help="The longest answer; 0: the service's default."
        ),
    ] = 0,
    no_stream: Annotated[
        bool, typer.Option("--no-stream", help="Show the answer when it is complete, not as it is written.")
    ] = False,
    address: AddressOption = None,
    timeout: TimeoutOption = 120.0,
    output: OutputOption = Format.AUTO,
) -> None:
    """Ask a question; get an answer with its sources, or an honest "not in the documents"."""
    from cli import ask as work  # noqa: PLC0415 - grpc is only needed now
    from cli.filters import parse_filters  # noqa: PLC0415
    from groundwire.query.v1 import query_service_pb2 as pb  # noqa: PLC0415
    from services.runtime.settings import Settings  # noqa: PLC0415

    settings = globals_of(context).load(Settings)
    where = address or settings.address("query")
    request = pb.QueryRequest(
        query=_read(question),
        collections=collection or (),
        top_k=top_k or 0,
        context_filters=parse_filters(filter_ or ()),
        session_id=session,
        min_confidence=min_confidence,
        max_tokens=max_tokens,
    )
    asked = work.Question(request, stream=not no_stream, patience=timeout)
    at = _of_same_mesh(settings, address)
    asyncio.run(work.ask(Screen(output), where, asked, tls=settings.tls, collections_at=at))


def search(
    context: typer.Context,
    query: Annotated[str, typer.Argument(metavar="QUERY", help="A question or a topic; - reads it from stdin.")],
    collection: CollectionsOption = None,
    top_k: TopKOption = None,
    filter_: FilterOption = None,
    mode: Annotated[Mode, typer.Option("--mode", help="By meaning and words, by meaning, or by words.")] = Mode.HYBRID,
    rerank: Annotated[
        Rerank, typer.Option("--rerank", help="Read the best again with a cross-encoder; auto: for questions.")
    ] = Rerank.AUTO,
    store: Annotated[
        list[str] | None, typer.Option("--store", metavar="NAME", help="Ask only this store; may be repeated.")
    ] = None,
    address: AddressOption = None,
    timeout: TimeoutOption = 60.0,
    output: OutputOption = Format.AUTO,
) -> None:
    """Show the passages that a question finds, with the score of every stage."""
    from cli.filters import parse_filters  # noqa: PLC0415 - grpc is only needed now
    from cli.search import search as run  # noqa: PLC0415
    from groundwire.retrieval.v1 import retrieval_service_pb2 as pb  # noqa: PLC0415
    from services.runtime.settings import Settings  # noqa: PLC0415

    settings = globals_of(context).load(Settings)
    where = address or settings.address("retrieval")
    request = pb.RetrieveRequest(
        query=_read(query),
        collections=collection or (),
        top_k=top_k or 0,
        filter=parse_filters(filter_ or ()),
        mode=pb.RetrievalMode.Value(f"RETRIEVAL_MODE_{mode.name}"),
        rerank=pb.RerankMode.Value(f"RERANK_MODE_{rerank.name}"),
        stores=store or (),
    )
    at = _of_same_mesh(settings, address)
    asyncio.run(run(Screen(output), where, request, timeout, tls=settings.tls, collections_at=at))


def _of_same_mesh(settings: Settings, given: str | None) -> str | None:
    """The ingestion service beside the one that is called; None where an --address may be that of another mesh."""
    return settings.address("ingestion") if given is None else None


def _read(text: str) -> str:
    if text != "-":
        # Where the locale is not UTF-8, Python keeps the bytes that it does not know as half characters.
        return os.fsencode(text).decode("utf-8", "replace") if _HALF.search(text) else text
    try:
        read = sys.stdin.buffer.read().decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise usage(f"stdin is not text in UTF-8: {error.reason} at byte {error.start:,}") from None
    if not read:
        raise usage("stdin was empty; pipe the question in, or give it as the argument")
    return read
