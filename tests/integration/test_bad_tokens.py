"""Bad tokens sent over the wire to a production server: none is let in, and all get one answer."""

from __future__ import annotations

import re
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from interceptors._shapes import Call
from services.corpus.principal import Caller
from services.runtime.server import Server
from services.runtime.settings import Settings
from tests.support.bad_tokens import METADATA, REVOKED, TOKENS
from tests.support.mesh import Ended, ended, raw
from tests.support.serving import ECHO, echo_service
from tests.support.token_forge import Gate, craft

_BAD = {
    **{name: [f"Bearer {make()}"] for name, (_, make) in TOKENS.items()},
    **{name: make() for name, (_, make) in METADATA.items()},
}
# gRPC clients refuse to send other characters, or a megabyte, themselves.
SENDABLE = {
    name: values
    for name, values in _BAD.items()
    if all(re.fullmatch(r"[\x20-\x7e]{0,100000}", value) for value in values)
}


@pytest.fixture
async def channel() -> AsyncIterator[grpc.aio.Channel]:
    gate = Gate()
    gate.revocations.apply(*REVOKED)

    async def identify(call: Call) -> Caller:
        return (await gate.verifier.authenticate(call.metadata("authorization"))).caller

    with tempfile.TemporaryDirectory(prefix="gw-") as directory:
        server = Server(echo_service(), Settings(data_dir=Path(directory)), identify)
        await server.start("127.0.0.1:0")
        # Tokens of more than 16 KiB must reach the server to be refused by it.
        options = [("grpc.max_metadata_size", 1 << 20), ("grpc.absolute_max_metadata_size", 1 << 20)]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options=options) as channel:
            yield channel
        await server.drain(delay=0, grace=0)


async def call(channel: grpc.aio.Channel, method: str, values: list[str]) -> Ended:
    metadata = tuple(("authorization", value) for value in values)
    return await ended(raw(channel, f"/{ECHO}/{method}")(b"", metadata=metadata, timeout=30))


@pytest.mark.parametrize("method", ["Unary", "ServerStream", "ClientStream", "BidiStream"])
async def test_every_bad_token_gets_the_same_answer(channel: grpc.aio.Channel, method: str) -> None:
    assert len(SENDABLE) >= 60
    answers = [await call(channel, method, values) for values in SENDABLE.values()]
    let_in = {
        name: (answer.code, answer.details)
        for name, answer in zip(SENDABLE, answers, strict=True)
        if answer.code is not grpc.StatusCode.UNAUTHENTICATED
    }
    assert not let_in
    assert {answer.details for answer in answers} == {"valid credentials are required"}
    assert not any(answer.responses for answer in answers)
    # The details differ in the request id alone, which each call has of its own.
    assert {frozenset(answer.trailing) for answer in answers} == {
        frozenset({"grpc-status-details-bin", "x-request-id"})
    }
    assert {answer.reason for answer in answers} == {"UNAUTHENTICATED"}


async def test_the_good_token_that_they_were_made_from_is_accepted_by_the_same_server(
    channel: grpc.aio.Channel,
) -> None:
    answer = await call(channel, "Unary", [f"Bearer {craft()}"])
    # Its role lacks the permission: who it is was accepted, what it may do is another matter.
    assert answer.code in (grpc.StatusCode.OK, grpc.StatusCode.PERMISSION_DENIED)
