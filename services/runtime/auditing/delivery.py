"""A service's spool, and its way to the audit service."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import grpc

from services.corpus.errors import Unavailable
from services.journal.files import DirectoryFiles
from services.journal.leftovers import Leftovers
from services.journal.slots import claim, slots
from services.journal.spool import Deliver, Spool
from services.runtime.auditing.recorder import Recorder, interrupted
from services.runtime.status import from_rpc_error

_APPEND = "/groundwire.audit.v1.AuditService/AppendEvents"
# Seconds for one batch; the log is asked again afterwards, with the same ids.
_PATIENCE = 10.0
# Seconds between two looks for what processes of the same service left behind.
_LOOKING = 5.0
_EVENTS = b"\x0a"  # the tag of AppendEventsRequest.events


async def open_recorder(
    service: str, directory: Path, channel: grpc.aio.Channel, *, max_bytes: int, several: bool = False
) -> Recorder:
    """The recorder of ``service``, with its spool in ``directory``; it owns ``channel``, which leads to the audit service.

    Until it is started it keeps events and hands none on.

    With ``several``, this is one of several processes of the service: it takes a place of its own beside ``directory``
    (``services.journal.slots``), and takes up what processes left in theirs that are gone.

    Raises Unavailable, FailedPrecondition when another process has the spool, DataLoss.
    """
    deliver = delivery(channel)
    place, name = directory.parent, directory.name
    try:
        files = await asyncio.to_thread(
            partial(claim, place, name) if several else partial(DirectoryFiles.open, directory)
        )
        spool = await Spool.open(files, deliver, max_bytes=max_bytes)
    except OSError as error:
        raise Unavailable(f"the spool of {service} cannot be opened: {error.strerror}") from error
    found = partial(slots, place, name)
    leftovers = Leftovers(found, deliver, close_interrupted, interval=_LOOKING) if several else None
    return Recorder(service, spool, deliver, leftovers=leftovers, close=channel.close)


def close_interrupted(key: bytes, begun: Sequence[bytes]) -> bytes:
    """The serialised event that closes what ``begun`` opened: see :func:`interrupted`."""
    return interrupted(key, begun).SerializeToString()


def delivery(channel: grpc.aio.Channel) -> Deliver:
    """Hands serialised events on with AppendEvents; they are put into the request as they are."""
    call: Any = channel.unary_unary(_APPEND)

    async def deliver(events: Sequence[bytes]) -> None:
        try:
            await call(b"".join(_field(event) for event in events), timeout=_PATIENCE)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, "audit") from error

    return deliver


def _field(event: bytes) -> bytes:
    length, size = bytearray(), len(event)
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    length.append(size)
    return _EVENTS + length + event
