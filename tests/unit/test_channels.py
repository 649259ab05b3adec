"""Channels between services: where they lead, whom they trust to serve, and what they carry on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from cli import client
from interceptors import current
from interceptors._shapes import Context
from interceptors.client import outgoing
from services.corpus.errors import Unavailable
from services.resilience.health import ServingStatus
from services.runtime.addresses import target
from services.runtime.channels import check_serving, open_channel
from services.runtime.server import READINESS, Server
from tests.support.proxy import proxy_of
from tests.support.serving import SHAPES, Serving, call, echo_service, until

each_shape = pytest.mark.parametrize("method", SHAPES)


def opened(serving: Serving, server: Server | str, *, health_checked: bool = True) -> grpc.aio.Channel:
    address = server if isinstance(server, str) else f"127.0.0.1:{server.port}"
    channel = open_channel(address, health_checked=health_checked)
    serving.channels.append(channel)
    return channel


@pytest.mark.parametrize(
    ("address", "wanted"),
    [
        ("127.0.0.1:50051", "dns:///127.0.0.1:50051"),
        ("retrieval.default.svc:50051", "dns:///retrieval.default.svc:50051"),
        ("unix:/run/store.sock", "unix:/run/store.sock"),
        ("dns:///x:1", "dns:///x:1"),
        ("ipv4:127.0.0.1:1,127.0.0.1:2", "ipv4:127.0.0.1:1,127.0.0.1:2"),
        ("xds:///x", "xds:///x"),
    ],
)
def test_targets(address: str, wanted: str) -> None:
    assert target(address) == wanted


@each_shape
async def test_every_shape_over_tcp_and_unix_sockets(serving: Serving, tmp_path: Path, method: str) -> None:
    tcp = await serving.serve()
    await serving.serve(address=f"unix:{tmp_path}/x.sock")
    for channel in (opened(serving, tcp), opened(serving, f"unix:{tmp_path}/x.sock")):
        assert (await call(channel, method, "hello")).responses == ["hello"]


# --- health ---------------------------------------------------------------------------------------------------------


async def test_a_peer_that_says_that_it_does_not_serve_is_not_called(serving: Serving) -> None:
    served: list[str] = []

    async def body(text: str, context: Context) -> str:
        served.append(text)
        return text

    server = await serving.serve(echo_service(body))
    channel = opened(serving, server)
    assert (await call(channel, "Unary", "before")).code is grpc.StatusCode.OK
    server.board.set("", ServingStatus.NOT_SERVING)
    while (await call(channel, "Unary", "until it is known")).code is grpc.StatusCode.OK:
        pass
    assert (await call(channel, "Unary", "during")).code is grpc.StatusCode.UNAVAILABLE
    assert (await call(opened(serving, server, health_checked=False), "Unary", "all the same")).responses
    server.board.set("", ServingStatus.SERVING)
    assert (await call(channel, "Unary", "after", wait_for_ready=True)).responses == ["after"]
    assert "during" not in served


async def test_a_peer_that_drains_loses_its_traffic_without_a_failed_call(serving: Serving) -> None:
    def named(name: str) -> Server:
        async def body(text: str, context: Context) -> str:
            return name

        return serving.make(echo_service(body))

    servers = {name: named(name) for name in ("a", "b")}
    for server in servers.values():
        await server.start("127.0.0.1:0")
        serving.servers.append(server)
    ports = ",".join(f"127.0.0.1:{server.port}" for server in servers.values())
    channel = opened(serving, f"ipv4:{ports}")
    seen: set[str] = set()
    while seen != {"a", "b"}:
        seen.update((await call(channel, "Unary", "x")).responses)

    draining = asyncio.create_task(servers["a"].drain(delay=600, grace=600))
    outcomes = []
    in_a_row = 0
    while in_a_row < 20:
        outcomes.append(await call(channel, "Unary", "x"))
        in_a_row = in_a_row + 1 if outcomes[-1].responses == ["b"] else 0
    assert {outcome.code for outcome in outcomes} == {grpc.StatusCode.OK}
    draining.cancel()
    with pytest.raises(asyncio.CancelledError):
        await draining


async def test_check_serving(serving: Serving) -> None:
    server = await serving.serve()
    channel = opened(serving, server)
    await until(lambda: server.board.status(READINESS) is ServingStatus.SERVING)
    await check_serving(channel, "echo")
    await check_serving(channel, "echo", service="")
    server.board.end()
    with pytest.raises(Unavailable, match=r"echo (does not answer|is not ready)") as missing:
        await check_serving(opened(serving, server, health_checked=False), "echo")
    assert missing.value.metadata == {"dependency": "echo"}
    with pytest.raises(Unavailable, match="does not answer"):
        await check_serving(channel, "echo", service="nobody")


async def test_check_serving_where_nobody_is(serving: Serving, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="echo does not answer"):
        await check_serving(opened(serving, f"unix:{tmp_path}/nobody.sock"), "echo")


# --- what goes on ---------------------------------------------------------------------------------------------------


@each_shape
async def test_the_request_id_and_the_remaining_time_go_on(serving: Serving, method: str) -> None:
    async def back(text: str, context: Context) -> str:
        return json.dumps([current.request_id.get(), current.remaining()])

    back_server = await serving.serve(echo_service(back))
    channel = opened(serving, back_server)

    async def front(text: str, context: Context) -> str:
        before = current.remaining()
        outcome = await call(channel, method, text)
        request_id, remaining = json.loads(outcome.responses[0])
        return json.dumps([request_id, before, remaining])

    server = await serving.serve(echo_service(front))
    metadata = [("x-request-id", "abc-1")]
    outcome = await call(serving.connect(server), "Unary", "x", timeout=30, metadata=metadata)
    request_id, before, remaining = json.loads(outcome.responses[0])
    assert request_id == "abc-1"
    # On the wire gRPC rounds a time-out up, to three digits; the caller's own timer keeps to the exact one.
    assert 0 < remaining < before * 1.01


async def test_a_shorter_time_that_the_code_asks_for_counts(serving: Serving) -> None:
    async def back(text: str, context: Context) -> str:
        return str(current.remaining())

    channel = opened(serving, await serving.serve(echo_service(back)))

    async def front(text: str, context: Context) -> str:
        return (await call(channel, "Unary", text, timeout=50)).responses[0]

    server = await serving.serve(echo_service(front))
    outcome = await call(serving.connect(server), "Unary", "x", timeout=1000)
    # gRPC rounds it up on the wire, see above.
    assert 0 < float(outcome.responses[0]) < 50 * 1.01


async def test_a_callee_gives_up_before_its_caller_does(serving: Serving) -> None:
    async def back(text: str, context: Context) -> str:
        await asyncio.Event().wait()
        return text

    channel = opened(serving, await serving.serve(echo_service(back)))
    seen: list[grpc.StatusCode] = []

    async def front(text: str, context: Context) -> str:
        # More time is asked for than there is.
        seen.append((await call(channel, "Unary", text, timeout=1000)).code)
        return "gave up in time"

    server = await serving.serve(echo_service(front, deadline_cap=2.0))
    outcome = await call(serving.connect(server), "Unary", "x")
    assert (seen, outcome.responses) == ([grpc.StatusCode.DEADLINE_EXCEEDED], ["gave up in time"])


async def test_outside_of_a_call_nothing_is_added(serving: Serving) -> None:
    async def body(text: str, context: Context) -> str:
        names = {key for key, _ in context.invocation_metadata() or ()}
        return json.dumps([sorted(names & {"x-request-id", "traceparent", "authorization"}), current.remaining()])

    channel = opened(serving, await serving.serve(echo_service(body, deadline_cap=60)))
    names, remaining = json.loads((await call(channel, "Unary", "x")).responses[0])
    assert names == []
    assert 50 < remaining <= 60


async def test_credentials_go_with_every_call(serving: Serving) -> None:
    asked = 0

    async def credentials() -> list[tuple[str, str]]:
        nonlocal asked
        asked += 1
        return [("authorization", f"Bearer {asked}")]

    async def body(text: str, context: Context) -> str:
        return str(dict(context.invocation_metadata() or ()).get("authorization"))

    server = await serving.serve(echo_service(body))
    channel = serving.connect(server, interceptors=outgoing(tracer=None, margin=0.05, credentials=credentials))
    given = [(await call(channel, method, "x", metadata=[("x-own", "kept")])).responses[0] for method in SHAPES]
    assert given == [f"Bearer {i + 1}" for i in range(len(SHAPES))]


async def test_a_response_beyond_the_limit_is_refused(serving: Serving) -> None:
    async def body(text: str, context: Context) -> str:
        return "x" * 20_000

    server = await serving.serve(echo_service(body))
    channel = open_channel(f"127.0.0.1:{server.port}", max_message_bytes=10_000)
    serving.channels.append(channel)
    assert (await call(channel, "Unary", "x")).code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert len((await call(opened(serving, server), "Unary", "x")).responses[0]) == 20_000


@pytest.mark.parametrize("open_", [open_channel, client.open_channel])
async def test_a_connection_may_take_longer_than_the_time_between_two_attempts(
    serving: Serving, open_: Callable[[str], grpc.aio.Channel]
) -> None:
    server = await serving.serve()
    async with proxy_of(server.port) as far:
        far.freeze()
        channel = open_(f"127.0.0.1:{far.port}")
        serving.channels.append(channel)
        calling = asyncio.ensure_future(call(channel, "Unary", "x"))
        # What a network passes late, and a server that others keep busy sends late.
        asyncio.get_running_loop().call_later(0.3, far.thaw)
        assert (await calling).responses == ["x"]
