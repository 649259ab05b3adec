"""A channel that takes up renewed certificates: calls begin on a new one, those in flight end on the old one.

gRPC's clients, unlike its servers, cannot change their credentials. Stubs make their multi-callables once, so these
stand in front of the real ones and find the channel of the moment with each call.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Self
from weakref import WeakSet

import grpc

from services.runtime.tls import ReloadingTls
from services.runtime.tls_files import TlsMaterial

# How often files are looked at, in seconds.
_INTERVAL = 1.0


class RenewingChannel(grpc.aio.Channel):
    """Makes its channel with ``make``, anew whenever ``tls`` has other contents. Belongs to one event loop."""

    def __init__(
        self,
        tls: ReloadingTls,
        make: Callable[[TlsMaterial], grpc.aio.Channel],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tls = tls
        self._make = make
        self._clock = clock
        self._looked = clock()
        self._material = tls.current()
        self._live = _Live(make(self._material))
        self._retired: set[_Live] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False

    def live(self) -> _Live:
        """The channel for a call that begins now."""
        now = self._clock()
        if now - self._looked >= _INTERVAL and not self._closed:
            self._looked = now
            material = self._tls.current()
            if material is not self._material:
                self._material = material
                retired, self._live = self._live, _Live(self._make(material))
                self._retired.add(retired)
                retired.when_idle(self._let_go)
        return self._live

    def unary_unary(self, *args: Any, **kwargs: Any) -> Any:
        """See grpc.aio.Channel, as for the other three."""
        return _Multicallable(self, "unary_unary", args, kwargs)

    def unary_stream(self, *args: Any, **kwargs: Any) -> Any:
        """See :meth:`unary_unary`."""
        return _Multicallable(self, "unary_stream", args, kwargs)

    def stream_unary(self, *args: Any, **kwargs: Any) -> Any:
        """See :meth:`unary_unary`."""
        return _Multicallable(self, "stream_unary", args, kwargs)

    def stream_stream(self, *args: Any, **kwargs: Any) -> Any:
        """See :meth:`unary_unary`."""
        return _Multicallable(self, "stream_stream", args, kwargs)

    async def close(self, grace: float | None = None) -> None:
        """Close every channel that still exists; see grpc.aio.Channel."""
        self._closed = True
        await asyncio.gather(*(live.channel.close(grace) for live in (self._live, *self._retired)), *self._closing)
        self._retired.clear()

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """See grpc.aio.Channel."""
        return self.live().channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """See grpc.aio.Channel."""
        await self.live().channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """See grpc.aio.Channel."""
        await self.live().channel.channel_ready()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _let_go(self, live: _Live) -> None:
        if live in self._retired:
            self._retired.discard(live)
            self._closing.add(task := asyncio.ensure_future(live.channel.close()))
            task.add_done_callback(self._closing.discard)


class _Live:
    """A real channel and the calls on it.

    gRPC's own way to close with grace does not do: it refuses calls whose interceptors have not finished yet.
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self._calls: WeakSet[Any] = WeakSet()
        self._idle: Callable[[_Live], None] | None = None

    def follow(self, call: Any) -> None:
        """Remember ``call`` until it is done, or nobody holds it any more."""
        self._calls.add(call)
        call.add_done_callback(self._done)

    def when_idle(self, tell: Callable[[_Live], None]) -> None:
        """Call ``tell`` once no call is left."""
        self._idle = tell
        self._look()

    def _done(self, call: Any) -> None:
        self._calls.discard(call)
        self._look()

    def _look(self) -> None:
        if self._idle is not None and not self._calls:
            self._idle(self)


class _Multicallable:
    def __init__(self, channel: RenewingChannel, shape: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._channel = channel
        self._shape = shape
        self._args = args
        self._kwargs = kwargs
        self._on: _Live | None = None
        self._call: Any = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        live = self._channel.live()
        if live is not self._on:
            self._on = live
            self._call = getattr(live.channel, self._shape)(*self._args, **self._kwargs)
        call = self._call(*args, **kwargs)
        live.follow(call)
        return call
