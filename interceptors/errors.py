"""Turns every exception into a rich gRPC status; what a caller sees is decided by one callable."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc

from interceptors._shapes import Call, Layer, Proceed
from interceptors.linger import Linger

ToStatus = Callable[[Exception, Call], grpc.Status]


class Errors(Layer):
    """Ends a failed call with the status that ``to_status`` gives for its exception.

    A caller that streams its requests may finish sending before it is answered (:mod:`interceptors.linger`).
    Aborts are already statuses and pass; so does cancellation, which the outer layers record and nobody swallows.
    """

    def __init__(self, to_status: ToStatus) -> None:
        self._to_status = to_status
        self._linger = Linger()

    async def around(self, call: Call, proceed: Proceed) -> Any:
        """Catch what leaves the handler or an inner layer."""
        try:
            return await proceed(call)
        except (grpc.aio.AbortError, asyncio.CancelledError):
            raise
        except Exception as error:  # noqa: BLE001 - the one place that must see everything
            call.error = error
            if call.streams_requests:
                await self._linger.until_sent(call)
            try:
                await call.context.abort_with_status(self._to_status(error, call))
            except grpc.aio.InternalError:
                # There is nobody left to tell: the caller or the connection has gone in the meantime.
                raise asyncio.CancelledError from error
