"""Stubs call a channel with several endpoints like any other: real servers that drain, die, freeze and come back."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest

from groundwire.audit.v1 import audit_service_pb2
from groundwire.ingestion.v1 import ingestion_service_pb2
from groundwire.retrieval.v1 import retrieval_service_pb2
from interceptors import current
from interceptors._shapes import Context
from services.corpus.errors import InvalidRequest, ResourceExhausted, Unavailable
from services.ingestion.settings import IngestionSettings
from services.resilience.endpoints import Endpoint, MethodClass, Role
from services.resilience.failover import FailoverPolicy
from services.resilience.pool import PoolPolicy
from services.resilience.targets import parse_targets
from services.runtime.channels import open_channel
from services.runtime.failover_calls import method_class
from services.runtime.failover_channel import FailoverChannel
from services.runtime.resolver import Resolver
from services.runtime.server import Server
from tests.support.processes import free_ports
from tests.support.proxy import Proxy, proxy_of
from tests.support.serving import (
    ECHO_DESCRIPTOR,
    READS,
    READS_DESCRIPTOR,
    Body,
    Serving,
    Text,
    echo_service,
    path,
    until,
)

Open = Callable[..., FailoverChannel]


@pytest.fixture
async def channels() -> AsyncIterator[Open]:
    """Opens channels; all are closed when the test ends."""
    opened: list[FailoverChannel] = []

    def open_(*ports: int | str, backups: Sequence[int] = (), patience: float = 5.0) -> FailoverChannel:
        primary = ",".join(f"127.0.0.1:{each}" if isinstance(each, int) else each for each in ports)
        targets = [(target, Role.PRIMARY) for target in parse_targets(f"static:///{primary}")]
        targets += [(target, Role.BACKUP) for port in backups for target in parse_targets(f"127.0.0.1:{port}")]
        channel = FailoverChannel(
            "echo",
            targets,
            lambda endpoint: open_channel(endpoint.address, health_checked=False),
            policy=FailoverPolicy(patience=patience),
            pool_policy=PoolPolicy(proving=0.2),
        )
        opened.append(channel)
        return channel

    yield open_
    for channel in opened:
        await channel.close()


def named(name: str) -> Body:
    async def body(text: str, _context: Context) -> str:
        return f"{name}: {text}"

    return body


async def serve(serving: Serving, name: str, body: Body | None = None, *, port: int = 0) -> Server:
    service = echo_service(body or named(name), descriptor=READS_DESCRIPTOR)
    return await serving.serve(service, address=f"127.0.0.1:{port}")


def unary(channel: FailoverChannel, *, service: str = READS) -> Callable[..., Awaitable[Any]]:
    made: Callable[..., Awaitable[Any]] = channel.unary_unary(
        path("Unary", service), request_serializer=Text.SerializeToString, response_deserializer=Text.FromString
    )
    return made


def stream(channel: FailoverChannel) -> Callable[..., Any]:
    made: Callable[..., Any] = channel.unary_stream(
        path("ServerStream", READS), request_serializer=Text.SerializeToString, response_deserializer=Text.FromString
    )
    return made


async def said(channel: FailoverChannel, text: str = "hello") -> str:
    return str((await unary(channel)(Text(value=text))).value)


async def ready(channel: FailoverChannel, count: int) -> None:
    await channel.start()
    await until(lambda: sum(member.known and member.up for member in channel.pool.members) == count)


def test_the_contract_says_what_may_be_repeated() -> None:
    # A method is known once its contract is loaded.
    for module, service, method, kind in (
        (retrieval_service_pb2, "RetrievalService", "Retrieve", MethodClass.READ),
        (audit_service_pb2, "AuditService", "AppendEvents", MethodClass.WRITE),
        (ingestion_service_pb2, "IngestionService", "UploadDocument", MethodClass.ONCE),
    ):
        described = module.DESCRIPTOR.services_by_name[service]
        assert method_class(f"/{described.full_name}/{method}") is kind
    assert method_class(f"/{ECHO_DESCRIPTOR.full_name}/Unary") is MethodClass.ONCE
    assert method_class("/nobody.Knows/It") is MethodClass.ONCE


async def test_equals_share_the_calls(serving: Serving, channels: Open) -> None:
    one, two = await serve(serving, "one"), await serve(serving, "two")
    channel = channels(one.port, two.port)
    await ready(channel, 2)
    answers = [await said(channel) for _ in range(10)]
    assert answers.count("one: hello") == answers.count("two: hello") == 5


async def test_a_backup_serves_while_the_primary_is_away_and_the_primary_when_it_is_back(
    serving: Serving, channels: Open
) -> None:
    primary, backup = await serve(serving, "primary"), await serve(serving, "backup")
    channel = channels(primary.port, backups=[backup.port])
    await ready(channel, 2)
    assert {await said(channel) for _ in range(5)} == {"primary: hello"}
    changes: list[bool] = []
    channel.pool.listeners.append(
        lambda event: changes.append(bool(event.up)) if event.endpoint == channel.pool.members[0].endpoint else None
    )
    await primary.drain(delay=0, grace=0)
    assert {await said(channel) for _ in range(5)} == {"backup: hello"}
    await serve(serving, "primary", port=primary.port)
    while await said(channel) != "primary: hello":
        await asyncio.sleep(0.01)
    assert changes == [False, True], "one change there, one back"


async def test_no_call_fails_while_an_endpoint_drains(serving: Serving, channels: Open) -> None:
    one, two = await serve(serving, "one"), await serve(serving, "two")
    channel = channels(one.port, two.port)
    await ready(channel, 2)
    drained = asyncio.Event()

    async def call() -> int:
        done = 0
        while not drained.is_set() or done < 20:
            await said(channel)
            done += 1
        return done

    calling = [asyncio.create_task(call()) for _ in range(5)]
    await one.drain(delay=0, grace=5)
    drained.set()
    assert all(count >= 20 for count in await asyncio.gather(*calling))


async def test_a_call_waits_for_an_only_endpoint_that_restarts(serving: Serving, channels: Open) -> None:
    first = await serve(serving, "first")
    channel = channels(first.port, patience=20.0)
    assert await said(channel) == "first: hello"
    await first.drain(delay=0, grace=0)
    await until(lambda: not channel.pool.is_up)
    calling = asyncio.create_task(said(channel))
    await until(lambda: channel.failover.counts("echo").calls == 2)
    await serve(serving, "second", port=first.port)
    assert await calling == "second: hello"


async def test_nobody_there(serving: Serving, channels: Open, tmp_path: Path) -> None:
    channel = channels(f"unix:{tmp_path}/nobody", patience=0.1)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await said(channel)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    with pytest.raises(Unavailable, match="echo is not ready"):
        await channel.require_ready()


async def test_the_callers_deadline_is_kept(serving: Serving, channels: Open, tmp_path: Path) -> None:
    channel = channels(f"unix:{tmp_path}/nobody", patience=60.0)
    with pytest.raises(grpc.aio.AioRpcError):
        await unary(channel)(Text(value="x"), timeout=0.2)
    current.deadline.set(time.monotonic() + 0.2)
    with pytest.raises(grpc.aio.AioRpcError):
        await said(channel)


async def test_an_error_of_the_callers_own_comes_back_as_it_is(serving: Serving, channels: Open) -> None:
    asked: list[str] = []

    async def refuse(text: str, _context: Context) -> str:
        asked.append(text)
        raise InvalidRequest([])

    one, two = await serve(serving, "one", refuse), await serve(serving, "two", refuse)
    channel = channels(one.port, two.port)
    await ready(channel, 2)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await said(channel)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert asked == ["hello"]


@pytest.mark.parametrize(
    ("error", "method"),
    [
        (Unavailable("its store is away"), "Unary"),
        (ResourceExhausted("full", retry_after=30.0), "Unary"),
        (Unavailable("its store is away"), "ServerStream"),
    ],
)
async def test_what_one_endpoint_cannot_do_another_may(
    serving: Serving, channels: Open, error: Exception, method: str
) -> None:
    async def fail(_text: str, _context: Context) -> str:
        raise error

    one, two = await serve(serving, "one", fail), await serve(serving, "two")
    channel = channels(one.port, backups=[two.port])
    await ready(channel, 2)
    if method == "Unary":
        assert await said(channel) == "two: hello"
    else:
        assert [message.value async for message in stream(channel)(Text(value="hello"))] == ["two: hello"]


async def test_what_is_done_once_is_not_done_again(serving: Serving, channels: Open) -> None:
    asked: list[str] = []

    async def fail(text: str, _context: Context) -> str:
        asked.append(text)
        raise Unavailable("half done")

    servers = [await serving.serve(echo_service(fail)) for _ in range(2)]
    channel = channels(*(server.port for server in servers))
    await ready(channel, 2)
    with pytest.raises(grpc.aio.AioRpcError):
        await unary(channel, service="groundwire.test.v1.EchoService")(Text(value="x"))
    assert asked == ["x"]


@contextlib.asynccontextmanager
async def two_of_which_one_can_freeze(serving: Serving, channels: Open) -> AsyncIterator[tuple[FailoverChannel, Proxy]]:
    one, two = await serve(serving, "one"), await serve(serving, "two")
    async with proxy_of(one.port) as proxy:
        channel = channels(proxy.port, backups=[two.port])
        await ready(channel, 2)
        yield channel, proxy
        proxy.thaw()
        await channel.close()


async def test_calls_to_a_peer_that_froze_are_answered_by_another(serving: Serving, channels: Open) -> None:
    async with two_of_which_one_can_freeze(serving, channels) as (channel, proxy):
        assert await said(channel) == "one: hello"
        proxy.freeze()
        # No deadline, and no connection that breaks: only the heartbeat tells.
        assert await said(channel) == "two: hello"
        assert not channel.pool.members[0].up
        proxy.thaw()
        while await said(channel) != "one: hello":
            await asyncio.sleep(0.01)


async def test_a_connection_that_ends_says_nothing_about_its_peer(serving: Serving, channels: Open) -> None:
    async with two_of_which_one_can_freeze(serving, channels) as (channel, proxy):
        changes: list[str] = []
        channel.pool.listeners.append(lambda event: changes.append(event.what))
        for _ in range(3):
            watched = channel.pool.members[0].check
            await proxy.cut()
            assert await said(channel) in ("one: hello", "two: hello")
            await until(lambda before=watched: channel.pool.members[0].check is not before)  # type: ignore[misc] # a default is not inferred
        assert changes == []


async def test_the_first_calls_deadline_is_not_that_of_what_watches(serving: Serving, channels: Open) -> None:
    server = await serve(serving, "one")
    channel = channels(server.port)
    current.deadline.set(time.monotonic() - 1.0)
    with contextlib.suppress(grpc.aio.AioRpcError):  # a millisecond may be enough
        await said(channel)
    await until(lambda: channel.pool.is_up)
    current.deadline.set(None)
    assert await said(channel) == "one: hello"


async def test_streams_to_a_peer_that_froze_begin_elsewhere(serving: Serving, channels: Open) -> None:
    async with two_of_which_one_can_freeze(serving, channels) as (channel, proxy):
        proxy.freeze()
        assert [message.value async for message in stream(channel)(Text(value="x"))] == ["two: x"]


async def test_a_stream_that_has_begun_ends_with_an_error(serving: Serving, channels: Open) -> None:
    held = asyncio.Event()

    async def body(text: str, context: Context) -> str:
        await context.write(Text(value=text))
        await held.wait()
        return "never"

    one, two = await serve(serving, "one", body), await serve(serving, "two")
    async with proxy_of(one.port) as proxy:
        channel = channels(proxy.port, backups=[two.port])
        await ready(channel, 2)
        call = channel.unary_stream(
            path("ServerWrite", READS), request_serializer=Text.SerializeToString, response_deserializer=Text.FromString
        )(Text(value="x"))
        messages = aiter(call)
        assert (await anext(messages)).value == "x"
        assert channel.pool.members[0].in_flight == 1
        proxy.freeze()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await anext(messages)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert channel.pool.members[0].in_flight == 0
        proxy.thaw()
        held.set()
        await channel.close()


async def test_a_cancelled_stream_ends_at_the_server(serving: Serving, channels: Open) -> None:
    ended = asyncio.Event()

    async def body(text: str, context: Context) -> str:
        await context.write(Text(value=text))
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return ""

    server = await serve(serving, "one", body)
    channel = channels(server.port)
    call = channel.unary_stream(
        path("ServerWrite", READS), request_serializer=Text.SerializeToString, response_deserializer=Text.FromString
    )(Text(value="x"))
    assert (await anext(aiter(call))).value == "x"
    assert call.cancel()
    await ended.wait()
    assert channel.pool.members[0].in_flight == 0


async def test_cancelling_a_unary_call_reaches_the_server(serving: Serving, channels: Open) -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def body(_text: str, _context: Context) -> str:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return ""

    server = await serve(serving, "one", body)
    channel = channels(server.port)
    calling = asyncio.create_task(said(channel))
    await began.wait()
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    await ended.wait()


@pytest.mark.parametrize("method", ["ClientStream", "BidiStream"])
async def test_streams_of_requests_pass(serving: Serving, channels: Open, method: str) -> None:
    server = await serve(serving, "one")
    channel = channels(server.port)
    shape = "stream_unary" if method == "ClientStream" else "stream_stream"
    make = getattr(channel, shape)(
        path(method, READS), request_serializer=Text.SerializeToString, response_deserializer=Text.FromString
    )
    call = make(iter([Text(value="x")]))
    answers = [(await call).value] if method == "ClientStream" else [message.value async for message in call]
    assert answers == ["one: x"]


async def test_its_state_is_that_of_its_endpoints(serving: Serving, channels: Open) -> None:
    server = await serve(serving, "one")
    async with channels(server.port) as channel:
        assert channel.get_state() is grpc.ChannelConnectivity.TRANSIENT_FAILURE
        await channel.channel_ready()
        assert channel.get_state() is grpc.ChannelConnectivity.READY
        await channel.require_ready()
        (check,) = await channel.failover.health_check_all_services()
        assert (check.service_name, check.status.value, check.error_message) == ("echo", "healthy", "")
        assert check.response_time > 0
    assert channel.get_state() is grpc.ChannelConnectivity.SHUTDOWN


async def test_a_look_does_not_repeat_what_a_pause_between_two_connections_says(
    serving: Serving, channels: Open
) -> None:
    (port,) = free_ports(1)
    async with channels(port) as channel:
        for _ in range(2):
            # Longer than the heartbeats: the pause of the channel has grown by then.
            (check,) = await channel.failover.health_check_all_services()
            assert (check.status.value, check.error_message) == ("unhealthy", "nothing answers there")
        await serve(serving, "one", port=port)
        (check,) = await channel.failover.health_check_all_services()
        assert (check.status.value, check.error_message) == ("healthy", "")


# --- names ----------------------------------------------------------------------------------------------------------


class Names:
    """A resolver that says what it was told."""

    def __init__(self, *addresses: str) -> None:
        self.addresses: Sequence[str] | OSError = addresses

    async def lookup(self, _host: str, _port: int) -> Sequence[str]:
        if isinstance(self.addresses, OSError):
            raise self.addresses
        return self.addresses


async def test_names_are_looked_up_again_and_pods_come_and_go() -> None:
    names = Names("10.0.0.1:5", "10.0.0.2:5")
    changes: list[Sequence[Endpoint]] = []
    targets = [(target, Role.PRIMARY) for target in parse_targets("dns:///pods:5@eu-1")]
    resolver = Resolver(targets, changes.append, lookup=names.lookup, interval=0.01)
    assert resolver.endpoints() == []
    resolver.start()
    await until(lambda: bool(changes))
    assert [each.address for each in changes[-1]] == ["10.0.0.1:5", "10.0.0.2:5"]
    assert {(each.zone, each.name) for each in changes[-1]} == {("eu-1", "pods")}
    names.addresses = ["10.0.0.3:5"]
    await until(lambda: [each.address for each in changes[-1]] == ["10.0.0.3:5"])
    count = len(changes)
    names.addresses = OSError(2, "no such name")
    await until(lambda: len(changes) > count + 2)
    assert [each.address for each in changes[-1]] == ["10.0.0.3:5"], "a resolver that is away empties nothing"
    await resolver.close()


async def test_what_goes_down_is_looked_up_sooner() -> None:
    names = Names("10.0.0.1:5")
    changes: list[Sequence[Endpoint]] = []
    targets = [(target, Role.PRIMARY) for target in parse_targets("pods:5")]
    resolver = Resolver(targets, changes.append, lookup=names.lookup, interval=3600.0)
    resolver.start()
    await until(lambda: len(changes) == 1)
    names.addresses = ["10.0.0.2:5"]
    resolver.hurry()
    await until(lambda: [each.address for each in changes[-1]] == ["10.0.0.2:5"])
    await resolver.close()


async def test_endpoints_that_left_are_let_go_when_their_calls_have_ended(serving: Serving) -> None:
    held = asyncio.Event()

    async def slow(text: str, _context: Context) -> str:
        await held.wait()
        return text

    one, two = await serve(serving, "one", slow), await serve(serving, "two")
    channel = FailoverChannel(
        "echo",
        [(target, Role.PRIMARY) for target in parse_targets(f"127.0.0.1:{one.port}")],
        lambda endpoint: open_channel(endpoint.address, health_checked=False),
    )
    calling = asyncio.create_task(said(channel))
    await until(lambda: channel.pool.members[0].in_flight == 1)
    channel._replace([Endpoint(f"127.0.0.1:{two.port}")])
    assert await said(channel) == "two: hello"
    held.set()
    assert await calling == "hello"
    await channel.close()


def test_the_settings_name_primaries_backups_and_zones() -> None:
    settings = IngestionSettings.model_validate(
        {
            "endpoints": {"audit": {"primary": ["a:1@eu-1", "static:///10.0.0.1:2,10.0.0.2:2"], "backup": ["b:1"]}},
            "addresses": {"store": "127.0.0.1:9"},
        }
    )
    found = [(target.address, target.zone, role) for target, role in settings.targets("audit")]
    assert found == [
        ("a:1", "eu-1", Role.PRIMARY),
        ("10.0.0.1:2", "", Role.PRIMARY),
        ("10.0.0.2:2", "", Role.PRIMARY),
        ("b:1", "", Role.BACKUP),
    ]
    assert [target.address for target, _ in settings.targets("store")] == ["127.0.0.1:9"]
    for wrong in ({"primary": ["nobody"]}, {"backup": ["b:1"]}):
        with pytest.raises(ValueError, match=r"HOST:PORT|name the primary"):
            IngestionSettings.model_validate({"endpoints": {"audit": wrong}})
