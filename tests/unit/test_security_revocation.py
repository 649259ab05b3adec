"""Revocations: what they cover, when they are forgotten, and what happens when their store cannot be read."""

from __future__ import annotations

import asyncio

import pytest

from services.corpus.errors import Unauthenticated, Unavailable
from services.security.claims import Claims, Origin
from services.security.refusal import Refusal
from services.security.revocation import (
    Batch,
    MemoryRevocationStore,
    Revocation,
    Revocations,
    SubjectRevoked,
    TokenRevoked,
)
from services.security.revocation_feed import RevocationFeed
from services.security.tokens import TokenVerifier
from tests.support.token_forge import HS, NOW, Clock, craft, issuers


def said(token_id: str = "token-1", issued_at: int = NOW, origin: Origin | None = None) -> Claims:
    own = Origin(HS, token_id, issued_at, issued_at + 600)
    return Claims(
        issuer=HS,
        subject="alice",
        tenant="acme",
        groups=frozenset(),
        roles=frozenset(),
        token_id=token_id,
        issued_at=issued_at,
        expires_at=issued_at + 600,
        valid_until=issued_at + 600,
        actors=(),
        origin=origin or own,
    )


def test_the_generation_grows_with_news_alone() -> None:
    state = Revocations()
    token, subject = TokenRevoked.at(NOW, HS, "token-1"), SubjectRevoked.at(NOW, "acme", "alice")
    state.apply([])
    assert state.generation == 0
    state.apply([token, subject])
    state.apply([token])
    state.apply([SubjectRevoked.at(NOW - 100, "acme", "alice")])
    assert (state.generation, len(state)) == (1, 2)
    state.apply([SubjectRevoked.at(NOW + 100, "acme", "alice")])
    assert state.generation == 2


def test_an_earlier_epoch_does_not_take_a_later_one_back() -> None:
    state = Revocations()
    state.apply([SubjectRevoked.at(NOW, "acme", "alice"), SubjectRevoked.at(NOW - 5000, "acme", "alice")])
    assert state.covers(said(issued_at=NOW))


def test_the_whole_second_of_a_revocation_is_covered() -> None:
    state = Revocations()
    state.apply([SubjectRevoked.at(NOW + 0.999, "acme", "alice", skew=0)])
    assert state.covers(said(issued_at=NOW))
    assert not state.covers(said(issued_at=NOW + 1))


def test_what_a_token_was_derived_from_counts() -> None:
    state = Revocations()
    derived = said("derived", NOW, Origin("https://other.example", "root", NOW - 600, NOW))
    state.apply([SubjectRevoked("acme", "alice", NOW - 599, NOW + 9000)])
    assert not state.covers(said(issued_at=NOW))
    assert state.covers(derived)
    other = Revocations()
    other.apply([TokenRevoked.at(NOW, "https://other.example", "root")])
    assert other.covers(derived)


def test_only_what_concerns_expired_tokens_is_forgotten() -> None:
    state = Revocations()
    token, subject = TokenRevoked.at(NOW, HS, "token-1"), SubjectRevoked.at(NOW, "acme", "alice")
    state.apply([token, subject])
    state.prune(min(token.until, subject.until))
    assert len(state) == 2
    state.prune(max(token.until, subject.until) + 1)
    assert len(state) == 0
    # The longest life of a token that was issued at the last moment, by the clock that is furthest ahead.
    assert token.until >= NOW + 30 + 86_400 + 30
    assert subject.until >= NOW + 30 + 86_400 + 30


class Switch(MemoryRevocationStore):
    """A store that a test breaks, or makes hang."""

    def __init__(self) -> None:
        super().__init__()
        self.broken = False
        self.open = asyncio.Event()
        self.open.set()
        self.reads = 0

    async def add(self, revocation: Revocation, now: float) -> None:
        if self.broken:
            raise Unavailable("revocations cannot be stored")
        await super().add(revocation, now)

    async def read(self, after: object) -> Batch:
        self.reads += 1
        await self.open.wait()
        if self.broken:
            raise Unavailable("revocations cannot be read")
        return await super().read(after)


class Watched:
    """A feed over a switch, its poller asleep, and a verifier that goes by it."""

    def __init__(self) -> None:
        self.store = Switch()
        self.clock, self.monotonic = Clock(), Clock(0.0)
        self.feed = RevocationFeed(self.store, interval=60.0, clock=self.clock, monotonic=self.monotonic)
        self.refusals: list[Refusal] = []
        self.verifier = TokenVerifier(
            issuers(), self.feed, on_refusal=lambda told: self.refusals.append(told.reason), clock=self.clock
        )

    def later(self, seconds: float) -> None:
        self.monotonic.now += seconds


