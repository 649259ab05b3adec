"""A channel that is made anew when its certificates are: which calls go where, and when the old one is closed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import grpc
import pytest

from services.runtime.renewing_channel import RenewingChannel
from services.runtime.tls import ReloadingTls
from services.runtime.tls_files import TlsMaterial


class FakeTls:
    """Certificates that a test replaces."""

    def __init__(self) -> None:
        self.material = TlsMaterial(b"first")
        self.looked = 0

    def current(self) -> TlsMaterial:
        self.looked += 1
        return self.material


class FakeCall:
    """A call that ends when a test says so."""

    def __init__(self) -> None:
        self.on_done: list[Callable[[Any], None]] = []

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self.on_done.append(callback)

    def end(self) -> None:
        for callback in self.on_done:
            callback(self)


class FakeChannel:
    """Remembers what was made and called on it."""

    def __init__(self, material: TlsMaterial) -> None:
        self.name = material.authorities.decode()
        self.made: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.calls: list[FakeCall] = []
        self.closed: list[float | None] = []

    def __getattr__(self, shape: str) -> Any:
        def make(*args: Any, **kwargs: Any) -> Any:
            self.made.append((shape, args, kwargs))

            def call(*_args: Any, **_kwargs: Any) -> FakeCall:
                self.calls.append(FakeCall())
                return self.calls[-1]

            return call

        return make

    async def close(self, grace: float | None = None) -> None:
        self.closed.append(grace)


class World:
    """A renewing channel over fakes, with a clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.tls = FakeTls()
        self.channels: list[FakeChannel] = []
        self.channel = RenewingChannel(cast("ReloadingTls", self.tls), self._make, clock=lambda: self.now)

    def _make(self, material: TlsMaterial) -> grpc.aio.Channel:
        self.channels.append(FakeChannel(material))
        return cast("grpc.aio.Channel", self.channels[-1])

    def renew(self, *, after: float = 1.0) -> None:
        self.tls.material = TlsMaterial(b"next")
        self.now += after


@pytest.fixture
async def world() -> World:
    return World()


SHAPES = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_multicallable_goes_where_the_certificates_are(world: World, shape: str) -> None:
    multicallable = getattr(world.channel, shape)("/a.B/C", request_serializer=repr, _registered_method=True)
    multicallable(1)
    multicallable(2)
    world.renew()
    multicallable(3)
    multicallable(4)
    assert [len(channel.calls) for channel in world.channels] == [2, 2]
    for channel in world.channels:
        assert channel.made == [(shape, ("/a.B/C",), {"request_serializer": repr, "_registered_method": True})]


async def test_the_old_channel_is_closed_after_its_last_call(world: World) -> None:
    echo: Any = world.channel.unary_unary("/a.B/C")
    held = [echo(), echo()]
    world.renew()
    held.append(echo())
    old, new = world.channels
    held[0].end()
    await asyncio.sleep(0)
    assert old.closed == []
    held[1].end()
    await asyncio.sleep(0)
    assert (old.closed, new.closed) == ([None], [])


async def test_an_idle_channel_is_closed_at_once(world: World) -> None:
    echo: Any = world.channel.unary_unary("/a.B/C")
    echo().end()
    world.renew()
    echo()
    await asyncio.sleep(0)
    assert [channel.closed for channel in world.channels] == [[None], []]


async def test_files_are_looked_at_once_a_second_at_most(world: World) -> None:
    echo: Any = world.channel.unary_unary("/a.B/C")
    before = world.tls.looked
    for _ in range(10):
        echo()
    world.renew(after=0.9)
    echo()
    assert (world.tls.looked - before, len(world.channels)) == (0, 1)
    world.now += 0.1
    echo()
    assert (world.tls.looked - before, len(world.channels)) == (1, 2)


async def test_closing_closes_old_and_new_ones(world: World) -> None:
    echo: Any = world.channel.unary_unary("/a.B/C")
    held = [echo()]
    world.renew()
    held.append(echo())
    await world.channel.close(2.0)
    assert [channel.closed for channel in world.channels] == [[2.0], [2.0]]
    # Nothing is opened again behind the back of who closed it, and nothing is closed twice.
    world.renew()
    for call in held:
        call.end()
    echo()
    await asyncio.sleep(0)
    assert [channel.closed for channel in world.channels] == [[2.0], [2.0]]


async def test_a_real_channel_is_a_context_that_closes(tmp_path: Path) -> None:
    tls = cast("ReloadingTls", FakeTls())
    address = f"unix:{tmp_path}/nobody"
    async with RenewingChannel(tls, lambda _material: grpc.aio.insecure_channel(address)) as channel:
        assert channel.get_state() is grpc.ChannelConnectivity.IDLE
    assert channel.get_state() is grpc.ChannelConnectivity.SHUTDOWN
