"""Tables fit their terminal without breaking a word."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.text import Text

from cli import collections
from cli.documents import Entry
from cli.ingest_report import Report, Result, show
from cli.output import Format, Screen
from cli.status_tables import render
from cli.status_view import Picture
from cli.tables import fitted_table
from groundwire.common.v1 import core_pb2
from groundwire.generation.v1 import generation_service_pb2 as generation_pb
from groundwire.ingestion.v1 import ingestion_service_pb2 as ingestion_pb
from groundwire.retrieval.v1 import retrieval_service_pb2 as retrieval_pb

_LONG = "openai-gpt-oss-120b-instruct-2025-09-01-preview-quantised-to-4-bits"


def _lines(shown: RenderableType, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, markup=False, highlight=False)
    console.print(shown)
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined] # as given
    assert max(map(cell_len, lines)) <= width
    return lines


def test_the_widest_of_the_columns_that_may_gives_way() -> None:
    rows = [("a" * 30, "b" * 60, Text("degraded"), "1"), ("short", "also short", Text("healthy"), "20")]
    table = fitted_table(("Name", "Model", "State", "Calls"), rows, 60, yielding=("Name", "Model"), right=("Calls",))
    assert _lines(table, 60) == [
        "Name                  Model                  State     Calls",
        "aaaaaaaaaa…aaaaaaaaa  bbbbbbbbbb…bbbbbbbbbb  degraded      1",
        "short                 also short             healthy      20",
    ]
    assert _lines(fitted_table(("Name", "Calls"), [], 40, yielding=("Name",)), 40) == ["Name  Calls"]


@pytest.mark.parametrize("width", [80, 120])
def test_long_names_break_no_word_of_status(width: int) -> None:
    endpoint = generation_pb.EndpointStatus(
        name=_LONG, kind="openai", model=_LONG, breaker="half-open", role="primary", error_message="HTTP 503"
    )
    store = retrieval_pb.StoreStatus(name=_LONG, engine=_LONG, breaker="half-open", chunk_count=123_456)
    shown = "\n".join(_lines(render(Picture((), (store,), (endpoint,), watched=True), width), width))
    for word in ("half-open", "primary", "123,456", "LLM endpoint", "Vector store", "Breaker"):
        assert word in shown
    rows = [line for line in shown.splitlines() if "half-open" in line]
    assert [(row.count("…"), row.split()[-1]) for row in rows[:1]] == [(2, "0")]
    assert (len(rows), rows[1].count("…")) == (2, 2), "each has one line"


@pytest.mark.parametrize("width", [80, 120])
def test_long_names_break_no_word_of_collections(width: int) -> None:
    long = ingestion_pb.Collection(
        name=_LONG,
        document_count=1_000_000,
        default_access=core_pb2.Access(readers=[f"user:{_LONG}@example.org", *(f"group:{n}" for n in range(9))]),
    )
    long.retention.FromSeconds(36_500 * 86_400)
    shown = "\n".join(_lines(collections._table([long], width), width))
    for words in ("1000000", "36500 days", "and 7 more", "Created (UTC)", "group:0", "e.org"):
        assert words in shown.replace(",", "")


def test_failed_files_stand_above_what_to_know(capsys: pytest.CaptureFixture[str]) -> None:
    name = "a folder of a long name/and another folder in it/travel-policy-of-the-year-2025.pdf"
    entries = [Entry(Path(shown), shown, shown) for shown in (name, "b.pdf")]
    why = "The document is protected by a password; remove it and send it again."
    screen = Screen(Format.TABLE)
    screen.out = Console(width=60, highlight=False, markup=False)
    show(screen, Report("default", [Result(entry, reason="ENCRYPTED", message=why) for entry in entries]))
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [
        "Reason     File and what to know",
        "ENCRYPTED  a folder of a long name/…icy-of-the-year-2025.pdf",
        "           The document is protected by a password; remove",
        "           it and send it again.",
        "           b.pdf",
        "           The document is protected by a password; remove",
        "           it and send it again.",
        "0 documents in collection default · 0 passages · 0 s · 2",
        "documents failed: 2 ENCRYPTED",
    ]
