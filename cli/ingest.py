"""``groundwire ingest``: files in batches, a few on their way at a time, and a result for each."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from rich.table import Table
from rich.text import Text

from cli.client import explained, open_channel
from cli.documents import Entry
from cli.errors import CliError, ExitCode
from cli.output import Format, Screen
from cli.progress import Progress
from cli.text import clean, one_line, plural, seconds
from groundwire.common.v1 import core_pb2, filter_pb2
from groundwire.ingestion.v1 import ingestion_service_pb2 as pb
from groundwire.ingestion.v1 import ingestion_service_pb2_grpc as rpc
from services.runtime.options import TlsOptions

_BATCH_DOCUMENTS = 16
_BATCH_BYTES = 8 * 1024 * 1024
_IN_FLIGHT = 4
# Small corpora go in small batches, so that the progress bar has something to show.
_STEPS = 16
_TRIES = 6
_LONGEST_WAIT = 10.0


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
            "path": _printable(self.entry.shown),
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
    """What became of all files, in the order of the files."""

    collection: str
    results: list[Result] = field(default_factory=list)
    seconds: float = 0.0

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
            "seconds": round(self.seconds, 3),
            "results": [result.document() for result in self.results],
        }


async def ingest(
    address: str,
    collection: str,
    entries: Sequence[Entry],
    progress: Progress,
    *,
    patience: float = 600.0,
    tls: TlsOptions | None = None,
) -> Report:
    """Send ``entries`` and wait for all of them. One call may take ``patience`` seconds.

    Raises CliError when the service refuses a batch as a whole or cannot be reached; what was taken in by then
    stays, and its message says how much that is.
    """
    loop = asyncio.get_running_loop()
    start = loop.time()
    results: dict[int, Result] = {}
    for n, entry in enumerate(entries):
        if entry.problem is not None:
            results[n] = Result(entry, reason=entry.problem[0], message=entry.problem[1])
    progress.begin(len(entries))
    progress.advance(len(results))
    sender = _Sender(address, collection, patience, tls)
    batches = iter(list(_batches(entries, skipped=results)))

    async def work() -> None:
        for batch in batches:  # one iterator for all workers: each batch is sent once
            results.update(zip(batch, await sender.send([entries[n] for n in batch]), strict=True))
            progress.advance(len(batch))

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(_IN_FLIGHT):
                group.create_task(work())
    except* CliError as errors:
        done = sum(not result.reason for result in results.values())
        raise _with_progress(errors.exceptions[0], done) from None
    finally:
        progress.end()
        await sender.close()
    return Report(collection or "default", [results[n] for n in sorted(results)], loop.time() - start)


def _with_progress(error: BaseException, done: int) -> BaseException:
    if not isinstance(error, CliError) or not done:
        return error
    return CliError(
        error.message,
        code=error.code,
        details=[
            *error.details,
            f"{plural(done, 'document')} had been taken in; the same command goes on from there, nothing is done twice",
        ],
    )


def _batches(entries: Sequence[Entry], skipped: dict[int, Result]) -> Iterator[list[int]]:
    """Indexes of the entries to send, bounded in number and bytes."""
    most = min(_BATCH_DOCUMENTS, max(1, math.ceil((len(entries) - len(skipped)) / _STEPS)))
    batch: list[int] = []
    size = 0
    for n, entry in enumerate(entries):
        if n in skipped:
            continue
        if batch and (len(batch) == most or size + entry.size > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(n)
        size += entry.size
    if batch:
        yield batch


class _Sender:
    """Sends batches, patiently where the service says that trying again makes sense."""

    def __init__(self, address: str, collection: str, timeout: float, tls: TlsOptions | None) -> None:
        self._address = address
        self._collection = collection
        self._timeout = timeout
        self._channel = open_channel(address, tls)
        self._stub = rpc.IngestionServiceStub(self._channel)
        self._answered = False

    async def close(self) -> None:
        await self._channel.close()

    async def send(self, entries: Sequence[Entry]) -> list[Result]:
        """The results of ``entries``, in their order."""
        read = await asyncio.gather(*(asyncio.to_thread(_read, entry) for entry in entries))
        results = [r if isinstance(r, Result) else None for r in read]
        inputs = [r for r in read if not isinstance(r, Result)]
        if inputs:
            request = pb.IngestDocumentsRequest(collection=self._collection, documents=inputs)
            answered = iter((await self._call(request)).results)
            results = [
                result if result is not None else _result(entry, next(answered, None))
                for entry, result in zip(entries, results, strict=True)
            ]
        return [result for result in results if result is not None]

    async def _call(self, request: pb.IngestDocumentsRequest) -> pb.IngestDocumentsResponse:
        tries = 0
        while True:
            tries += 1
            try:
                response: pb.IngestDocumentsResponse = await self._stub.IngestDocuments(request, timeout=self._timeout)
            except grpc.aio.AioRpcError as error:
                told = await explained(error, "ingestion", self._address, self._channel)
                # A service that never answered is not there: only one that did is worth waiting for.
                self._answered |= any(key == "grpc-status-details-bin" for key, _ in error.trailing_metadata() or ())
                if told.retry_after is None or tries == _TRIES or not self._answered:
                    raise told from error
                await asyncio.sleep(min(_LONGEST_WAIT, told.retry_after * 2 ** (tries - 1)))
            else:
                self._answered = True
                return response


def _read(entry: Entry) -> pb.DocumentInput | Result:
    try:
        content = Path(entry.path).read_bytes()
    except OSError as error:
        return Result(entry, reason="UNREADABLE", message=f"The file cannot be read: {error.strerror}.")
    access = None if entry.readers is None else core_pb2.Access(readers=entry.readers)
    return pb.DocumentInput(
        document_id=entry.document_id,
        title=entry.title,
        uri=entry.uri,
        content=content,
        metadata={key: _metadata_value(value) for key, value in entry.metadata.items()},
        access=access,
    )


def _metadata_value(value: str | float | bool | tuple[str, ...]) -> filter_pb2.MetadataValue:
    match value:
        case bool():
            return filter_pb2.MetadataValue(bool_value=value)
        case str():
            return filter_pb2.MetadataValue(string_value=value)
        case tuple():
            return filter_pb2.MetadataValue(list_value=filter_pb2.StringList(values=value))
        case _:
            return filter_pb2.MetadataValue(number_value=value)


def _result(entry: Entry, result: pb.DocumentResult | None) -> Result:
    if result is None:
        return Result(entry, reason="NO_RESULT", message="The service said nothing about it; send it again.")
    reason = ""
    if result.failure_reason:
        with suppress(ValueError):
            reason = pb.FailureReason.Name(result.failure_reason).removeprefix("FAILURE_REASON_")
        reason = reason or f"REASON_{result.failure_reason}"
    problems = "; ".join(f"{_field(p.field)}: {p.description}" for p in result.field_problems)
    return Result(
        entry,
        version=result.version,
        chunks=result.chunks,
        unchanged=result.unchanged,
        reason=reason,
        message=clean(" ".join(part for part in (result.failure_message, problems and f"({problems})") if part)),
        retryable=result.retryable,
    )


def _field(path: str) -> str:
    # "documents[2].title" means nothing to somebody who named a folder.
    return path.partition("].")[2] if path.startswith("documents[") else path


def show(screen: Screen, report: Report) -> None:
    """The report on stdout."""
    if screen.format is Format.JSON:
        screen.json(report.document())
        return
    failed = sorted(report.failed, key=lambda result: (result.reason, result.entry.shown))
    if failed and screen.format is Format.TABLE:
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("Reason", style="red", no_wrap=True)
        table.add_column("File", ratio=1, overflow="fold")
        table.add_column("What to know", ratio=2)
        last = ""
        for result in failed:
            table.add_row(
                "" if result.reason == last else result.reason, _printable(result.entry.shown), Text(result.message)
            )
            last = result.reason
        screen.table(table)
    elif failed:
        screen.text(*(f"{r.reason}\t{_printable(r.entry.shown)}\t{one_line(r.message, 400)}" for r in failed))
    summary = _summary(report)
    if screen.format is Format.TABLE:
        screen.out.print(summary, style="red" if failed else "green")
    else:
        screen.text(summary)


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
    """FAILED when any document was not taken in."""
    return ExitCode.FAILED if report.failed else ExitCode.OK


def _printable(name: str) -> str:
    return clean(name.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))
