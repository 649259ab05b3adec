"""Events of the audit log as a table that fits its terminal: nothing wraps, and ids lose their middle at most. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import grpc
from rich.cells import set_cell_size
from rich.text import Text

from cli.tables import GAP, narrowed
from cli.text import one_line, plural, shortened
from groundwire.audit.v1 import audit_service_pb2 as pb

_STAGES = {pb.STAGE_BEGUN: "begun", pb.STAGE_INTERRUPTED: "interrupted"}
_HEADS = ("Index", "Time (UTC)", "Who", "Method", "Outcome", "What")
# What events usually need in each column: lines that follow each other are aligned without knowing the next one.
_USUAL = (7, 19, 14, 15, 9)


@dataclass(frozen=True)
class Shown:
    """What is shown of an event. ``outcome`` is the status code's name, or the stage that stands for it."""

    index: str
    time: datetime
    who: str
    method: str
    decision: str
    outcome: str
    what: str

    @property
    def denied(self) -> bool:
        """Whether the call was refused."""
        return self.decision == "denied"


def shown(logged: pb.LoggedEvent) -> Shown:
    """What is shown of ``logged``; texts are on one line."""
    event = logged.event
    code = next((code.name for code in grpc.StatusCode if code.value[0] == event.code), str(event.code))
    return Shown(
        index=str(logged.index),
        time=event.time.ToDatetime(UTC),
        who=one_line(event.principal),
        method=one_line(event.method.rpartition(".")[2] or event.method),
        decision=pb.Decision.Name(event.decision).removeprefix("DECISION_").lower(),
        outcome=_STAGES.get(event.stage) or code,
        what=one_line(_what(event)),
    )


def cells(event: Shown) -> tuple[str, ...]:
    """One event for tab-separated lines, with everything that is known."""
    when = event.time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return (event.index, when, event.who, event.method, event.decision, event.outcome, event.what)


def table(events: Sequence[Shown], width: int) -> Iterator[Text]:
    """The lines of a table of at most ``width`` columns.

    Where not everything fits into a row, a line of its own gives the date, and what was acted on stands below.
    """
    whole = [_row(event, "%Y-%m-%d %H:%M:%S") for event in events]
    widths = narrowed(_HEADS, whole, width, ())
    if sum(widths) + GAP * (len(widths) - 1) <= width:
        yield Text(_line(_HEADS, widths), style="bold")
        for event, row in zip(events, whole, strict=True):
            yield _styled(event, row, widths)
        return
    heads = ("Index", "UTC", *_HEADS[2:5])
    rows = [_row(event, "%H:%M:%S")[:5] for event in events]
    widths = narrowed(heads, rows, width, (2, 3))
    yield Text(_line(heads, widths), style="bold")
    indent = " " * (widths[0] + GAP)
    date = None
    for event, row in zip(events, rows, strict=True):
        if event.time.date() != date:
            date = event.time.date()
            yield Text(f"{indent}{date.isoformat()}", style="bold")
        yield _styled(event, row, widths)
        if event.what:
            yield _below(event, widths, width)


def following(event: Shown, width: int) -> Iterator[Text]:
    """The lines of an event that follows others, and is followed by others, of at most ``width`` columns."""
    row = _row(event, "%Y-%m-%d %H:%M:%S")
    least = [" " * count for count in _USUAL]
    widths = narrowed([*least, ""], [row], width, ())
    if sum(widths) + GAP * (len(widths) - 1) <= width:
        yield _styled(event, row, widths)
        return
    widths = narrowed(least, [row[:5]], width, (2, 3))
    yield _styled(event, row[:5], widths)
    if event.what:
        yield _below(event, widths, width)


def _below(event: Shown, widths: Sequence[int], width: int) -> Text:
    indent = " " * (widths[0] + GAP)
    return Text(f"{indent}{shortened(event.what, width - len(indent))}", style="dim")


def _row(event: Shown, time: str) -> tuple[str, ...]:
    # The service goes without saying, but for commands, which have none.
    method = event.method.rpartition("/")[2]
    return (event.index, event.time.strftime(time), event.who, method, _outcome(event), event.what)


def _outcome(event: Shown) -> str:
    """The code alone: that it was refused is to be seen by it, or else is said, too."""
    refused = event.denied and event.outcome not in {"PERMISSION_DENIED", "UNAUTHENTICATED"}
    return f"denied, {event.outcome}" if refused else event.outcome


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    parts = [set_cell_size(shortened(text, width), width) for text, width in zip(row, widths, strict=True)]
    return (" " * GAP).join([shortened(row[0], widths[0]).rjust(widths[0]), *parts[1:]]).rstrip()


def _styled(event: Shown, row: Sequence[str], widths: Sequence[int]) -> Text:
    line = Text(_line(row, widths))
    line.stylize("cyan", 0, widths[0])
    if event.denied:
        line.stylize("red", widths[0])
    return line


def _what(event: pb.AuditEvent) -> str:
    """What was changed, or else what the call was about and how many documents it was shown."""
    if event.changes:
        more = len(event.changes) - 1
        return event.changes[0] + (f" and {more} more" if more else "")
    count = len(event.document_ids) if event.stage == pb.STAGE_ENDED else 0
    return " ".join(part for part in (event.resource, f"({plural(count, 'document')})" if count > 1 else "") if part)
