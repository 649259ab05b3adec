"""A channel to a service that has several endpoints: stubs call it like any other, and calls go where they succeed.

See ADR 9. A unary call begins when it is awaited. A stream is moved to another endpoint until its first message is
there; after that its reader has to know what became of the rest, and gets the error.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Self

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import MethodOptions

from interceptors import current
from services.corpus.errors import Unavailable
from services.resilience.endpoints import Endpoint, Member, MethodClass, Role
from services.resilience.failover import FailoverPolicy, HighAvailability, Lost
from services.resilience.health import HealthCheck
from services.resilience.pool import Pool, PoolEvent, PoolPolicy
from services.resilience.targets import Target
from services.runtime.health_watch import HealthWatch, unhealthy
from services.runtime.resolver import Resolver
from services.runtime.verdicts import judge

_CLASSES = {
    MethodOptions.NO_SIDE_EFFECTS: MethodClass.READ,
    MethodOptions.IDEMPOTENT: MethodClass.WRITE,
}
_FIRST_LOOKUP = 2.0


def method_class(path: str) -> MethodClass:
    """What the contract's ``idempotency_level`` allows for ``/package.Service/Method``; ONCE for what is not known."""
    known = _known.get(path)
    if known is not None:
        return known
    service, _, method = path.lstrip("/").rpartition("/")
    try:
        found = descriptor_pool.Default().FindMethodByName(f"{service}.{method}")
    except KeyError:
        return MethodClass.ONCE  # it may be known later, when its contract is loaded
    _known[path] = kind = _CLASSES.get(found.GetOptions().idempotency_level, MethodClass.ONCE)
    return kind


_known: dict[str, MethodClass] = {}


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
        self._links: dict[Endpoint, _Link] = {}
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
            self._started = asyncio.ensure_future(self._start())
        if not self._started.done():
            await asyncio.shield(self._started)

    def member(self, endpoint: Endpoint) -> Member | None:
        """What the pool knows of ``endpoint``."""
        return next((member for member in self.pool.members if member.endpoint == endpoint), None)

    def link(self, endpoint: Endpoint) -> _Link:
        """The connection to ``endpoint``."""
        link = self._links.get(endpoint)
        if link is None:
            link = self._links[endpoint] = _Link(self._connect(endpoint))
        return link

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """See grpc.aio.Channel: what it returns makes calls that can be awaited, and nothing else."""
        return partial(_UnaryCall, self, method, ("unary_unary", method, args, kwargs))

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """See grpc.aio.Channel: what it returns makes calls that can be iterated over and cancelled."""
        return partial(_StreamCall, self, method, ("unary_stream", method, args, kwargs))

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """See grpc.aio.Channel. A stream of requests cannot be sent again: one attempt, at the best endpoint."""
        return partial(self._once, ("stream_unary", method, args, kwargs))

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """See :meth:`stream_unary`."""
        return partial(self._once, ("stream_stream", method, args, kwargs))

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
            self._started = asyncio.ensure_future(self._start())
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
        return await watch.check() if watch is not None else unhealthy(self.pool.service, "it is gone")

    def _once(self, shape: tuple[str, str, tuple[Any, ...], dict[str, Any]], *args: Any, **kwargs: Any) -> Any:
        self.get_state(try_to_connect=True)
        ranked = self.pool.ranked(MethodClass.ONCE)
        if not ranked:
            raise Unavailable(f"{self.pool.service} has no endpoints", metadata={"dependency": self.pool.service})
        self.pool.take_turn(ranked[0])
        return self.link(ranked[0].endpoint).multicallable(shape)(*args, **kwargs)