async def test_a_revocation_is_effective_here_at_once() -> None:
    watched = Watched()
    await watched.feed.start()
    token = craft()
    await watched.verifier.verify(token)
    await watched.feed.revoke(TokenRevoked.at(NOW, HS, "token-1"))
    with pytest.raises(Unauthenticated):
        await watched.verifier.verify(token)
    await watched.feed.stop()


async def test_one_that_cannot_be_kept_is_reported() -> None:
    watched = Watched()
    await watched.feed.start()
    watched.store.broken = True
    with pytest.raises(Unavailable):
        await watched.feed.revoke(TokenRevoked.at(NOW, HS, "token-1"))
    assert watched.feed.generation == 0
    await watched.feed.stop()


async def test_the_background_brings_what_others_revoked() -> None:
    store = MemoryRevocationStore()
    feed = RevocationFeed(store, interval=0.001)
    await feed.start()
    await store.add(TokenRevoked.at(NOW, HS, "token-1"), NOW)
    while not feed.covers(said()):
        await asyncio.sleep(0.001)
    await feed.stop()


async def test_the_background_survives_failures() -> None:
    store = Switch()
    feed = RevocationFeed(store, interval=0.001)
    await feed.start()
    store.broken = True
    failed_after = store.reads + 3
    while store.reads < failed_after:
        await asyncio.sleep(0.001)
    store.broken = False
    await store.add(TokenRevoked.at(NOW, HS, "token-1"), NOW)
    while not feed.covers(said()):
        await asyncio.sleep(0.001)
    await feed.stop()


async def test_a_server_does_not_start_without_its_revocations() -> None:
    watched = Watched()
    watched.store.broken = True
    with pytest.raises(Unavailable):
        await watched.feed.start()
    await watched.feed.stop()


async def test_five_seconds_without_a_read_lock_everybody_out() -> None:
    watched = Watched()
    await watched.feed.start()
    token = craft()
    watched.store.broken = True
    watched.later(5.0)
    await watched.verifier.verify(token)
    watched.later(60.0)
    with pytest.raises(Unauthenticated):
        await watched.verifier.verify(token)
    assert watched.refusals == [Refusal.REVOCATIONS_UNKNOWN]
    await watched.feed.stop()


async def test_a_call_after_a_pause_waits_for_a_read_and_sees_what_was_revoked_meanwhile() -> None:
    watched = Watched()
    await watched.feed.start()
    token = craft()
    await watched.verifier.verify(token)
    watched.later(3600.0)  # a poller that was stopped, with its process
    await watched.verifier.verify(token)
    await watched.store.add(TokenRevoked.at(NOW, HS, "token-1"), NOW)
    watched.later(3600.0)
    with pytest.raises(Unauthenticated):
        await watched.verifier.verify(token)
    assert watched.refusals == [Refusal.REVOKED]
    await watched.feed.stop()


async def test_calls_share_one_read_and_do_not_repeat_it_at_once() -> None:
    watched = Watched()
    await watched.feed.start()
    watched.store.broken = True
    watched.later(3600.0)
    reads = watched.store.reads
    outcomes = await asyncio.gather(*(watched.verifier.verify(craft()) for _ in range(20)), return_exceptions=True)
    assert all(isinstance(outcome, Unauthenticated) for outcome in outcomes)
    with pytest.raises(Unauthenticated):
        await watched.verifier.verify(craft())
    assert watched.store.reads == reads + 1
    await watched.feed.stop()


async def test_a_read_that_hangs_does_not_hold_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.security.revocation_feed._PATIENCE", 0.001)
    watched = Watched()
    await watched.feed.start()
    watched.store.open.clear()
    watched.later(3600.0)
    with pytest.raises(Unauthenticated):
        await watched.verifier.verify(craft())
    await watched.feed.stop()


async def test_a_read_is_as_old_as_its_beginning() -> None:
    watched = Watched()
    await watched.feed.start()
    watched.store.open.clear()
    watched.later(3600.0)
    call = asyncio.create_task(watched.verifier.verify(craft()))
    await asyncio.sleep(0)
    watched.later(6.0)
    watched.store.open.set()
    with pytest.raises(Unauthenticated):
        await call
    await watched.feed.stop()


async def test_old_revocations_are_forgotten_in_the_background() -> None:
    watched = Watched()
    await watched.feed.start()
    revoked = TokenRevoked.at(NOW, HS, "token-1")
    await watched.feed.revoke(revoked)
    watched.clock.now = revoked.until + 1
    watched.later(59.0)
    await watched.feed.catch_up()
    assert watched.feed.covers(said())
    watched.later(61.0)
    await watched.feed.catch_up()
    assert not watched.feed.covers(said())
    await watched.feed.stop()
