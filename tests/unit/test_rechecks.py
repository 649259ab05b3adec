"""Callers of open calls are looked at again and again: in isolation, and through the production server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

from interceptors import authentication as layer
from interceptors._shapes import Call, Context
from interceptors.rechecks import Rechecks
from services.corpus.errors import CredentialsRefused, Unavailable
from services.runtime.authentication import TokenAuthentication
from services.runtime.development import mint
from services.runtime.server import Server
from services.runtime.settings import Settings
from services.security.claims import Claims
from services.security.mesh_tokens import MeshTokens
from services.security.revocation import Revocation, SubjectRevoked, TokenRevoked
from services.security.revocation_sqlite import SqliteRevocationStore
from tests.support.serving import Outcome, Serving, Text, begin, echo_service, ended, until


class GoneError(Exception):
    """What a check raises."""


def call_named(name: str) -> Any:
    class Named:
        method = name

    return Named()


async def forever() -> None:
    await asyncio.Event().wait()


# --- in isolation ---------------------------------------------------------------------------------------------------


async def test_a_call_ends_with_what_its_check_raises_and_the_others_go_on() -> None:
    void: set[str] = set()

    async def check(call: Call) -> None:
        if call.method in void:
            raise GoneError(call.method)

    rechecks = Rechecks(0.001, check)
    a, b = (asyncio.ensure_future(rechecks.hold(call_named(name), forever())) for name in "ab")
    await asyncio.sleep(0.01)
    assert not a.done()
    assert not b.done()
    void.add("a")
    with pytest.raises(GoneError, match="a") as raised:
        await a
    assert (raised.value.__cause__, raised.value.__context__) == (None, None)
    assert not b.done()
    b.cancel()
    await asyncio.wait({b})
    assert b.cancelled()
    # Nobody is looked after any more.
    await until(lambda: rechecks._looking is None)


async def test_a_check_that_hangs_holds_up_no_other() -> None:
    async def check(call: Call) -> None:
        if call.method == "hangs":
            await forever()
        raise GoneError

    rechecks = Rechecks(0.001, check)
    hanging = asyncio.ensure_future(rechecks.hold(call_named("hangs"), forever()))
    with pytest.raises(GoneError):
        await rechecks.hold(call_named("b"), forever())
    hanging.cancel()
    await asyncio.wait({hanging})
    assert rechecks._looking is not None
    rechecks._looking.cancel()


async def test_work_that_ends_in_its_own_way_just_then_is_not_cancelled_later() -> None:
    async def check(_call: Call) -> None:
        raise GoneError

    async def stubborn() -> str:
        try:
            await forever()
        except asyncio.CancelledError:
            return "done"
        raise AssertionError

    assert await Rechecks(0.001, check).hold(call_named("a"), stubborn()) == "done"
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_cancellation_from_elsewhere_stays_one() -> None:
    async def check(_call: Call) -> None:
        raise GoneError

    rechecks = Rechecks(0.001, check)

    async def held() -> None:
        task = asyncio.current_task()
        assert task is not None

        async def slow_to_end() -> None:
            try:
                await forever()
            finally:
                task.cancel()  # as a caller that goes away at the same time

        await rechecks.hold(call_named("a"), slow_to_end())

    running = asyncio.ensure_future(held())
    await asyncio.wait({running})
    assert running.cancelled()


# --- through the production server ----------------------------------------------------------------------------------

STREAMS = ("ServerStream", "ServerWrite", "ClientStream", "BidiStream", "WatchStream")


class Guarded:
    """A server whose calls run until the test lets them go on, behind the authentication that processes have."""

    def __init__(self, settings: Settings, authentication: TokenAuthentication) -> None:
        self.settings = settings
        self.authentication = authentication
        self.running = 0
        self.go_on = asyncio.Event()
        self.flooding = False
        self.error: Exception | None = None
        self.server: Server
        self.claims: Claims

    async def body(self, text: str, context: Context) -> str:
        self.running += 1
        while self.flooding:
            await context.write(Text(value="x" * 60_000))
        await self.go_on.wait()
        if self.error is not None:
            raise self.error
        return text

    async def begin(self, serving: Serving, method: str, token: str) -> Any:
        """A call that runs."""
        running = begin(serving.connect(self.server), method, "x", metadata=[("authorization", f"Bearer {token}")])
        before = self.running
        await until(lambda: self.running > before or running.done())
        return running

    def own_token(self) -> str:
        token = mint(self.settings)
        assert token is not None
        return token

    async def claims_of(self, token: str) -> Claims:
        return (await self.authentication.verify(token)).claims

    async def revoke(self, revocation: Revocation) -> None:
        """As `groundwire revoke` does it, in another process."""
        store = SqliteRevocationStore(self.settings.keys_dir / "revocations.sqlite3")
        await store.add(revocation, time.time())
        await store.close()

    def time_passes(self, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
        monkeypatch.setattr(self.authentication._verifier, "_clock", lambda: time.time() + seconds)


@pytest.fixture
async def guarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Guarded]:
    monkeypatch.setattr(layer, "RECHECK", 0.01)
    settings = Settings(data_dir=tmp_path)
    authentication = await TokenAuthentication.start(settings)
    made = Guarded(settings, authentication)
    made.server = Server(echo_service(made.body), settings, authentication.identify, confirm=authentication.confirm)
    await made.server.start("127.0.0.1:0")
    yield made
    made.go_on.set()
    await made.server.drain(delay=0, grace=0)
    await authentication.close()


def refused(outcome: Outcome) -> bool:
    """Whether it is the one answer that all bad credentials get, with nothing about trying again."""
    assert outcome.code is grpc.StatusCode.UNAUTHENTICATED, outcome
    assert (outcome.details, outcome.reason) == ("valid credentials are required", "UNAUTHENTICATED")
    assert outcome.detail(error_details_pb2.RetryInfo) is None
    return True


@pytest.mark.parametrize("method", STREAMS)
async def test_a_stream_whose_token_is_revoked_ends_unauthenticated(
    serving: Serving, guarded: Guarded, method: str
) -> None:
    token = guarded.own_token()
    running = await guarded.begin(serving, method, token)
    claims = await guarded.claims_of(token)
    await guarded.revoke(TokenRevoked(claims.issuer, claims.token_id, claims.valid_until))
    assert refused(await ended(running))


@pytest.mark.parametrize("method", STREAMS)
async def test_a_stream_whose_token_expires_ends_unauthenticated(
    serving: Serving, guarded: Guarded, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    running = await guarded.begin(serving, method, guarded.own_token())
    guarded.time_passes(monkeypatch, 3600 + 11)
    assert refused(await ended(running))


async def test_a_stream_that_its_caller_does_not_read_ends_too(serving: Serving, guarded: Guarded) -> None:
    guarded.flooding = True
    token = guarded.own_token()
    running = await guarded.begin(serving, "ServerWrite", token)
    claims = await guarded.claims_of(token)
    await guarded.revoke(SubjectRevoked(claims.tenant, claims.subject, claims.issued_at + 1, claims.valid_until))
    await guarded.server._admission.idle()
    running.cancel()


async def test_other_callers_go_on(serving: Serving, guarded: Guarded) -> None:
    revoked, other = guarded.own_token(), guarded.own_token()
    running = [await guarded.begin(serving, "ServerStream", token) for token in (revoked, other)]
    claims = await guarded.claims_of(revoked)
    await guarded.revoke(TokenRevoked(claims.issuer, claims.token_id, claims.valid_until))
    assert refused(await ended(running[0]))
    guarded.go_on.set()
    assert (await ended(running[1])).responses == ["x"]


async def test_a_call_without_a_stream_is_decided_at_its_beginning(
    serving: Serving, guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = await guarded.begin(serving, "Unary", guarded.own_token())
    guarded.time_passes(monkeypatch, 3600 + 11)
    await asyncio.sleep(0.05)
    guarded.go_on.set()
    assert (await ended(running)).responses == ["x"]


@pytest.mark.parametrize("method", ["Unary", "ServerStream"])
async def test_what_another_service_refuses_is_told_as_what_it_is(
    serving: Serving, guarded: Guarded, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """It hears of a revocation first, and refuses to work for the caller."""
    monkeypatch.setattr(guarded.authentication._feed, "_interval", 3600.0)
    token = guarded.own_token()
    claims = await guarded.claims_of(token)
    running = [await guarded.begin(serving, method, each) for each in (token, guarded.own_token())]
    await guarded.revoke(TokenRevoked(claims.issuer, claims.token_id, claims.valid_until))
    guarded.error = CredentialsRefused("the retrieval service did not answer")
    guarded.go_on.set()
    assert refused(await ended(running[0]))
    # This one's caller is fine: the services do not trust each other.
    assert (await ended(running[1])).code is grpc.StatusCode.UNAVAILABLE


async def test_what_fails_while_a_token_expires_is_told_as_what_it_is(
    serving: Serving, guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = await guarded.begin(serving, "Unary", guarded.own_token())
    guarded.time_passes(monkeypatch, 3600 + 11)
    guarded.error = Unavailable("no store answers")
    guarded.go_on.set()
    assert refused(await ended(running))


async def mesh_token(guarded: Guarded, token: str | None) -> str:
    tokens = MeshTokens(guarded.authentication._mesh_secret, "query")
    if token is None:
        return tokens.for_subject(tenant="mesh", subject="service-query", roles=["admin"])
    return tokens.on_behalf_of(await guarded.claims_of(token))


@pytest.mark.parametrize("on_behalf", [False, True])
async def test_streams_between_services_outlive_their_tokens_minute(
    serving: Serving, guarded: Guarded, monkeypatch: pytest.MonkeyPatch, on_behalf: bool
) -> None:
    token = await mesh_token(guarded, guarded.own_token() if on_behalf else None)
    running = await guarded.begin(serving, "WatchStream", token)
    guarded.time_passes(monkeypatch, 600)
    await asyncio.sleep(0.05)
    guarded.go_on.set()
    assert (await ended(running)).responses == ["x"]


@pytest.mark.parametrize("how", ["revoked", "expired"])
async def test_streams_between_services_end_with_what_they_came_from(
    serving: Serving, guarded: Guarded, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    own = guarded.own_token()
    running = await guarded.begin(serving, "ServerStream", await mesh_token(guarded, own))
    claims = await guarded.claims_of(own)
    if how == "revoked":
        await guarded.revoke(TokenRevoked(claims.issuer, claims.token_id, claims.valid_until))
    else:
        guarded.time_passes(monkeypatch, 3600 + 11)
    assert refused(await ended(running))


async def test_streams_end_when_nobody_can_tell_what_is_revoked(
    serving: Serving, guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = await guarded.begin(serving, "ServerStream", guarded.own_token())
    feed = guarded.authentication._feed

    async def broken(_after: object) -> Any:
        raise Unavailable("the disk is gone")

    monkeypatch.setattr(feed._store, "read", broken)
    monkeypatch.setattr(feed, "_max_age", 0.05)
    assert refused(await ended(running))
