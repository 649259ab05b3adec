"""``groundwire audit``: events, proofs and verification over the wire."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.json_format import MessageToDict

from cli.audit_table import cells, following, shown, table
from cli.audit_verify import show_report
from cli.client import connect
from cli.errors import CliError, ExitCode, usage
from cli.output import Format, Screen
from cli.text import one_line
from groundwire.audit.v1 import audit_service_pb2 as pb
from groundwire.audit.v1 import audit_service_pb2_grpc as rpc
from services.audit.merkle import verify_inclusion
from services.audit.note import Checkpoint, Note, NoteError
from services.runtime.options import TlsOptions

if TYPE_CHECKING:
    from groundwire.audit.v1.audit_service_pb2_grpc import AuditServiceAsyncStub

_TIMEOUT = 30.0
_VERIFY_TIMEOUT = 3600.0
_PAGE = 1000


@dataclass(frozen=True)
class Where:
    """The audit service's address, and how it is called."""

    address: str
    tls: TlsOptions


def event_filter(
    principal: str = "",
    method: str = "",
    document: str = "",
    request_id: str = "",
    *,
    denied: bool = False,
    since: str = "",
    until: str = "",
) -> pb.EventFilter:
    """The filter that the options say."""
    wanted = pb.EventFilter(principal=principal, method=method, document_id=document, request_id=request_id)
    if denied:
        wanted.decision = pb.DECISION_DENIED
    if since:
        wanted.start_time.FromDatetime(_moment(since, "--since"))
    if until:
        wanted.end_time.FromDatetime(_moment(until, "--until"))
    return wanted


async def show_events(screen: Screen, where: Where, wanted: pb.EventFilter, limit: int) -> int:
    """The newest ``limit`` events, the newest last; the exit code."""
    async with connect("audit", where.address, where.tls) as channel:
        # One more tells whether there are more. The service goes back from the newest: nothing older is read.
        with screen.busy("Looking through the log …"):
            found = [logged async for logged in _events(channel, wanted, limit + 1, newest_first=True)]
    events = found[limit - 1 :: -1] if len(found) > limit else found[::-1]
    if screen.format is Format.JSON:
        screen.json([_as_json(logged) for logged in events])
    elif screen.format is Format.TEXT:
        screen.text(*("\t".join(cells(shown(logged))) for logged in events))
    else:
        for line in table([shown(logged) for logged in events], screen.out.width):
            screen.table(line)
    if not found:
        screen.note(_nothing(wanted))
    if len(found) > limit:
        screen.note(
            f"groundwire: there are older events than these {limit:,}; --limit shows more of them, --until those "
            "before a time, `groundwire audit export` all"
        )
    return ExitCode.OK


def _nothing(wanted: pb.EventFilter) -> str:
    told = "note: no event of your tenant matches"
    if wanted.principal and ":" not in wanted.principal:
        return f"{told}; principals in the log are written as user:{one_line(wanted.principal)}"
    return told


async def tail(screen: Screen, where: Where, wanted: pb.EventFilter, start: int) -> int:
    """Events as they are written, until the service ends; the exit code."""
    async with connect("audit", where.address, where.tls) as channel:
        stub: AuditServiceAsyncStub = rpc.AuditServiceStub(channel)
        async for response in stub.WatchEvents(pb.WatchEventsRequest(filter=wanted, start_index=start)):
            _print_line(screen, response.event)
    return ExitCode.OK


async def export(screen: Screen, where: Where, wanted: pb.EventFilter) -> int:
    """Every event as a line of JSON; the exit code."""
    async with connect("audit", where.address, where.tls) as channel:
        none = True
        async for logged in _events(channel, wanted):
            none = False
            _print_line(screen, logged)
    if none:
        screen.note(_nothing(wanted))
    return ExitCode.OK


async def prove(screen: Screen, where: Where, index: int) -> int:
    """Check an event's proof here, and not there; the exit code."""
    async with connect("audit", where.address, where.tls) as channel:
        stub: AuditServiceAsyncStub = rpc.AuditServiceStub(channel)
        signed = (await stub.GetCheckpoint(pb.GetCheckpointRequest(), timeout=_TIMEOUT)).checkpoint
        request = pb.GetInclusionProofRequest(index=index, tree_size=signed.tree_size)
        proof = await stub.GetInclusionProof(request, timeout=_TIMEOUT)
    try:
        checkpoint = Checkpoint.parse(Note.parse(signed.note).body)
    except NoteError as error:
        raise CliError(f"the service sent no checkpoint: {error}") from error
    holds = checkpoint.size == signed.tree_size and verify_inclusion(
        proof.leaf_hash, index, checkpoint.size, list(proof.hashes), checkpoint.root
    )
    if screen.format is Format.JSON:
        screen.json(
            {
                "holds": holds,
                "index": index,
                "leaf_hash": proof.leaf_hash.hex(),
                "hashes": [step.hex() for step in proof.hashes],
                "checkpoint": signed.note,
            }
        )
    else:
        screen.text(
            f"event {index:,} {'is' if holds else 'IS NOT'} in the log of {checkpoint.size:,} events",
            f"leaf {proof.leaf_hash.hex()}",
            *(f"step {step.hex()}" for step in proof.hashes),
            "",
            *signed.note.rstrip("\n").split("\n"),
        )
    return ExitCode.OK if holds else ExitCode.FAILED


async def verify_service(screen: Screen, where: Where) -> int:
    """Have the service verify its own log; the exit code."""
    async with connect("audit", where.address, where.tls) as channel:
        stub: AuditServiceAsyncStub = rpc.AuditServiceStub(channel)
        found = await stub.VerifyLog(pb.VerifyLogRequest(), timeout=_VERIFY_TIMEOUT)
    show_report(screen, found.events, found.checkpoints, found.problems)
    return ExitCode.OK if found.intact else ExitCode.FAILED


async def _events(
    channel: grpc.aio.Channel, wanted: pb.EventFilter, limit: int | None = None, *, newest_first: bool = False
) -> AsyncIterator[pb.LoggedEvent]:
    stub: AuditServiceAsyncStub = rpc.AuditServiceStub(channel)
    # A token belongs to its request, so every page asks for the same number.
    size = _PAGE if limit is None else min(_PAGE, limit)
    token, count = "", 0
    while True:
        request = pb.ListEventsRequest(filter=wanted, page_size=size, page_token=token, newest_first=newest_first)
        page = await stub.ListEvents(request, timeout=_TIMEOUT)
        for logged in page.events:
            yield logged
            count += 1
            if count == limit:
                return
        token = page.next_page_token
        if not token:
            return


def _print_line(screen: Screen, logged: pb.LoggedEvent) -> None:
    if screen.format is Format.TABLE:
        for row in following(shown(logged), screen.out.width):
            screen.table(row)
        return
    if screen.format is Format.JSON:
        screen.json_line(_as_json(logged))
    else:
        screen.text("\t".join(cells(shown(logged))))


def _as_json(logged: pb.LoggedEvent) -> dict[str, Any]:
    """An event for programs: field names as in the contract, hashes in hexadecimal."""
    event: dict[str, Any] = MessageToDict(logged.event, preserving_proto_field_name=True)
    event["decision"] = pb.Decision.Name(logged.event.decision).removeprefix("DECISION_").lower()
    for name in ("query_hmac", "answer_sha256"):
        if name in event:
            event[name] = getattr(logged.event, name).hex()
    return {"index": logged.index, "leaf_hash": logged.leaf_hash.hex(), "code": 0, **event}


def _moment(text: str, option: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise usage(f"{option} {text!r} is not a time; write 2026-01-31T12:00:00Z") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
