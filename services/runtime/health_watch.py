"""Following an endpoint's health: what it says, pushed as it changes, and proof that it still lives.

The watch alone is not enough. A process that is stopped keeps its connections open and its last word standing, so a
heartbeat with a deadline goes beside it.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from datetime import UTC, datetime

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.resilience.endpoints import Member
from services.resilience.health import HealthCheck, ServiceHealth
from services.resilience.pool import Pool
from services.runtime.verdicts import judge

READINESS = "readiness"
# Together the longest that a frozen peer goes unnoticed where there is another, in seconds.
HEARTBEAT_INTERVAL = 0.5
HEARTBEAT_TIMEOUT = 0.8
# A channel that could not connect tries again within its longest pause of 1 s and a fifth: until then it says the same.
_RECONNECTS_WITHIN = 1.5
# Watching again after the watch broke; doubles.
_FIRST_RETRY, _LAST_RETRY = 0.1, 1.0
_SERVING = health_pb2.HealthCheckResponse.SERVING
# It lives, but a watch is not to be had: heartbeats tell its state as well, a little later.
_NO_WATCH = (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.RESOURCE_EXHAUSTED)
_NOT_READY = "it is not ready"


class HealthWatch:
    """Tells ``pool`` how ``member``, which answers on ``channel``, is. Starts at once; belongs to its event loop."""

    def __init__(self, pool: Pool, member: Member, channel: grpc.aio.Channel) -> None:
        self._pool = pool
        self._member = member
        self._stub = health_pb2_grpc.HealthStub(channel)
        # In a context of their own: whatever call is the first to need the channel, its deadline is not theirs.
        self._tasks = [
            asyncio.create_task(work, context=contextvars.Context()) for work in (self._watch(), self._beat())
        ]

    async def check(self, *, reconnect: bool = False) -> HealthCheck:
        """Ask now. With ``reconnect``, an endpoint without a connection is down only after another was tried."""
        error = await self._ask()
        if error is not None and error.code() is grpc.StatusCode.UNAVAILABLE:
            if not judge(error).unreached:
                # The connection ended while it was asked, perhaps because it was old: a new one tells.
                error = await self._ask()
            elif reconnect:
                again = await self._ask(within=_RECONNECTS_WITHIN, wait_for_ready=True)
                # Without a connection in all that time, the first answer still says why.
                if again is None or again.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                    error = again
        if error is not None:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                self._pool.missed(self._member)
            else:
                self._down(error)
        return self._member.health(datetime.now(UTC))

    async def _ask(
        self, *, within: float = HEARTBEAT_TIMEOUT, wait_for_ready: bool = False
    ) -> grpc.aio.AioRpcError | None:
        began = time.monotonic()
        request = health_pb2.HealthCheckRequest(service=READINESS)
        try:
            answer = await self._stub.Check(request, timeout=within, wait_for_ready=wait_for_ready)
        except grpc.aio.AioRpcError as error:
            return error
        self._say(answer.status, time.monotonic() - began)
        return None

    async def close(self) -> None:
        """Stop."""
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)

    async def _beat(self) -> None:
        while True:
            await self.check()
            await asyncio.sleep(HEARTBEAT_INTERVAL)

    async def _watch(self) -> None:
        pause = _FIRST_RETRY
        while True:
            try:
                async for answer in self._stub.Watch(health_pb2.HealthCheckRequest(service=READINESS)):
                    pause = _FIRST_RETRY
                    # Its word says how it is, not that it is not frozen: what heartbeats found stands.
                    if answer.status != _SERVING or self._member.misses == 0:
                        self._say(answer.status, None)
            except grpc.aio.AioRpcError as error:
                if error.code() not in _NO_WATCH:
                    # Connections end because they are old, too: only who does not answer on a new one is down.
                    await self.check()
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LAST_RETRY)

    def _say(self, status: int, response_time: float | None) -> None:
        up = status == _SERVING
        self._pool.heard(self._member, up=up, message="" if up else _NOT_READY, response_time=response_time)

    def _down(self, error: grpc.aio.AioRpcError) -> None:
        code = error.code()
        message = "nothing answers there" if code is grpc.StatusCode.UNAVAILABLE else f"it answers {code.name}"
        self._pool.heard(self._member, up=False, alive=False, message=message)


def unhealthy(service: str, message: str) -> HealthCheck:
    """A check that found nothing good."""
    return HealthCheck(service, ServiceHealth.UNHEALTHY, 0.0, datetime.now(UTC), message)
