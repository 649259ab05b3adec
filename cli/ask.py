"""``groundwire ask``: one question, its answer as it is written, and what it rests on."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.json_format import MessageToDict
from rich.table import Table
from rich.text import Text

from cli.client import connect
from cli.errors import CliError
from cli.output import Format, Screen
from cli.text import one_line, seconds
from cli.typewriter import Typewriter
from groundwire.common.v1 import core_pb2
from groundwire.query.v1 import query_service_pb2 as pb
from groundwire.query.v1 import query_service_pb2_grpc as rpc
from services.corpus.cleaning import cleaned
from services.runtime.options import TlsOptions

_WIDTH = 100
_ALSO_FOUND = 3
_WHY_NOT = {
    pb.ABSTENTION_REASON_NOTHING_FOUND: "no document that you may read was found",
    pb.ABSTENTION_REASON_NOT_SUPPORTED: "documents were found, but none supports an answer",
    pb.ABSTENTION_REASON_LOW_CONFIDENCE: "the confidence is below what was asked for",
    pb.ABSTENTION_REASON_SOURCES_WITHDRAWN: "documents were withdrawn while the answer was written",
}


@dataclass(frozen=True)
class Question:
    """What to ask, and how; ``patience`` is in seconds."""

    request: pb.QueryRequest
    stream: bool = True
    patience: float = 120.0


async def ask(
    screen: Screen,
    address: str,
    question: Question,
    *,
    tls: TlsOptions | None = None,
    collections_at: str | None = None,
) -> pb.QueryResponse:
    """Ask and show the answer; returns the complete response. ``collections_at``: see :func:`connect`."""
    async with connect("query", address, tls, collections_at=collections_at) as channel:
        if question.stream and screen.pretty and screen.terminal:
            response = await _show_as_it_comes(screen, channel, question)
        else:
            # Elsewhere nothing that was shown could be taken back: only the final answer is printed.
            response = await _final(channel, question)
            _show_answer(screen, response)
    show_grounds(screen, response)
    return response


async def _final(channel: grpc.aio.Channel, question: Question) -> pb.QueryResponse:
    if not question.stream:
        unary: pb.QueryResponse = await rpc.QueryServiceStub(channel).Query(question.request, timeout=question.patience)
        return unary
    response = None
    async for event in _events(channel, question):
        if event.WhichOneof("event") == "final":
            response = event.final
    return _complete(response)


async def _show_as_it_comes(screen: Screen, channel: grpc.aio.Channel, question: Question) -> pb.QueryResponse:
    paper = Typewriter(
        width=min(screen.out.width, _WIDTH), height=screen.out.height, colour=screen.out.color_system is not None
    )
    if screen.out.no_color:
        paper = Typewriter(width=min(screen.out.width, _WIDTH), height=screen.out.height, colour=False)
    response = None
    with screen.busy("Looking for passages …") as status:
        async for event in _events(channel, question):
            match event.WhichOneof("event"):
                case "retrieval":
                    status.update(f"Reading {len(event.retrieval.sources)} passages …")
                case "delta":
                    status.stop()
                    _write(paper.feed(event.delta.text))
                case "reset":
                    _write(paper.reset())
                    status.update("Starting over …")
                    status.start()
                case "final":
                    response = event.final
    final = _complete(response)
    _write(paper.finish())
    if paper.text != final.answer:
        _write(paper.reset() + paper.feed(final.answer) + paper.finish())
    return final


async def _events(channel: grpc.aio.Channel, question: Question) -> AsyncIterator[pb.QueryEvent]:
    call = rpc.QueryServiceStub(channel).StreamQuery(question.request, timeout=question.patience)
    try:
        async for event in call:
            yield event
    finally:
        call.cancel()


def _complete(response: pb.QueryResponse | None) -> pb.QueryResponse:
    if response is None:
        raise CliError("the query service ended the stream before the answer was complete; ask again")
    return response


def _show_answer(screen: Screen, response: pb.QueryResponse) -> None:
    if screen.format is Format.TEXT:
        screen.text(cleaned(response.answer))
    elif screen.format is Format.TABLE:
        screen.out.print(cleaned(response.answer), width=min(screen.out.width, _WIDTH))


def show_grounds(screen: Screen, response: pb.QueryResponse) -> None:
    """What stands below an answer: why there is none, the sources, and how it came about."""
    if screen.format is Format.JSON:
        screen.json(as_json(response))
    elif screen.format is Format.TEXT:
        screen.text(*_text_lines(response))
    else:
        _pretty_grounds(screen, response)


def as_json(message: Any) -> dict[str, Any]:
    """A message as JSON with the contract's own names, and every field there."""
    document: dict[str, Any] = MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return document


