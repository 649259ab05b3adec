"""``groundwire search``: the passages behind an answer, with the score of every stage."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from cli.ask import as_json, degraded_lines
from cli.client import connect
from cli.output import Format, Screen
from cli.text import one_line, plural, seconds
from groundwire.common.v1 import core_pb2
from groundwire.retrieval.v1 import retrieval_service_pb2 as pb
from groundwire.retrieval.v1 import retrieval_service_pb2_grpc as rpc
from services.corpus.cleaning import cleaned
from services.runtime.options import TlsOptions

_STATES = {
    core_pb2.StoreCoverage.STATE_ASKED: "did not answer yet",
    core_pb2.StoreCoverage.STATE_ANSWERED: "answered",
    core_pb2.StoreCoverage.STATE_TIMED_OUT: "timed out",
    core_pb2.StoreCoverage.STATE_FAILED: "failed",
    core_pb2.StoreCoverage.STATE_SKIPPED: "skipped",
}
_STAGES = ("dense", "lexical", "fused", "rerank")


async def search(
    screen: Screen,
    address: str,
    request: pb.RetrieveRequest,
    patience: float,
    *,
    tls: TlsOptions | None = None,
    collections_at: str | None = None,
) -> pb.RetrieveResponse:
    """Search and show what was found. ``collections_at``: see :func:`connect`."""
    async with connect("retrieval", address, tls, collections_at=collections_at) as channel:
        response: pb.RetrieveResponse = await rpc.RetrievalServiceStub(channel).Retrieve(request, timeout=patience)
    if screen.format is Format.JSON:
        screen.json(as_json(response))
    elif screen.format is Format.TEXT:
        screen.text(*_text_lines(response))
    else:
        _show_table(screen, response)
    return response


def _show_table(screen: Screen, response: pb.RetrieveResponse) -> None:
    if response.chunks:
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("#", justify="right", style="cyan")
        table.add_column("Score", justify="right")
        for stage in _STAGES:
            table.add_column(stage.capitalize(), justify="right", style="dim")
        table.add_column("Passage", ratio=1)
        for n, hit in enumerate(response.chunks, start=1):
            title = one_line(hit.chunk.title or hit.chunk.document_id, 80)
            passage = one_line(hit.chunk.text, 160)
            table.add_row(str(n), f"{hit.score:.2f}", *_scores(hit.scores), f"{title}{_page(hit.chunk)}\n{passage}")
        screen.table(table)
    else:
        screen.out.print("Nothing was found among the documents that you may read.", style="yellow")
    for line in _warnings(response):
        screen.out.print(line, style="yellow")
    screen.out.print(_coverage_line(response), style="dim")


def _text_lines(response: pb.RetrieveResponse) -> list[str]:
    lines = [
        "\t".join(
            (
                str(n),
                f"{hit.score:.4f}",
                *_scores(hit.scores),
                cleaned(hit.chunk.document_id),
                one_line(hit.chunk.title, 80),
                one_line(hit.chunk.text, 300),
            )
        )
        for n, hit in enumerate(response.chunks, start=1)
    ]
    return [*lines, *_warnings(response), _coverage_line(response)]


def _scores(scores: pb.StageScores) -> Sequence[str]:
    there = {field.name for field, _ in scores.ListFields()}
    return [f"{getattr(scores, stage):.3f}" if stage in there else "-" for stage in _STAGES]


def _page(chunk: core_pb2.Chunk) -> str:
    return f", page {chunk.page}" if chunk.page else ""


def _warnings(response: pb.RetrieveResponse) -> list[str]:
    lines = [f"warning: {one_line(warning.message, 300)}" for warning in response.warnings]
    return lines + degraded_lines(response.coverage)


def _coverage_line(response: pb.RetrieveResponse) -> str:
    stores = []
    for store in response.coverage.stores:
        detail = f"{plural(store.hits, 'hit')}, {seconds(store.duration.ToMicroseconds() / 1e6)}"
        if store.state != core_pb2.StoreCoverage.STATE_ANSWERED:
            detail = one_line(store.reason) or "no reason given"
        stores.append(f"{cleaned(store.store)} {_STATES.get(store.state, 'unknown')} ({detail})")
    total = seconds(response.timings.total.ToMicroseconds() / 1e6)
    return f"{plural(len(response.chunks), 'passage')} in {total} · stores: {'; '.join(stores) or 'none'}"
