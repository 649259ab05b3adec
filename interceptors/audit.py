"""Leaves a record of each call that the policy marks, however it ends. What a record is, is decided by a callable."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import grpc

from interceptors import current
from interceptors._shapes import Call, Layer, Proceed


class Record(Protocol):
    """What one call will leave behind."""

    async def begin(self) -> None:
        """Make it durable that the call is running; raises if that is impossible."""

    def end(self, code: grpc.StatusCode) -> Awaitable[None] | None:
        """Make it durable how the call ended; None if it leaves no record. The awaitable raises if it is impossible.

        The work goes on without whoever awaits it.
        """


Open = Callable[[Call], Record | None]
"""Begins the record of a call; None for one that leaves none, whatever happens."""
ToStatus = Callable[[Exception, Call], grpc.Status]


class Audit(Layer):
    """Ends a call with OK only when its record is durable: without one, ``to_status`` says what the caller gets.

    Refusals and cancellations are recorded all the same. A refused call, whose caller knows by then, ends when its record
    is durable, so that a flood of them is no faster than the disk; a cancelled one ends at once.
    """

    def __init__(self, open_: Open, to_status: ToStatus) -> None:
        self._open = open_
        self._to_status = to_status

    async def around(self, call: Call, proceed: Proceed) -> Any:
        """Open the record, run the rest, and close the record."""
        record = self._open(call)
        if record is None:
            return await proceed(call)
        current.record.set(record)
        try:
            response = await proceed(call)
        except asyncio.CancelledError as error:
            # Whoever gave up does not wait for it: it is written without them.
            record.end(call.outcome(error))
            raise
        except BaseException as error:
            ended = record.end(call.outcome(error))
            if ended is not None:
                await _quietly(ended)
            raise
        ended = record.end(grpc.StatusCode.OK)
        if ended is not None:
            try:
                await ended
            except asyncio.CancelledError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever it is, there is no record
                await call.context.abort_with_status(self._to_status(error, call))
        return response


class Announcement(Layer):
    """Records that a call is running before its handler may send anything, for the methods that ``announced`` names.

    What a stream has sent cannot be taken back: if the service died in the middle, nothing would tell that it was
    read.
    """

    def __init__(self, announced: Callable[[str], bool]) -> None:
        self._announced = announced

    def concerns(self, method: str) -> bool:
        """See the class."""
        return self._announced(method)

    async def around(self, call: Call, proceed: Proceed) -> Any:
        """Announce, then run the rest."""
        record = current.record.get()
        if record is not None:
            await record.begin()
        return await proceed(call)


async def _quietly(ended: Awaitable[None]) -> None:
    # The caller was refused already, which is all that it is owed; who could not write tells that elsewhere.
    try:
        await ended
    except asyncio.CancelledError:
        raise
    except Exception:  # noqa: BLE001, S110 - see above
        pass