def _pretty_grounds(screen: Screen, response: pb.QueryResponse) -> None:
    if response.abstained:
        screen.out.print(Text(f"No answer is given: {_why_not(response)}.", style="yellow"))
    cited, others = _sources(response)
    if cited and not response.abstained:
        screen.out.print()
        screen.out.print(_source_table(screen, cited))
    if others:
        titles = ", ".join(dict.fromkeys(one_line(source.title or source.document_id, 60) for source in others))
        screen.out.print(Text(f"Also considered: {one_line(titles, 200)}", style="dim"))
    for line in _warnings(response):
        screen.out.print(Text(line, style="yellow"))
    screen.out.print(Text(_summary(response), style="dim"))


def _source_table(screen: Screen, sources: Sequence[core_pb2.Source]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 1), width=min(screen.out.width, _WIDTH))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(ratio=1)
    table.add_column(justify="right", style="dim", no_wrap=True)
    for source in sources:
        where = Text(one_line(source.title or source.document_id), style="bold")
        where.append(f"  {_place(source)}", style="not bold dim")
        where.append(f"\n“{one_line(source.snippet, 280)}”", style="not bold")
        table.add_row(source.marker, where, f"{source.score:.2f}")
    return table


def _text_lines(response: pb.QueryResponse) -> list[str]:
    lines = []
    if response.abstained:
        lines += [f"No answer is given: {_why_not(response)}."]
    cited, others = _sources(response)
    if cited and not response.abstained:
        lines += ["", "Sources:"]
        for source in cited:
            lines += [
                f"{source.marker} {one_line(source.title or source.document_id)} ({_place(source)}) {source.score:.2f}",
                f"    “{one_line(source.snippet, 280)}”",
            ]
    if others:
        titles = dict.fromkeys(one_line(source.title or source.document_id, 60) for source in others)
        lines += ["", f"Also considered: {', '.join(titles)}"]
    return [*lines, "", *_warnings(response), _summary(response)]


def _sources(response: pb.QueryResponse) -> tuple[list[core_pb2.Source], list[core_pb2.Source]]:
    """What the answer cites, and a few others that were found."""
    cited = [source for source in response.sources if source.cited]
    cited_documents = {source.document_id for source in cited}
    others = [source for source in response.sources if not source.cited and source.document_id not in cited_documents]
    return cited, others[:_ALSO_FOUND]


def _place(source: core_pb2.Source) -> str:
    place = one_line(source.uri or source.document_id)
    return f"{place}, page {source.page}" if source.page else place


def _why_not(response: pb.QueryResponse) -> str:
    return _WHY_NOT.get(response.abstention_reason, "the documents do not support one")


def _warnings(response: pb.QueryResponse) -> list[str]:
    lines = [f"warning: {one_line(warning.message, 300)}" for warning in response.warnings]
    return lines + degraded_lines(response.coverage)


def degraded_lines(coverage: core_pb2.Coverage) -> list[str]:
    """A warning when a store did not answer."""
    if not coverage.degraded:
        return []
    answered = (core_pb2.StoreCoverage.STATE_ANSWERED, core_pb2.StoreCoverage.STATE_SKIPPED)
    silent = [one_line(f"{s.store} ({s.reason or 'no answer'})") for s in coverage.stores if s.state not in answered]
    return [f"warning: not every store answered, so documents may be missing: {', '.join(silent)}"]


def _summary(response: pb.QueryResponse) -> str:
    took = response.processing_time.ToMicroseconds() / 1e6
    parts = [
        "" if response.abstained else f"confidence {response.confidence:.2f}",
        seconds(took),
        f"endpoint {cleaned(response.endpoint)}" if response.endpoint else "",
        f"request {cleaned(response.request_id)}",
    ]
    return " · ".join(part for part in parts if part)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
