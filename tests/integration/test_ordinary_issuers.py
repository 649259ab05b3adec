"""Tokens of well-known issuers over gRPC, their keys fetched over HTTP: callers learn nothing, the log says why."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import pytest
import structlog
from structlog.testing import capture_logs

from services.corpus.errors import Unauthenticated
from services.runtime import logs
from services.runtime.authentication import TokenAuthentication
from services.runtime.options import AuthenticationOptions
from services.runtime.server import Server
from services.runtime.settings import Settings
from services.security.refusal import Explanation, Refusal
from tests.support.mesh import Ended, ended, raw
from tests.support.ordinary_issuers import KEYCLOAK, REFUSED, SHAPES, configured, key_set, served, token
from tests.support.serving import ECHO, echo_service


@pytest.fixture(scope="module")
def keys() -> Iterator[str]:
    with served(key_set()) as url:
        yield url


@pytest.fixture
async def channel(keys: str, tmp_path: Path) -> AsyncIterator[grpc.aio.Channel]:
    authentication = await TokenAuthentication.start(Settings(data_dir=tmp_path, authentication=configured(keys)))
    with tempfile.TemporaryDirectory(prefix="gw-") as directory:
        server = Server(
            echo_service(close=authentication.close), Settings(data_dir=Path(directory)), authentication.identify
        )
        await server.start("127.0.0.1:0")
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            yield channel
        await server.drain(delay=0, grace=0)


async def call(channel: grpc.aio.Channel, token: str, request_id: str) -> Ended:
    metadata = (("authorization", f"Bearer {token}"), ("x-request-id", request_id))
    return await ended(raw(channel, f"/{ECHO}/Unary")(b"", metadata=metadata, timeout=30))


async def test_over_grpc_callers_learn_nothing_and_the_log_says_why_by_request_id(channel: grpc.aio.Channel) -> None:
    bad = {f"request-{n}": (name, *REFUSED[name]) for n, name in enumerate(REFUSED)}
    # The level of `groundwire up`; what it hides is not told.
    previous = structlog.get_config()["wrapper_class"]
    with capture_logs(processors=[structlog.stdlib.add_log_level, logs._add_request_id]) as written:
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("warning"))
        try:
            answers = [
                await call(channel, token(issuer, **changes), id_) for id_, (_, issuer, changes, *_) in bad.items()
            ]
            good = [await call(channel, token(issuer), "good") for issuer in SHAPES]
        finally:
            structlog.configure(wrapper_class=previous)
    assert {(answer.code, answer.details) for answer in answers} == {
        (grpc.StatusCode.UNAUTHENTICATED, "valid credentials are required")
    }
    # Its roles permit other things: who calls was accepted.
    assert {answer.code for answer in good} == {grpc.StatusCode.PERMISSION_DENIED}
    lines = {line["request_id"]: line for line in written if line["event"] == "caller refused"}
    assert lines.keys() == bad.keys()
    for id_, (_, issuer, _, reason, words) in bad.items():
        line = lines[id_]
        assert (line["log_level"], line["reason"]) == ("warning", reason.value)
        assert words in line["why"]
        assert line.get("issuer", issuer) == issuer


async def test_a_key_set_that_is_no_key_set_is_what_the_reason_names(tmp_path: Path) -> None:
    told: list[Explanation] = []
    with served(b"<html>log in</html>") as url:
        issuers = [issuer for issuer in configured(url).issuers if issuer.name == KEYCLOAK]
        settings = Settings(data_dir=tmp_path, authentication=AuthenticationOptions(issuers=tuple(issuers)))
        gate = await TokenAuthentication.start(settings, told.append)
        with pytest.raises(Unauthenticated):
            await asyncio.wait_for(gate.verify(token(KEYCLOAK)), 60)
        await gate.close()
    assert [each.reason for each in told] == [Refusal.KEY]
    assert "`jwks_url`" in told[0].words
