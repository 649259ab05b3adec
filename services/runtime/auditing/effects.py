"""Runs a change between the event that announces it and the one that confirms it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import grpc

from interceptors import current
from services.corpus.errors import Unavailable
from services.runtime.auditing.record import CallRecord
from services.runtime.auditing.recorder import Recorder

_T = TypeVar("_T")


class Effects:
    """Runs what changes something, between the event that announces it and the one that confirms it.

    Once it was announced a change is carried through: it, and the note of it, do not end with the call that began it.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    async def perform(
        self,
        tenant: str,
        resource: str,
        work: Callable[[], Awaitable[_T]],
        *,
        document_ids: Sequence[str] = (),
        happened: Callable[[_T], bool] = lambda _: True,
    ) -> _T:
        """Announce, do, and note: ``happened`` tells from the result whether anything was changed.

        Raises Unavailable (AUDIT_UNAVAILABLE), and does nothing, when it cannot be announced; and what ``work`` raises.
        """
        record = current.record.get()
        if not isinstance(record, CallRecord):
            own = self._recorder.own(tenant)
            return await asyncio.shield(self._recorder.spawn(_alone(own, resource, document_ids, work, happened)))
        wanted = True

        async def work_if_wanted() -> _T:
            if not wanted:
                raise Unavailable("the caller gave up before it was begun")
            return await work()

        task = self._recorder.spawn(_perform(record, resource, document_ids, work_if_wanted, happened))
        record.wait_for(task)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            wanted = False
            raise


async def _perform(
    record: CallRecord,
    resource: str,
    document_ids: Sequence[str],
    work: Callable[[], Awaitable[_T]],
    happened: Callable[[_T], bool],
) -> _T:
    await record.begin(resource, document_ids)
    result = await work()
    if happened(result):
        record.changed(resource, document_ids)
    return result


async def _alone(
    record: CallRecord,
    resource: str,
    document_ids: Sequence[str],
    work: Callable[[], Awaitable[_T]],
    happened: Callable[[_T], bool],
) -> _T:
    code = grpc.StatusCode.UNKNOWN
    try:
        result = await _perform(record, resource, document_ids, work, happened)
        code = grpc.StatusCode.OK
        return result
    finally:
        ended = record.end(code)
        if ended is not None:
            await ended