class _Link:
    """The connection to one endpoint, with its multi-callables, which stubs of gRPC make once."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.watch: HealthWatch | None = None
        self.calls = 0
        self._made: dict[tuple[str, str], Any] = {}
        self._idle: asyncio.Event = asyncio.Event()

    def multicallable(self, shape: tuple[str, str, tuple[Any, ...], dict[str, Any]]) -> Any:
        name, method, args, kwargs = shape
        made = self._made.get((name, method))
        if made is None:
            made = self._made[name, method] = getattr(self.channel, name)(method, *args, **kwargs)
        return made

    async def retire(self) -> None:
        """Close it when its calls have ended: who left the list may still be draining."""
        if self.watch is not None:
            await self.watch.close()
        while self.calls:
            self._idle.clear()
            await self._idle.wait()
        await self.channel.close()

    def ended(self) -> None:
        self.calls -= 1
        self._idle.set()

    async def close(self, grace: float | None) -> None:
        if self.watch is not None:
            await self.watch.close()
        await self.channel.close(grace)


class _Timed:
    """The time that is left of a call, over all of its attempts."""

    def __init__(self, timeout: float | None) -> None:
        self._end = None if timeout is None else asyncio.get_running_loop().time() + timeout

    def remaining(self) -> float | None:
        left = None if self._end is None else max(0.0, self._end - asyncio.get_running_loop().time())
        outer = current.remaining()
        return left if outer is None else outer if left is None else min(left, outer)

    def timeout(self) -> float | None:
        """For the next attempt; gRPC reads zero as "expired" before it has even tried."""
        left = self.remaining()
        return None if left is None else max(0.001, left)


class _UnaryCall:
    def __init__(
        self,
        channel: FailoverChannel,
        method: str,
        shape: tuple[str, str, tuple[Any, ...], dict[str, Any]],
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Any = None,
        **kwargs: Any,
    ) -> None:
        self._channel = channel
        self._method = method
        self._shape = shape
        self._request = request
        self._timed = _Timed(timeout)
        self._kwargs = {"metadata": metadata, **kwargs}

    def __await__(self) -> Any:
        return self._run().__await__()

    async def _run(self) -> Any:
        channel = self._channel
        await channel.start()
        try:
            return await channel.failover.execute_with_failover(
                channel.pool.service,
                self._attempt,
                method=method_class(self._method),
                name=self._method,
                remaining=self._timed.remaining,
            )
        except (Lost, LookupError) as error:
            raise _unavailable(channel.pool.service, error) from error

    async def _attempt(self, endpoint: Endpoint) -> Any:
        link = self._channel.link(endpoint)
        link.calls += 1
        try:
            call = link.multicallable(self._shape)(self._request, timeout=self._timed.timeout(), **self._kwargs)
            return await call
        finally:
            link.ended()


class _StreamCall:
    def __init__(
        self,
        channel: FailoverChannel,
        method: str,
        shape: tuple[str, str, tuple[Any, ...], dict[str, Any]],
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Any = None,
        **kwargs: Any,
    ) -> None:
        self._channel = channel
        self._method = method
        self._shape = shape
        self._request = request
        self._timed = _Timed(timeout)
        self._kwargs = {"metadata": metadata, **kwargs}
        self._call: Any = None
        self._cancelled = False
        self._release: Callable[[], None] = _nothing

    def cancel(self) -> bool:
        """End the call; false if it had ended."""
        self._cancelled = True
        self._release()
        return bool(self._call is not None and self._call.cancel())

    async def __aiter__(self) -> AsyncIterator[Any]:
        channel, kind = self._channel, method_class(self._method)
        await channel.start()
        try:
            member, link, message = await channel.failover.execute_with_failover(
                channel.pool.service,
                self._begin,
                method=kind,
                name=self._method,
                remaining=self._timed.remaining,
                hedged=False,
            )
        except (Lost, LookupError) as error:
            raise _unavailable(channel.pool.service, error) from error
        lost = False

        def give_up() -> None:
            nonlocal lost
            lost = True
            self._call.cancel()

        self._hold(member, link, give_up if kind is not MethodClass.ONCE else _nothing)
        try:
            while message is not grpc.aio.EOF:
                yield message
                message = await self._call.read()
        except asyncio.CancelledError:
            if not lost:
                raise
            raise _unavailable(channel.pool.service, Lost()) from None
        finally:
            self._release()
            self._call.cancel()

    def _hold(self, member: Member, link: _Link, give_up: Callable[[], None]) -> None:
        link.calls += 1
        member.in_flight += 1
        member.abandon.add(give_up)

        def release() -> None:
            self._release = _nothing
            member.abandon.discard(give_up)
            member.in_flight -= 1
            link.ended()

        self._release = release

    async def _begin(self, endpoint: Endpoint) -> tuple[Member, _Link, Any]:
        if self._cancelled:
            raise asyncio.CancelledError
        link = self._channel.link(endpoint)
        member = self._channel.member(endpoint)
        if member is None:
            raise LookupError(endpoint.address)
        call = self._call = link.multicallable(self._shape)(
            self._request, timeout=self._timed.timeout(), **self._kwargs
        )
        try:
            return member, link, await call.read()
        except BaseException:
            call.cancel()
            raise


def _nothing() -> None:
    pass


def _unavailable(service: str, error: Exception) -> grpc.aio.AioRpcError:
    details = "the endpoint was found frozen" if isinstance(error, Lost) else "no endpoint is known"
    return grpc.aio.AioRpcError(
        grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), f"{service}: {details}"
    )
