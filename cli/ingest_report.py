"""What ``groundwire ingest`` says of the files that it was given: those that failed, a summary, and how to go on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table
from rich.text import Text

from cli.documents import Entry
from cli.errors import ExitCode
from cli.output import Format, Screen
from cli.tables import GAP
from cli.text import one_line, plural, seconds, shortened
from services.corpus.cleaning import cleaned


@dataclass(frozen=True)
class Result:
    """What became of one file; ``reason`` is empty where it was taken in."""

    entry: Entry
    version: int = 0
    chunks: int = 0
    unchanged: bool = False
    reason: str = ""
    message: str = ""
    retryable: bool = False

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "path": self.entry.shown.encode("utf-8", "surrogateescape").decode("utf-8", "replace"),
            "document_id": self.entry.document_id,
            "version": self.version,
            "chunks": self.chunks,
            "unchanged": self.unchanged,
            "failure_reason": self.reason,
            "failure_message": self.message,
            "retryable": self.retryable,
        }


@dataclass
class Report:
    """What became of the files, in their order.

    ``not_sent`` and ``cut_off`` count those of which nothing is known, because ``signal`` ended the command: no byte
    of the first was sent, while the others were on their way.
    """

    collection: str
    results: list[Result] = field(default_factory=list)
    seconds: float = 0.0
    skipped: Mapping[str, int] = field(default_factory=dict)
    not_sent: int = 0
    cut_off: int = 0
    signal: int = 0

    @property
    def failed(self) -> list[Result]:
        """Those that were not taken in."""
        return [result for result in self.results if result.reason]

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "collection": self.collection,
            "processed": len(self.results) - len(self.failed),
            "failed": len(self.failed),
            "not_sent": self.not_sent,
            "cut_off": self.cut_off,
            "skipped": dict(self.skipped),
            "seconds": round(self.seconds, 3),
            "results": [result.document() for result in self.results],
        }


def show(screen: Screen, report: Report) -> None:
    """The report on stdout."""
    if screen.format is Format.JSON:
        screen.json(report.document())
        return
    failed = sorted(report.failed, key=lambda result: (result.reason, result.entry.shown))
    if failed and screen.format is Format.TABLE:
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("Reason", style="red", no_wrap=True)
        table.add_column("File and what to know", ratio=1, overflow="fold")
        room = screen.out.width - max(len(result.reason) for result in failed) - GAP
        last = ""
        for result in failed:
            name = shortened(_printable(result.entry.shown), room)
            cell = Text.assemble((name, "cyan"), "\n", result.message)
            table.add_row("" if result.reason == last else result.reason, cell)
            last = result.reason
        screen.table(table)
    elif failed:
        screen.text(*(f"{r.reason}\t{_printable(r.entry.shown)}\t{one_line(r.message, 400)}" for r in failed))
    summary = _summary(report)
    if screen.format is Format.TABLE:
        screen.out.print(summary, style="red" if failed else "yellow" if report.signal else "green")
    else:
        screen.text(summary)


def say_how_to_go_on(screen: Screen, report: Report) -> None:
    """What an interruption left undone, and that the same command does it."""
    if not report.signal:
        return
    taken = len(report.results) - len(report.failed)
    parts = [f"{plural(taken, 'document')} {_are(taken)} taken in" if taken else "nothing is taken in"]
    if report.not_sent:
        parts.append(f"{plural(report.not_sent, 'document')} {_were(report.not_sent)} not sent")
    if report.cut_off:
        parts.append(
            f"{plural(report.cut_off, 'document')} {_were(report.cut_off)} cut off on the way and may have been taken in"
        )
    screen.note(
        f"interrupted: {', '.join(parts)}; the same command goes on from here and skips what is unchanged",
        style="yellow",
    )


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _were(count: int) -> str:
    return "was" if count == 1 else "were"


def _summary(report: Report) -> str:
    taken = [result for result in report.results if not result.reason]
    unchanged = sum(result.unchanged for result in taken)
    parts = [
        f"{plural(len(taken), 'document')} in collection {report.collection}"
        + (f" ({unchanged} unchanged)" if unchanged else ""),
        plural(sum(result.chunks for result in taken), "passage"),
        seconds(report.seconds),
    ]
    if report.failed:
        reasons = Counter(result.reason for result in report.failed)
        parts.append(
            f"{plural(len(report.failed), 'document')} failed: "
            + ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
        )
    return " · ".join(parts)


def exit_code(report: Report) -> int:
    """FAILED when any document was not taken in; that of the signal when one ended it before all were sent."""
    if report.signal:
        return 128 + report.signal
    return ExitCode.FAILED if report.failed else ExitCode.OK


def _printable(name: str) -> str:
    """A file's name on one line: what would break it, or divide it in columns, is shown as a backslash shows it."""
    shown = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return cleaned(shown.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t"))
