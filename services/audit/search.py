"""Finding events. Each tenant's places in the log are known; a filter then reads that tenant's events one by one.

A page costs the reading of at most ``MAX_SCANNED`` events (about 25 microseconds each): when fewer of them fit than
were asked for, the page is short, or even empty, and says where to go on.
"""

from __future__ import annotations

import bisect
from collections.abc import AsyncIterator
from dataclasses import dataclass

from services.audit.event import AuditEvent, Decision
from services.audit.log import AuditLog, LoggedEvent

MAX_SCANNED = 5_000
_STEP = 250


@dataclass(frozen=True)
class EventFilter:
    """What an event must be like; what is None does not matter. Times are nanoseconds since 1970."""

    start_time: int | None = None
    end_time: int | None = None
    principal: str | None = None
    method: str | None = None
    decision: Decision | None = None
    document_id: str | None = None
    request_id: str | None = None

    def admits(self, event: AuditEvent) -> bool:
        """Whether ``event`` is like that."""
        return (
            (self.start_time is None or event.time >= self.start_time)
            and (self.end_time is None or event.time < self.end_time)
            and self.principal in (None, event.principal)
            and self.method in (None, event.method)
            and self.decision in (None, event.decision)
            and self.request_id in (None, event.request_id)
            and (
                self.document_id is None
                or self.document_id in event.document_ids
                or self.document_id in event.denied_document_ids
            )
        )


@dataclass(frozen=True)
class Page:
    """Some events; ``next_index`` is where to go on, None at the end."""

    events: tuple[LoggedEvent, ...]
    next_index: int | None


async def find(
    log: AuditLog, tenant: str, wanted: EventFilter, *, start: int | None, limit: int, newest_first: bool = False
) -> Page:
    """A page of a tenant's events: from the index ``start`` on or, with ``newest_first``, from there back.

    ``start`` None begins with the first event, or with the newest.
    """
    places = log.places_of(tenant)
    first = 0 if wanted.start_time is None else log.first_since(tenant, wanted.start_time)
    if newest_first:
        order = range((len(places) if start is None else bisect.bisect_right(places, start)) - 1, first - 1, -1)
    else:
        order = range(max(first, bisect.bisect_left(places, start or 0)), len(places))
    at, last = 0, min(len(order), MAX_SCANNED)
    found: list[LoggedEvent] = []
    while at < last and len(found) < limit:
        # No further than what may still be needed: without a filter a page reads what it returns.
        step = min(_STEP, last - at, limit - len(found) if wanted == EventFilter() else _STEP)
        read = await log.read(sorted(places[position] for position in order[at : at + step]))
        for logged in reversed(read) if newest_first else read:
            at += 1
            if wanted.admits(logged.event):
                found.append(logged)
                if len(found) == limit:
                    break
    return Page(tuple(found), places[order[at]] if at < len(order) else None)


async def watch(log: AuditLog, tenant: str, wanted: EventFilter, *, start: int) -> AsyncIterator[LoggedEvent]:
    """A tenant's events from the index ``start`` on, and then those that are written, for ever."""
    while True:
        size = log.size
        page = await find(log, tenant, wanted, start=start, limit=_STEP)
        for logged in page.events:
            yield logged
        start = page.next_index if page.next_index is not None else max(start, size)
        if page.next_index is None:
            await log.grown(size)
