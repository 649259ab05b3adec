"""``groundwire ingest``: files in batches, a few on their way at a time, and a result for each."""

from __future__ import annotations

import asyncio
import math
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import grpc

from cli.client import explained, open_channel
from cli.documents import MAX_BYTES, NOT_A_FILE, Entry, Found, open_to_read, what_it_is
from cli.errors import CliError
from cli.ingest_report import Report, Result
from cli.interrupts import BUT_HANGUP, interrupts
from cli.output import Screen
from cli.progress import Progress
from cli.text import one_line, plural
from groundwire.common.v1 import core_pb2, filter_pb2
from groundwire.ingestion.v1 import ingestion_service_pb2 as pb
from groundwire.ingestion.v1 import ingestion_service_pb2_grpc as rpc
from services.corpus.cleaning import cleaned
from services.corpus.principal import EVERYBODY
from services.runtime.options import TlsOptions

if TYPE_CHECKING:
    from groundwire.ingestion.v1.ingestion_service_pb2_grpc import IngestionServiceAsyncStub

_BATCH_DOCUMENTS = 16
_BATCH_BYTES = 8 * 1024 * 1024
_IN_FLIGHT = 4
# Small corpora go in small batches, so that the progress bar has something to show.
_STEPS = 16
_TRIES = 6
_LONGEST_WAIT = 10.0
# A hint is not waited for longer, in seconds; it names so many readers.
_HINT_TIMEOUT = 3.0
_READERS = 3


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
    work = _Work(address, collection, entries, progress, patience, tls)
    return await work.run()


async def ingest_until_interrupted(
    screen: Screen,
    address: str,
    collection: str,
    found: Found,
    progress: Progress,
    *,
    patience: float,
    tls: TlsOptions | None = None,
) -> Report:
    """Like :func:`ingest`, but the first Ctrl-C sends nothing more and waits for what is on its way, the second not."""
    work = _Work(address, collection, found.entries, progress, patience, tls)
    with interrupts(again=work.cut, signals=BUT_HANGUP) as signals:

        def stop(_: asyncio.Future[int]) -> None:
            work.stop()
            if work.on_their_way:
                number = plural(work.on_their_way, "document")
                screen.note(f"waiting for {number} on the way to the service; Ctrl-C once more ends at once")

        signals.first.add_done_callback(stop)
        report = await work.run()
        if report.not_sent or report.cut_off:
            report.signal = signals.first.result()
    report.skipped = found.skipped
    return report


async def say_who_reads(
    screen: Screen, address: str, collection: str, count: int, caller: frozenset[str] | None, tls: TlsOptions | None
) -> None:
    """Say who may read ``count`` documents that come without readers: the collection's default readers, by name.

    ``caller`` is what the caller answers to, None if that is not known: they may be none of these.
    """
    channel = open_channel(address, tls)
    default: pb.Collection | None = None
    with suppress(grpc.aio.AioRpcError):
        request = pb.GetCollectionRequest(name=collection)
        stub: IngestionServiceAsyncStub = rpc.IngestionServiceStub(channel)
        default = (await stub.GetCollection(request, timeout=_HINT_TIMEOUT)).collection
    await channel.close()
    readers = list(default.default_access.readers) if default is not None and default.HasField("default_access") else []
    told = f"note: no readers given for {plural(count, 'document')}: "
    if default is None:
        told += (
            "the collection's default readers may read them, and you may be none of those; if it has none, you alone"
        )
    elif not default.HasField("default_access"):
        told += f"the collection {cleaned(default.name)} has no default readers, so you alone may read them"
    else:
        named = ", ".join(map(one_line, readers[:_READERS])) or "nobody"
        more = f" and {len(readers) - _READERS:,} more" if len(readers) > _READERS else ""
        told += f"the default readers of the collection {cleaned(default.name)} may read them, which are {named}{more}"
        if caller is None and EVERYBODY not in readers:
            told += "; you may be none of them"
        elif caller is not None and caller.isdisjoint(readers):
            told += "; you are none of them and will not find them"
    screen.note(f"{told}; --readers tenant:* lets everybody")


