"""The MeshView port: every endpoint is followed by its health, and by what its server says of itself."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress

import grpc
import structlog

from groundwire.monitoring.v1 import dependency_service_pb2 as pb
from groundwire.monitoring.v1 import dependency_service_pb2_grpc as rpc
from services.monitoring import convert
from services.monitoring.ports import SelfReport
from services.resilience.endpoints import Endpoint, EndpointStatus
from services.resilience.pool import PoolEvent
from services.runtime.failover_channel import FailoverChannel

# Numbers that nobody announces are looked at again after so many seconds.
_STALE = 2.0
_TOGETHER = 0.05
_FIRST_RETRY, _LAST_RETRY = 0.1, 2.0
_log = structlog.get_logger(__name__)


class WatchedMesh:
    """Watches over ``channels``, one to each service by its name, which it owns. Belongs to one event loop."""

    def __init__(self, channels: Mapping[str, FailoverChannel]) -> None:
        self._channels = dict(channels)
        self._reports: dict[tuple[str, str], SelfReport] = {}
        self._listening: dict[tuple[str, Endpoint], asyncio.Task[None]] = {}
        self._changed = asyncio.Event()
        for channel in self._channels.values():
            channel.pool.listeners.append(self._on_event)
        self._started = asyncio.ensure_future(self._start())

    def services(self) -> Mapping[str, Sequence[EndpointStatus]]:
        """See the port."""
        return {name: channel.pool.statuses() for name, channel in self._channels.items()}

    def reports(self) -> Mapping[tuple[str, str], SelfReport]:
        """See the port."""
        return dict(self._reports)

    async def check(self) -> None:
        """See the port."""
        await self._started
        await asyncio.gather(*(each.failover.health_check_all_services() for each in self._channels.values()))

    async def changed(self) -> None:
        """See the port."""
        changed = self._changed
        with suppress(TimeoutError):
            async with asyncio.timeout(_STALE):
                await changed.wait()
        # What happens together is one change.
        await asyncio.sleep(_TOGETHER)

    async def close(self) -> None:
        """See the port."""
        tasks = [self._started, *self._listening.values()]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await asyncio.gather(*(channel.close() for channel in self._channels.values()))

    async def _start(self) -> None:
        await asyncio.gather(*(channel.start() for channel in self._channels.values()))
        self._listen()

    def _listen(self) -> None:
        """Listen to every endpoint that there is, and to no others."""
        wanted = {
            (name, member.endpoint): channel
            for name, channel in self._channels.items()
            for member in channel.pool.members
        }
        for key in [key for key in self._listening if key not in wanted]:
            self._listening.pop(key).cancel()
        for key, channel in wanted.items():
            if key not in self._listening:
                self._listening[key] = asyncio.ensure_future(self._follow(key[0], key[1], channel))

    async def _follow(self, name: str, endpoint: Endpoint, channel: FailoverChannel) -> None:
        key, pause = (name, endpoint.address), _FIRST_RETRY
        stub = rpc.DependencyServiceStub(channel.link(endpoint).channel)
        while True:
            try:
                async for message in stub.WatchDependencies(pb.WatchDependenciesRequest()):
                    pause = _FIRST_RETRY
                    self._reports[key] = convert.read_report(message)
                    self._tell()
            except grpc.aio.AioRpcError as error:
                _log.debug("a server's own report ended", service=name, code=error.code().name)
            finally:
                if self._reports.pop(key, None) is not None:
                    self._tell()
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LAST_RETRY)

    def _on_event(self, _event: PoolEvent) -> None:
        if self._started.done():
            self._listen()
        self._tell()

    def _tell(self) -> None:
        # Each waiter holds the event of the moment when it began to wait: none can miss a change.
        self._changed.set()
        self._changed = asyncio.Event()
