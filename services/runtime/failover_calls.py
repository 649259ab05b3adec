"""The calls of a failover channel, and the connections that they use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import MethodOptions

from interceptors import current
from services.resilience.endpoints import Endpoint, Member, MethodClass
from services.resilience.failover import Lost
from services.runtime.health_watch import HealthWatch

if TYPE_CHECKING:
    from services.runtime.failover_channel import FailoverChannel

_CLASSES = {
    MethodOptions.NO_SIDE_EFFECTS: MethodClass.READ,
    MethodOptions.IDEMPOTENT: MethodClass.WRITE,
}


class Shape(NamedTuple):
    """How a multi-callable is made: the channel's method, the path of the RPC, and the rest as it came."""

    kind: str
    path: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


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


class Link:
    """The connection to one endpoint, with its multi-callables, which stubs of gRPC make once."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.watch: HealthWatch | None = None
        self.calls = 0
        self._made: dict[tuple[str, str], Any] = {}
        self._idle: asyncio.Event = asyncio.Event()

    def multicallable(self, shape: Shape) -> Any:
        """What makes calls of ``shape`` on this connection."""
        key = (shape.kind, shape.path)
        made = self._made.get(key)
        if made is None:
            made = self._made[key] = getattr(self.channel, shape.kind)(shape.path, *shape.args, **shape.kwargs)
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
        """One call fewer."""
        self.calls -= 1
        self._idle.set()

    async def close(self, grace: float | None) -> None:
        """Close it now."""
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


class _FailoverCall:
    """One request, for as many endpoints as it takes, within the time that it has."""

    def __init__(
        self,
        channel: FailoverChannel,
        shape: Shape,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Any = None,
        **kwargs: Any,
    ) -> None:
        self._channel = channel
        self._shape = shape
        self._request = request
        self._timed = _Timed(timeout)
        self._kwargs = {"metadata": metadata, **kwargs}

    def _send_to(self, link: Link) -> Any:
        return link.multicallable(self._shape)(self._request, timeout=self._timed.timeout(), **self._kwargs)


class UnaryCall(_FailoverCall):
    """A unary call that begins when it is awaited."""

    def __await__(self) -> Any:
        return self._run().__await__()

    async def _run(self) -> Any:
        channel = self._channel
        await channel.start()
        try:
            return await channel.failover.execute_with_failover(
                channel.pool.service,
                self._attempt,
                method=method_class(self._shape.path),
                name=self._shape.path,
                remaining=self._timed.remaining,
            )
        except (Lost, LookupError) as error:
            raise _unavailable(channel.pool.service, error) from error

    async def _attempt(self, endpoint: Endpoint) -> Any:
        link = self._channel.link(endpoint)
        link.calls += 1
        try:
            return await self._send_to(link)
        finally:
            link.ended()


class StreamCall(_FailoverCall):
    """A stream of responses: it begins with its iteration, and moves on until its first message is there."""

    def __init__(self, channel: FailoverChannel, shape: Shape, request: Any, **options: Any) -> None:
        super().__init__(channel, shape, request, **options)
        self._call: Any = None
        self._cancelled = False
        self._release: Callable[[], None] = _nothing

    def cancel(self) -> bool:
        """End the call; false if it had ended."""
        self._cancelled = True
        self._release()
        return bool(self._call is not None and self._call.cancel())

    async def __aiter__(self) -> AsyncIterator[Any]:
        channel, kind = self._channel, method_class(self._shape.path)
        await channel.start()
        try:
            member, link, message = await channel.failover.execute_with_failover(
                channel.pool.service,
                self._begin,
                method=kind,
                name=self._shape.path,
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

    def _hold(self, member: Member, link: Link, give_up: Callable[[], None]) -> None:
        link.calls += 1
        member.in_flight += 1
        member.abandon.add(give_up)

        def release() -> None:
            self._release = _nothing
            member.abandon.discard(give_up)
            member.in_flight -= 1
            link.ended()

        self._release = release

    async def _begin(self, endpoint: Endpoint) -> tuple[Member, Link, Any]:
        if self._cancelled:
            raise asyncio.CancelledError
        link = self._channel.link(endpoint)
        member = self._channel.member(endpoint)
        if member is None:
            raise LookupError(endpoint.address)
        call = self._call = self._send_to(link)
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
