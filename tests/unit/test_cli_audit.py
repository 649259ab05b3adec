"""The table of ``groundwire audit list`` fits its terminal, whatever the events say."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from rich.cells import cell_len

from cli import audit
from cli.audit_table import cells, shown, table
from cli.output import Format, Screen
from groundwire.audit.v1 import audit_service_pb2 as pb
from services.runtime.options import TlsOptions

_NOON = 1_790_000_000 // 86_400 * 86_400 + 43_200


def _event(
    index: int, *, seconds: int = 0, code: grpc.StatusCode = grpc.StatusCode.OK, **fields: object
) -> pb.LoggedEvent:
    values: dict[str, object] = {
        "principal": "user:developer",
        "method": "/groundwire.ingestion.v1.IngestionService/IngestDocuments",
        "decision": pb.DECISION_ALLOWED,
        "stage": pb.STAGE_ENDED,
        **fields,
    }
    event = pb.AuditEvent(code=code.value[0], **values)  # type: ignore[arg-type] # as given
    event.time.FromSeconds(_NOON + seconds)
    return pb.LoggedEvent(index=index, event=event)


def _lines(width: int, *events: pb.LoggedEvent) -> list[str]:
    return [line.plain for line in table([shown(event) for event in events], width)]


SHORT = (
    _event(9, resource="collections/hr"),
    _event(10, code=grpc.StatusCode.PERMISSION_DENIED, decision=pb.DECISION_DENIED, method="/q.QueryService/Query"),
)


@pytest.mark.parametrize(
    ("principal", "told"),
    [
        ("bogus", "note: no event of your tenant matches; principals in the log are written as user:bogus\n"),
        ("user:bogus", "note: no event of your tenant matches\n"),
    ],
)
async def test_that_no_event_matches_is_said(
    principal: str, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def none(*_: Any, **__: Any) -> AsyncIterator[pb.LoggedEvent]:
        nothing: list[pb.LoggedEvent] = []
        for event in nothing:
            yield event

    monkeypatch.setattr(audit, "_events", none)
    where = audit.Where("127.0.0.1:1", TlsOptions())
    wanted = audit.event_filter(principal)
    for shown_as, out in ((Format.TEXT, ""), (Format.JSON, "[]\n")):
        assert await audit.show_events(Screen(shown_as), where, wanted, 10) == 0
        assert capsys.readouterr() == (out, told)
    assert await audit.export(Screen(Format.JSON), where, wanted) == 0
    assert capsys.readouterr() == ("", told)


def test_a_row_has_everything_where_there_is_room() -> None:
    assert _lines(100, *SHORT) == [
        "Index  Time (UTC)           Who             Method           Outcome            What",
        "    9  2026-09-21 12:00:00  user:developer  IngestDocuments  OK                 collections/hr",
        "   10  2026-09-21 12:00:00  user:developer  Query            PERMISSION_DENIED",
    ]


def test_elsewhere_dates_and_what_was_changed_have_lines_of_their_own() -> None:
    begun = _event(11, seconds=86_400, stage=pb.STAGE_BEGUN, changes=["collections/default/documents/travel.pdf", "b"])
    assert _lines(80, *SHORT, begun) == [
        "Index  UTC       Who             Method           Outcome",
        "       2026-09-21",
        "    9  12:00:00  user:developer  IngestDocuments  OK",
        "       collections/hr",
        "   10  12:00:00  user:developer  Query            PERMISSION_DENIED",
        "       2026-09-22",
        "   11  12:00:00  user:developer  IngestDocuments  begun",
        "       collections/default/documents/travel.pdf and 1 more",
    ]


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_nothing_is_wider_than_the_terminal(width: int) -> None:
    events = [
        _event(0),
        _event(123_456_789, principal="user:" + "someone.with.a.long.name@example.org" * 4),
        _event(7, principal="user:" + "山田太郎" * 20, resource="collections/" + "資料" * 60),
        _event(8, method="groundwire keys rotate --master --retire", resource="tenants/" + "a" * 300),
        _event(9, code=grpc.StatusCode.RESOURCE_EXHAUSTED, decision=pb.DECISION_DENIED),
        _event(10, method="/groundwire.ingestion.v1.IngestionService/UpdateDocumentAccess", changes=["x" * 100] * 5),
        _event(11, resource="\x1b[31mred\n"),
    ]
    lines = _lines(width, *events)
    assert max(map(cell_len, lines)) <= width
    rows = [line for line in lines if re.match(r" *\d+  ", line)]
    assert [int(row.split()[0]) for row in rows] == [event.index for event in events]
    assert any("denied, RESOURCE_EXHAUSTED" in line for line in lines)
    assert any("…" in line for line in lines), "ids lose their middle"
    assert not any("\x1b" in line for line in lines)


def test_lines_for_programs_have_everything() -> None:
    event = _event(3, code=grpc.StatusCode.NOT_FOUND, resource="collections/hr", document_ids=["a", "b"])
    assert cells(shown(event)) == (
        "3",
        "2026-09-21T12:00:00.000Z",
        "user:developer",
        "IngestionService/IngestDocuments",
        "allowed",
        "NOT_FOUND",
        "collections/hr (2 documents)",
    )
