"""A channel to a service that has several endpoints: stubs call it like any other, and calls go where they succeed.

See ADR 9. A unary call begins when it is awaited. A stream is moved to another endpoint until its first message is
there; after that its reader has to know what became of the rest, and gets the error.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Self

import grpc

from services.corpus.errors import Unavailable
from services.resilience.endpoints import Endpoint, Member, MethodClass, Role
from services.resilience.failover import FailoverPolicy, HighAvailability
from services.resilience.health import HealthCheck
from services.resilience.pool import Pool, PoolEvent, PoolPolicy
from services.resilience.targets import Target
from services.runtime.failover_calls import Link, Shape, StreamCall, UnaryCall
from services.runtime.health_watch import HealthWatch, unhealthy
from services.runtime.resolver import Resolver
from services.runtime.verdicts import judge

_FIRST_LOOKUP = 2.0


class FailoverChannel(grpc.aio.Channel):
    """Calls to ``service``, whose endpoints are ``targets``. ``connect`` opens the channel to one of them.

    It connects, and begins to follow its endpoints' health, with the first call or :meth:`require_ready`.
    """

    def __init__(
        self,
        service: str,
        targets: Sequence[tuple[Target, Role]],
        connect: Callable[[Endpoint], grpc.aio.Channel],
        *,
        zone: str = "",
        policy: FailoverPolicy | None = None,
        pool_policy: PoolPolicy | None = None,
    ) -> None:
        self.pool = Pool(service, policy=pool_policy, zone=zone)
        self.failover = HighAvailability([self.pool], judge, policy=policy, probe=self._probe)
        self._connect = connect
        self._links: dict[Endpoint, Link] = {}
        self._retired: set[asyncio.Task[None]] = set()
        self._resolver = Resolver(targets, self._replace)
        self._started: asyncio.Future[None] | None = None
        self.closed = False
        self.pool.replace(self._resolver.endpoints())
        self.pool.listeners.append(lambda _: self._resolver.hurry())

    async def require_ready(self) -> None:
        """Return if some endpoint says that it is ready; raise Unavailable if none does."""
        await self.start()
        if not self.pool.is_up:
            name = self.pool.service
            raise Unavailable(f"{name} is not ready", metadata={"dependency": name})

    async def start(self) -> None:
        """Follow the endpoints from now on; returns when their names were looked up, or that took too long."""
        if self._started is None:
            self._started = asyncio.create_task(self._start(), context=contextvars.Context())
        if not self._started.done():
            await asyncio.shield(self._started)

    def member(self, endpoint: Endpoint) -> Member | None:
        """What the pool knows of ``endpoint``."""
        return next((member for member in self.pool.members if member.endpoint == endpoint), None)

    def link(self, endpoint: Endpoint) -> Link:
        """The connection to ``endpoint``."""
        link = self._links.get(endpoint)
        if link is None:
            link = self._links[endpoint] = Link(self._connect(endpoint))
        return link

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """See grpc.aio.Channel: what it returns makes calls that can be awaited, and nothing else."""
        return partial(UnaryCall, self, Shape("unary_unary", method, args, kwargs))

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """See grpc.aio.Channel: what it returns makes calls that can be iterated over and cancelled."""
        return partial(StreamCall, self, Shape("unary_stream", method, args, kwargs))

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """See grpc.aio.Channel. A stream of requests cannot be sent again: one attempt, at the best endpoint."""
        return partial(self._once, Shape("stream_unary", method, args, kwargs))

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """See :meth:`stream_unary`."""
        return partial(self._once, Shape("stream_stream", method, args, kwargs))

    async def close(self, grace: float | None = None) -> None:
        """Close every connection."""
        if self.closed:
            return
        self.closed = True
        if self._started is not None:
            self._started.cancel()
            await asyncio.wait([self._started])
        await self._resolver.close()
        links, self._links = list(self._links.values()), {}
        await asyncio.gather(*(link.close(grace) for link in links), *self._retired)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """READY while an endpoint says that it is; see grpc.aio.Channel."""
        if self.closed:
            return grpc.ChannelConnectivity.SHUTDOWN
        if try_to_connect and self._started is None:
            self._started = asyncio.create_task(self._start(), context=contextvars.Context())
        return grpc.ChannelConnectivity.READY if self.pool.is_up else grpc.ChannelConnectivity.TRANSIENT_FAILURE

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """See grpc.aio.Channel."""
        changed = asyncio.Event()

        def tell(_: PoolEvent) -> None:
            changed.set()

        self.pool.listeners.append(tell)
        try:
            while self.get_state() is last_observed_state:
                changed.clear()
                await changed.wait()
        finally:
            self.pool.listeners.remove(tell)

    async def channel_ready(self) -> None:
        """See grpc.aio.Channel."""
        await self.start()
        while (state := self.get_state()) is not grpc.ChannelConnectivity.READY:
            await self.wait_for_state_change(state)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _start(self) -> None:
        if not self._resolver.fixed:
            with suppress(TimeoutError):
                async with asyncio.timeout(_FIRST_LOOKUP):
                    await self._resolver.look()
            self._resolver.start()
        self._replace(self._resolver.endpoints())

    def _replace(self, endpoints: Sequence[Endpoint]) -> None:
        if self.closed:
            return
        self.pool.replace(endpoints)
        for member in self.pool.members:
            link = self.link(member.endpoint)
            if link.watch is None:
                link.watch = HealthWatch(self.pool, member, link.channel)
        for endpoint in [each for each in self._links if self.member(each) is None]:
            self._retired.add(task := asyncio.ensure_future(self._links.pop(endpoint).retire()))
            task.add_done_callback(self._retired.discard)

    async def _probe(self, _pool: Pool, member: Member) -> HealthCheck:
        await self.start()
        watch = self.link(member.endpoint).watch
        return await watch.check(reconnect=True) if watch is not None else unhealthy(self.pool.service, "it is gone")

    def _once(self, shape: Shape, *args: Any, **kwargs: Any) -> Any:
        self.get_state(try_to_connect=True)
        ranked = self.pool.ranked(MethodClass.ONCE)
        if not ranked:
            raise Unavailable(f"{self.pool.service} has no endpoints", metadata={"dependency": self.pool.service})
        self.pool.take_turn(ranked[0])
        return self.link(ranked[0].endpoint).multicallable(shape)(*args, **kwargs)
