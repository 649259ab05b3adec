"""Makes the events of one service durable."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from contextvars import Context
from functools import partial
from itertools import count
from typing import Any, Protocol, TypeVar

import grpc
import structlog

from groundwire.audit.v1 import audit_service_pb2 as pb
from groundwire.policy.v1 import policy_pb2
from interceptors._shapes import Call
from services.corpus.errors import GroundwireError, Unavailable
from services.journal.leftovers import Leftovers
from services.journal.spool import Deliver, Kind, Then, kept
from services.runtime.auditing.record import CallRecord, Policy

# Seconds for the audit service, after the same for the spool: a caller is told within a second that there is no record.
_DETOUR_PATIENCE = 0.4
_RETRY_AFTER = 1.0
_CLOSING = 1.0
_RECOVERY_INTERVAL = 0.5
_MOST_OWED = 10_000
# What callers whom nobody knows may fill of a spool: it must not be them who make it refuse everybody.
_REFUSALS_SHARE = 0.5
_UNAVAILABLE = grpc.StatusCode.UNAVAILABLE.value[0]
_NO_RECORD = "AUDIT_UNAVAILABLE"
_T = TypeVar("_T")
_log = structlog.get_logger(__name__)


class Keeper(Protocol):
    """Where events are made durable: a :class:`services.journal.spool.Spool`, or the log itself."""

    @property
    def failure(self) -> Unavailable | None:
        """Why nothing can be kept; None while all is well."""

    @property
    def fill(self) -> float:
        """How full it is, 0 to 1."""

    @property
    def left_open(self) -> Mapping[bytes, Sequence[bytes]]:
        """What the process before this one did not close: its events, by key."""

    def start(self) -> None:
        """Begin to hand events on."""

    def submit(self, kind: Kind, key: bytes, payload: bytes, then: Then) -> None:
        """Keep an event and tell ``then``; Unavailable."""

    async def close(self) -> None:
        """Stop."""


class Recorder:
    """Makes the events of one service durable. Belongs to one event loop."""

    def __init__(
        self,
        service: str,
        keeper: Keeper,
        deliver: Deliver | None = None,
        *,
        leftovers: Leftovers | None = None,
        close: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """``deliver`` is the way around a ``keeper`` that fails; None where there is none. ``close`` comes last.

        ``leftovers`` takes up what ended processes left; it runs while this is started.
        """
        self.service = service
        self.policy_version = ""
        self._leftovers = leftovers
        self._close = close
        self._keeper = keeper
        self._deliver = deliver
        self.loop = asyncio.get_running_loop()
        self._prefix = os.urandom(12).hex()
        self._numbers = count(1)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._under_way = 0
        self._settled: asyncio.Future[None] | None = None
        self._owed: deque[tuple[Kind, str, pb.AuditEvent]] = deque()
        self._recovering: asyncio.Task[None] | None = None
        self._said_full = False

    def start(self) -> None:
        """Close what the process before this one left open, and begin to hand events on.

        The server does this once it has its address: a service that cannot be served does nothing of it.
        """
        for key, begun in self._keeper.left_open.items():
            self.keep(Kind.CLOSES, key.decode(), interrupted(key, begun))
        self._keeper.start()
        if self._leftovers is not None:
            self._leftovers.start()

    @property
    def failure(self) -> Unavailable | None:
        """Why the service's calls leave no durable record, or might not; None while all is well."""
        if self._owed:
            return Unavailable("events of the audit log could not be made durable yet")
        return self._keeper.failure

    def open(self, call: Call, policy: Policy) -> CallRecord:
        """The record of ``call``."""
        return CallRecord(self, call, policy)

    def own(self, tenant: str) -> CallRecord:
        """A record of something that the service does by itself; whoever asks for it ends it."""
        return CallRecord(self, None, Policy(policy_pb2.AUDIT_ALWAYS, "", self.policy_version), tenant)

    def new_key(self) -> str:
        """The beginning of the ids of one call's events; never twice."""
        return f"{self._prefix}-{next(self._numbers):x}"

    def keep(self, kind: Kind, key: str, event: pb.AuditEvent) -> asyncio.Future[None]:
        """Make an event durable. The future, which may be left alone, raises Unavailable when there is no way."""
        keeping = _Keeping(self, kind, key, event)
        self._under_way += 1
        if not event.tenant and not self._has_room():
            keeping.kept(None)
            return keeping.done
        try:
            self._keeper.submit(kind, key.encode(), keeping.data, keeping.kept)
        except GroundwireError as error:
            keeping.kept(error)
        return keeping.done

    def note(self, event: pb.AuditEvent) -> None:
        """Keep an event that stands alone and that nobody waits for."""
        event.event_id = self.new_key()
        self.keep(Kind.PLAIN, event.event_id, event)

    def spawn(self, work: Coroutine[Any, Any, _T], context: Context | None = None) -> asyncio.Task[_T]:
        """Run ``work`` to its end, whatever becomes of whoever waits for it; :meth:`settled` waits for it, too."""
        task = self.loop.create_task(work, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def settled(self) -> None:
        """Return when every event that was begun is durable, or given up."""
        while self._tasks or self._under_way:
            if self._tasks:
                await asyncio.wait(self._tasks)
            if self._under_way:
                if self._settled is None:
                    self._settled = self.loop.create_future()
                await asyncio.shield(self._settled)

    async def close(self) -> None:
        """Stop; events that are durable here and not handed on are when the service runs again."""
        if self._leftovers is not None:
            # Before the spool is given back: it would be found, and taken for that of a process that has ended.
            await self._leftovers.close()
        with suppress(TimeoutError):
            await asyncio.wait_for(self.settled(), _CLOSING)
        if self._recovering is not None:
            self._recovering.cancel()
            await asyncio.wait([self._recovering])
        if self._owed:
            _log.error("events of the audit log are lost: nothing could keep them", events=len(self._owed))
        await self._keeper.close()
        if self._close is not None:
            await self._close()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None and not isinstance(task.exception(), GroundwireError):
            _log.error("work behind a call failed unexpectedly", exc_info=task.exception())

    # --- for _Keeping ----------------------------------------------------------------------------------------------

    def _has_room(self) -> bool:
        """Whether what callers do who have no tenant is kept: they are not known, and can be anybody, as often as they like."""
        if self._keeper.fill < _REFUSALS_SHARE:
            self._said_full = False
            return True
        if not self._said_full:
            self._said_full = True
            _log.error("refusals of unknown callers are not recorded: the spool is half full")
        return False

    async def _send(self, data: bytes) -> None:
        if self._deliver is None:
            raise Unavailable("there is no other way")
        async with asyncio.timeout(_DETOUR_PATIENCE):
            await self._deliver([data])

    def _finish(self) -> None:
        self._under_way -= 1
        if not self._under_way and self._settled is not None:
            self._settled.set_result(None)
            self._settled = None

    def _owe(self, kind: Kind, key: str, event: pb.AuditEvent, *, known: bool = False) -> None:
        """Remember an event that the spool lacks, to write it when that is possible.

        Unless the audit service has it (``known``), its caller was told that there is no record: that is what it says
        then, under an id of its own, since a disk that was merely slow may still bring the first one.
        """
        if event.stage == pb.STAGE_BEGUN:
            return  # what was to follow does not
        if not self._owed:
            _log.error("the audit log cannot be written", service=self.service)
        if len(self._owed) < _MOST_OWED:
            if event.stage == pb.STAGE_ENDED and not event.code and not known:
                event.code = _UNAVAILABLE
                event.reason = _NO_RECORD
                event.event_id = f"{key}.refused"
            self._owed.append((kind, key, event))
        if self._recovering is None or self._recovering.done():
            self._recovering = self.loop.create_task(self._recover())

    async def _recover(self) -> None:
        while self._owed:
            await asyncio.sleep(_RECOVERY_INTERVAL)
            while self._owed:
                kind, key, event = self._owed[0]
                try:
                    await kept(partial(self._keeper.submit, kind, key.encode(), event.SerializeToString()))
                except GroundwireError:
                    break
                self._owed.popleft()
        _log.warning("the audit log is written again", service=self.service)


def interrupted(key: bytes, begun: Sequence[bytes]) -> pb.AuditEvent:
    """The event that closes what ``begun`` (serialised events) opened under ``key``: nobody can say how it ended."""
    event = pb.AuditEvent.FromString(begun[0])
    event.event_id = key.decode()
    event.stage = pb.STAGE_INTERRUPTED
    event.reason = "SERVICE_ENDED"
    del event.document_ids[:]
    return event


class _Keeping:
    """One event on its way to being durable: in the spool, or else, or when that takes too long, at the audit service."""

    __slots__ = ("_detouring", "_event", "_finished", "_key", "_kind", "_recorder", "data", "done")

    def __init__(self, recorder: Recorder, kind: Kind, key: str, event: pb.AuditEvent) -> None:
        self._recorder = recorder
        self._kind = kind
        self._key = key
        self._event = event
        self.data = event.SerializeToString()
        self._detouring = False
        self._finished = False
        self.done: asyncio.Future[None] = recorder.loop.create_future()

    def kept(self, error: GroundwireError | None) -> None:
        if error is None:
            self._finish(None)
        elif not self._detouring and not self._finished:
            self._detouring = True
            # Not in the call's name: its deadline and its caller's token may be over.
            self._recorder.spawn(self._send(), Context())

    async def _send(self) -> None:
        try:
            await self._recorder._send(self.data)  # noqa: SLF001
        except (GroundwireError, TimeoutError) as error:
            if not self._finished:
                self._recorder._owe(self._kind, self._key, self._event)  # noqa: SLF001
                unavailable = Unavailable(
                    "the audit log cannot record this call", retry_after=_RETRY_AFTER, reason=_NO_RECORD
                )
                unavailable.__cause__ = error
                self._finish(unavailable)
        else:
            if self._kind is Kind.CLOSES:
                # The spool has to know, too, or else the next start would take it for interrupted.
                self._recorder._owe(self._kind, self._key, self._event, known=True)  # noqa: SLF001
            self._finish(None)

    def _finish(self, error: Unavailable | None) -> None:
        if self._finished:
            return
        self._finished = True
        done = self.done
        if not done.done():  # else whoever waited for it has left
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)
                done.exception()  # nobody has to look
        self._recorder._finish()  # noqa: SLF001