class _Work:
    """Batches on their way to the service, and what became of those that were sent."""

    def __init__(
        self,
        address: str,
        collection: str,
        entries: Sequence[Entry],
        progress: Progress,
        patience: float,
        tls: TlsOptions | None,
    ) -> None:
        self._collection = collection
        self._entries = entries
        self._progress = progress
        self._results = {
            n: Result(entry, reason=entry.problem[0], message=entry.problem[1])
            for n, entry in enumerate(entries)
            if entry.problem is not None
        }
        # One iterator for all senders: each batch is sent once.
        self._batches = iter(list(_batches(entries, skipped=self._results)))
        self._stopped = asyncio.Event()
        self._sender = _Sender(address, collection, patience, tls, self._stopped)
        self._sending: asyncio.Task[None] | None = None
        self.on_their_way = 0
        self._cut_off = 0

    def stop(self) -> None:
        """Send nothing more."""
        self._stopped.set()

    def cut(self) -> None:
        """Wait for nothing more either."""
        self._stopped.set()
        if self._sending is not None:
            self._sending.cancel()

    async def run(self) -> Report:
        """Send until everything is sent or :meth:`stop` is called; the report."""
        loop = asyncio.get_running_loop()
        start = loop.time()
        self._progress.begin(len(self._entries))
        self._progress.advance(len(self._results))
        self._sending = asyncio.create_task(self._send_all())
        try:
            await asyncio.wait([self._sending])
            if not self._sending.cancelled():
                self._sending.result()
        finally:
            self._progress.end()
            self._sending.cancel()
            await self._sender.close()
        return Report(
            self._collection or "default",
            [self._results[n] for n in sorted(self._results)],
            loop.time() - start,
            not_sent=len(self._entries) - len(self._results) - self._cut_off,
            cut_off=self._cut_off,
        )

    async def _send_all(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(_IN_FLIGHT):
                    group.create_task(self._send())
        except* CliError as errors:
            done = sum(not result.reason for result in self._results.values())
            raise _with_progress(errors.exceptions[0], done) from None

    async def _send(self) -> None:
        for batch in self._batches:
            if self._stopped.is_set():
                return
            self.on_their_way += len(batch)
            try:
                answered = await self._sender.send([self._entries[n] for n in batch])
            except _Stopped:
                return
            except asyncio.CancelledError:
                self._cut_off += len(batch)
                raise
            finally:
                self.on_their_way -= len(batch)
            self._results.update(zip(batch, answered, strict=True))
            self._progress.advance(len(batch))


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


class _Stopped(Exception):
    """A batch that the service did not take is not offered to it again."""


class _Sender:
    """Sends batches, patiently where the service says that trying again makes sense, until ``stopped``."""

    def __init__(
        self, address: str, collection: str, timeout: float, tls: TlsOptions | None, stopped: asyncio.Event
    ) -> None:
        self._address = address
        self._collection = collection
        self._timeout = timeout
        self._tls = tls
        self._stopped = stopped
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
                told = await explained(
                    error, "ingestion", self._address, self._channel, self._tls, collections_at=self._address
                )
                # A service that never answered is not there: only one that did is worth waiting for.
                self._answered |= any(key == "grpc-status-details-bin" for key, _ in error.trailing_metadata() or ())
                if told.retry_after is None or tries == _TRIES or not self._answered:
                    raise told from error
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(_LONGEST_WAIT, told.retry_after * 2 ** (tries - 1))):
                        await self._stopped.wait()
                if self._stopped.is_set():
                    raise _Stopped from error
            else:
                self._answered = True
                return response


def _read(entry: Entry) -> pb.DocumentInput | Result:
    try:
        # It may be another one by now.
        with os.fdopen(open_to_read(entry), "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                return Result(entry, reason=NOT_A_FILE, message=what_it_is(mode))
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        return Result(entry, reason="UNREADABLE", message=f"The file cannot be read: {error.strerror}.")
    if len(content) > MAX_BYTES:
        return Result(entry, reason="TOO_LARGE", message="The file has grown too large since it was looked at.")
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
        message=cleaned(" ".join(part for part in (result.failure_message, problems and f"({problems})") if part)),
        retryable=result.retryable,
    )


def _field(path: str) -> str:
    # "documents[2].title" means nothing to somebody who named a folder.
    return path.partition("].")[2] if path.startswith("documents[") else path
