"""The server against clients that do not keep to the rules, and against tools that were not written for it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest

from interceptors._shapes import Context
from services.resilience.health import ServingStatus
from services.runtime.process import Process
from services.runtime.server import READINESS
from services.store.assembly import assemble
from services.store.settings import StoreSettings
from services.vectorstores.memory import MemoryVectorStore
from tests.support.serving import ECHO, RawClient, Serving, Text, begin, call, echo_service, ended, until

GRPCURL = Path(sys.executable).with_name("grpcurl")


# --- clients that misbehave -----------------------------------------------------------------------------------------


async def connect(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", port)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\0" * 1000,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 100,
    ],
    ids=["http/1.1", "tls", "zeros", "broken frames"],
)
async def test_bytes_that_are_not_grpc_are_hung_up_on(serving: Serving, data: bytes) -> None:
    server = await serving.serve()
    reader, writer = await connect(server.port)
    writer.write(data)
    await writer.drain()
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await reader.readexactly(1_000_000)
    writer.close()
    assert (await call(serving.connect(server), "Unary", "x")).responses == ["x"]
    assert {name for name, _ in server.metrics.by_method} <= {f"{ECHO}/Unary"}


async def test_a_client_that_hangs_up_cancels_its_calls(serving: Serving) -> None:
    begun, released = 0, 0

    async def body(text: str, context: Context) -> str:
        nonlocal begun, released
        begun += 1
        try:
            await asyncio.Event().wait()
        finally:
            released += 1
        return text

    server = await serving.serve(echo_service(body))
    clients = [await RawClient.connect(server.port) for _ in range(5)]
    for client in clients:
        for stream, method in ((1, "Unary"), (3, "ServerStream"), (5, "BidiStream")):
            await client.call(f"/{ECHO}/{method}", Text(value="x").SerializeToString(), stream=stream)
    await until(lambda: begun == 15)
    for client in clients:
        await client.close()
    await until(lambda: released == 15)
    await until(lambda: sum(s.count for s in server.metrics.by_method.values()) == 15)
    assert {code for _, code in server.metrics.by_method} == {"CANCELLED"}


async def test_a_half_sent_request_never_reaches_the_handler(serving: Serving) -> None:
    seen: list[str] = []

    async def body(text: str, context: Context) -> str:
        seen.append(text)
        return text

    server = await serving.serve(echo_service(body))
    client = await RawClient.connect(server.port)
    await client.call(f"/{ECHO}/Unary", b"", stream=1, promised=1000)
    assert (await call(serving.connect(server), "Unary", "honest")).responses == ["honest"]
    await client.close()
    assert (await call(serving.connect(server), "Unary", "again")).responses == ["again"]
    assert [text for text in seen if text] == ["honest", "again"]


async def test_a_caller_that_reads_nothing_holds_up_nobody(serving: Serving) -> None:
    async def body(text: str, context: Context) -> str:
        return "x" * 200_000

    server = await serving.serve(echo_service(body))
    frozen = await RawClient.connect(server.port)
    for i in range(50):
        await frozen.call(f"/{ECHO}/ServerStream", b"", stream=2 * i + 1)
    outcomes = await asyncio.gather(*(call(serving.connect(server), "ServerStream", "x") for _ in range(10)))
    assert {outcome.code for outcome in outcomes} == {grpc.StatusCode.OK}
    await frozen.close()


async def test_resets_in_rapid_succession_cost_honest_callers_nothing(serving: Serving) -> None:
    server = await serving.serve()
    channel = serving.connect(server)
    assert (await call(channel, "Unary", "before")).responses == ["before"]
    hostile = [await RawClient.connect(server.port) for _ in range(2)]
    for client in hostile:
        await client.begin_and_reset(f"/{ECHO}/Unary", range(1, 6001, 2))
    outcomes = await asyncio.gather(*(call(channel, "Unary", str(i)) for i in range(50)))
    assert [(o.code, o.responses) for o in outcomes] == [(grpc.StatusCode.OK, [str(i)]) for i in range(50)]
    for client in hostile:
        await client.close()


async def test_many_calls_at_once(serving: Serving) -> None:
    server = await serving.serve()
    channels = [serving.connect(server) for _ in range(4)]
    outcomes = await asyncio.gather(*(call(channels[i % 4], "Unary", str(i)) for i in range(1500)))
    assert [(o.code, o.details, o.responses) for o in outcomes] == [
        (grpc.StatusCode.OK, "", [str(i)]) for i in range(1500)
    ]


async def test_a_long_stream_in_both_directions(serving: Serving) -> None:
    channel = serving.connect(await serving.serve())
    texts = ["x" * 1000 + str(i) for i in range(2000)]
    assert (await ended(begin(channel, "BidiStream", *texts))).responses == texts


# --- grpcurl --------------------------------------------------------------------------------------------------------


async def grpcurl(*arguments: str) -> tuple[int, str]:
    # Without the proxies of whoever runs the tests: this is a call to loopback.
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    process = await asyncio.create_subprocess_exec(
        str(GRPCURL), *arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


async def test_grpcurl_finds_its_way_by_reflection(serving: Serving, tmp_path: Path) -> None:
    settings = StoreSettings(data_dir=tmp_path)
    server = await serving.serve(await assemble(settings, Process(), store=MemoryVectorStore()), settings=settings)
    await until(lambda: server.board.status(READINESS) is ServingStatus.SERVING)
    address = f"127.0.0.1:{server.port}"

    code, listed = await grpcurl("-plaintext", address, "list")
    assert code == 0, listed
    assert {"groundwire.store.v1.StoreService", "grpc.health.v1.Health"} <= set(listed.split())

    code, described = await grpcurl("-plaintext", address, "describe", "groundwire.store.v1.StoreService")
    assert code == 0, described
    assert "rpc CountChunks" in described

    body: dict[str, Any] = {"partition": {"tenant": "t", "collection": "c"}}
    code, answer = await grpcurl(
        "-plaintext", "-emit-defaults", "-d", json.dumps(body), address, "groundwire.store.v1.StoreService/CountChunks"
    )
    assert (code, json.loads(answer)) == (0, {"count": "0"})

    code, health = await grpcurl(
        "-plaintext", "-d", json.dumps({"service": "readiness"}), address, "grpc.health.v1.Health/Check"
    )
    assert (code, json.loads(health)) == (0, {"status": "SERVING"})

    code, refused = await grpcurl("-plaintext", "-d", "{}", address, "groundwire.store.v1.StoreService/CountChunks")
    assert code != 0
    assert "InvalidArgument" in refused
    assert "partition.tenant: must not be empty" in refused
