"""Events of what no call asks for: keys are made, sealed values are refused, circuit breakers open."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import grpc
import structlog

from groundwire.audit.v1 import audit_service_pb2 as pb
from interceptors import current
from services.corpus.errors import Unavailable
from services.resilience.pool import PoolEvent
from services.runtime.auditing.record import CallRecord, timestamp
from services.runtime.auditing.recorder import Recorder
from services.security.sealed import Refusal

# Longer than a recorder takes to say that there is no record.
_PATIENCE = 2.0
_log = structlog.get_logger(__name__)


class SecurityEvents:
    """Belongs to the event loop that it is made in; its methods are for that loop's worker threads.

    What a call causes is noted in that call's record. ``recorder`` has the rest; while it is None, there is no record.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self.recorder: Recorder | None = None

    def refused(self, refusal: Refusal) -> None:
        """A sealed value was refused: the place and the reason, never what was there."""
        place = refusal.place
        _log.error(
            "sealed value refused",
            tenant=refusal.tenant,
            document_id=place.document_id,
            version=place.version,
            field=place.field,
            reason=refusal.because.value,
        )
        recorder = self.recorder
        if recorder is None:
            return
        event = pb.AuditEvent(
            time=timestamp(time.time_ns()),
            decision=pb.DECISION_DENIED,
            reason=f"SEALED_VALUE_REFUSED: {refusal.because.value}",
            resource=f"documents/{place.document_id}/versions/{place.version}/{place.field}",
            denied_document_ids=[place.document_id],
            code=grpc.StatusCode.DATA_LOSS.value[0],
            stage=pb.STAGE_ENDED,
        )
        record = current.record.get()
        if isinstance(record, CallRecord):
            record.attribute(event)
        event.tenant = refusal.tenant
        recorder.loop.call_soon_threadsafe(recorder.note, event)

    def breaker_changed(self, caller: str, service: str, event: PoolEvent) -> None:
        """A circuit breaker opened, or let calls through again: for the event loop itself, not its threads."""
        recorder = self.recorder
        if recorder is None or event.breaker is None or event.endpoint is None:
            return
        old, new = event.breaker
        recorder.note(
            pb.AuditEvent(
                time=timestamp(time.time_ns()),
                acting_service=caller,
                decision=pb.DECISION_ALLOWED,
                reason=f"BREAKER: {old.value} -> {new.value}",
                resource=f"services/{service}/endpoints/{event.endpoint.address}",
                stage=pb.STAGE_ENDED,
            )
        )

    def announce_keys(self, tenant: str) -> Callable[[bool], None]:
        """Keys are about to be made for ``tenant``: what is returned is told whether they were.

        Raises Unavailable, and then none may be made, when that cannot be made durable.
        """
        if self.recorder is None:
            return lambda _: None
        found = current.record.get()
        record = found if isinstance(found, CallRecord) else self.recorder.own(tenant)
        loop, resource = self.recorder.loop, f"tenants/{tenant}/keys"
        finished: asyncio.Future[None] = loop.create_future()

        async def begin() -> None:
            record.wait_for(finished)
            await record.begin(resource)

        def finish(made: bool) -> None:
            if made:
                record.changed(resource)
            if not finished.done():
                finished.set_result(None)
            if record is not found:
                record.end(grpc.StatusCode.OK)

        if _is_running(loop):
            # Nothing can be waited for here: the event is on its way, and the call that causes it ends only after it.
            self.recorder.spawn(begin())
        else:
            announced = asyncio.run_coroutine_threadsafe(begin(), loop)
            try:
                announced.result(_PATIENCE)
            except BaseException as error:
                announced.cancel()
                loop.call_soon_threadsafe(finish, False)
                if isinstance(error, TimeoutError):
                    raise Unavailable("the audit log does not answer", reason="AUDIT_UNAVAILABLE") from error
                raise
        return lambda made: _call(loop, finish, made)


def _call(loop: asyncio.AbstractEventLoop, finish: Callable[[bool], None], made: bool) -> None:
    loop.call_soon_threadsafe(finish, made)


def _is_running(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False
