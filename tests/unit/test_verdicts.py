"""What a failed call says about an endpoint, and about trying again."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import StatusCode

from interceptors._shapes import Call
from services.corpus.errors import DataLoss, GroundwireError, NotFound, ResourceExhausted, Unavailable
from services.resilience.failover import Repeat, Verdict
from services.runtime.channels import open_channel
from services.runtime.status import to_status
from services.runtime.verdicts import judge

_HEADERS = 1  # the type of the frame that begins a call (RFC 9113, 6.2)


def bare(code: StatusCode, details: str = "") -> grpc.aio.AioRpcError:
    """What a transport, or somebody else's server, says."""
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details)


def ours(error: GroundwireError) -> grpc.aio.AioRpcError:
    """What a service of the mesh says."""
    status = to_status(error, Call("/S/M", known=True, context=None, request_id="r"))  # type: ignore[arg-type] # nothing asks it
    trailing = grpc.aio.Metadata(*status.trailing_metadata)
    return grpc.aio.AioRpcError(status.code, grpc.aio.Metadata(), trailing, status.details)


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (bare(StatusCode.UNAVAILABLE, "Socket closed"), Verdict(counts=True, repeat=Repeat.SAFE)),
        (
            ours(Unavailable("going away", reason="DRAINING")),
            Verdict(counts=False, repeat=Repeat.ALWAYS, unreached=True),
        ),
        (
            ours(Unavailable("no store answers", retry_after=2.0)),
            Verdict(counts=True, repeat=Repeat.ELSEWHERE, pushback=2.0),
        ),
        (ours(ResourceExhausted("full", retry_after=3.0)), Verdict(counts=True, repeat=Repeat.SAFE, pushback=3.0)),
        (bare(StatusCode.RESOURCE_EXHAUSTED, "message too large"), Verdict(counts=False, repeat=Repeat.NEVER)),
        (bare(StatusCode.INTERNAL, "RST_STREAM"), Verdict(counts=True, repeat=Repeat.SAFE)),
        (ours(GroundwireError("a defect")), Verdict(counts=True, repeat=Repeat.ELSEWHERE)),
        (bare(StatusCode.DEADLINE_EXCEEDED), Verdict(counts=True, repeat=Repeat.NEVER)),
        (bare(StatusCode.CANCELLED), Verdict(counts=False, repeat=Repeat.SAFE)),
        (ours(NotFound("no such thing")), Verdict(counts=False, repeat=Repeat.NEVER)),
        (ours(DataLoss("damaged")), Verdict(counts=False, repeat=Repeat.NEVER)),
        (ValueError("not gRPC's"), Verdict(counts=False, repeat=Repeat.NEVER)),
    ],
)
def test_verdicts(error: Exception, verdict: Verdict) -> None:
    assert judge(error) == verdict


def test_only_what_says_something_about_the_endpoint_counts() -> None:
    counting = {code for code in StatusCode if code is not StatusCode.OK and judge(bare(code)).counts}
    assert counting == {StatusCode.UNAVAILABLE, StatusCode.INTERNAL, StatusCode.DEADLINE_EXCEEDED}


async def test_a_call_that_never_reached_a_server_is_told_from_one_that_may_have(tmp_path: Path) -> None:
    """Held against gRPC itself: its words are all that tells."""
    with contextlib.closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens
        silent = taken.getsockname()[1]
        await _none_reaches_a_server(f"127.0.0.1:{silent}", f"unix:{tmp_path}/nobody")


async def _none_reaches_a_server(*addresses: str) -> None:
    for address in addresses:
        channel = open_channel(address, health_checked=False)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _call(channel)
        await channel.close()
        assert judge(caught.value) == Verdict(counts=True, repeat=Repeat.ALWAYS, unreached=True), caught.value.details()


async def test_an_answer_that_got_lost_is_not_taken_for_a_call_that_never_began() -> None:
    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Enough of HTTP/2 to be sent a call, and then nothing more.
        writer.write(b"\0\0\0\x04\0\0\0\0\0")
        await reader.readexactly(len(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
        kind = None
        while kind != _HEADERS:
            length, kind = struct.unpack(">3sBxxxxx", await reader.readexactly(9))
            await reader.readexactly(int.from_bytes(length))
        writer.transport.abort()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    channel = open_channel(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", health_checked=False)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _call(channel)
    assert judge(caught.value) == Verdict(counts=True, repeat=Repeat.SAFE), caught.value.details()
    await channel.close()
    server.close()


async def _call(channel: grpc.aio.Channel) -> None:
    make: Any = channel.unary_unary("/S/M")
    await make(b"", timeout=10)
