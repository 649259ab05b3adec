"""Keys that are fetched: when, how often at most, and for how long they serve when fetching fails."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from services.corpus.errors import FailedPrecondition, Unauthenticated
from services.security.claims import Issuer
from services.security.jwks import UNUSABLE, Fetched, KeyFetchError, RefreshingKeys, RefreshPolicy
from services.security.jwks_fetch import FileFetcher, HttpsFetcher
from services.security.keysets import Algorithm
from services.security.refusal import Refusal
from tests.support.token_forge import Clock, Gate, asymmetric, claims, craft, header, signed_by
from tests.unit.test_security_keysets import jwk

ISSUER = "https://idp.example"


def document(*names: str) -> bytes:
    return json.dumps({"keys": [jwk(Algorithm.ES256, kid=name) for name in names]}).encode()


class Publisher:
    """A fetcher whose answers, failures and pauses a test decides."""

    def __init__(self, *names: str) -> None:
        self.answer: bytes | Exception = document(*names)
        self.fetches = 0
        self.open = asyncio.Event()
        self.open.set()
        self.closed = False

    async def fetch(self, known: object) -> Fetched | None:
        self.fetches += 1
        await self.open.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return None if known == self.answer else Fetched(self.answer, self.answer)

    async def close(self) -> None:
        self.closed = True


def keys_from(publisher: Publisher, clock: Clock) -> RefreshingKeys:
    return RefreshingKeys(publisher, Algorithm.ES256, clock=clock)


async def test_before_the_first_fetch_there_are_no_keys_and_a_token_causes_it() -> None:
    publisher = Publisher("k1")
    keys = keys_from(publisher, Clock())
    assert (keys.find("k1"), keys.generation) == (None, UNUSABLE)
    assert await keys.look_again("k1") is not None
    assert (publisher.fetches, keys.generation) == (1, 1)


async def test_unknown_names_cause_one_fetch_in_thirty_seconds() -> None:
    publisher, clock = Publisher("k1"), Clock(1000.0)
    keys = keys_from(publisher, clock)
    for tenths in range(1000):
        clock.now = 1000.0 + tenths / 10
        assert await keys.look_again(f"made-up-{tenths}") is None
    assert publisher.fetches == 4  # at 0, 30, 60 and 90 seconds


async def test_failures_count_as_well() -> None:
    publisher, clock = Publisher(), Clock()
    publisher.answer = KeyFetchError("down")
    keys = keys_from(publisher, clock)
    for _ in range(10):
        assert await keys.look_again("k1") is None
    assert publisher.fetches == 1


async def test_all_callers_share_the_fetch_that_is_under_way() -> None:
    publisher = Publisher("k1")
    publisher.open.clear()
    keys = keys_from(publisher, Clock())
    callers = [asyncio.create_task(keys.look_again("k1")) for _ in range(50)]
    await asyncio.sleep(0)
    callers[0].cancel()
    await asyncio.sleep(0)
    publisher.open.set()
    found = await asyncio.gather(*callers, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert all(key is keys.find("k1") is not None for key in found[1:])
    assert publisher.fetches == 1


async def test_a_rotated_key_is_found_and_a_withdrawn_one_is_not() -> None:
    publisher, clock = Publisher("old"), Clock()
    keys = keys_from(publisher, clock)
    await keys.refresh()
    publisher.answer = document("new")
    clock.now += 30
    assert await keys.look_again("new") is not None
    assert keys.find("old") is None
    assert keys.generation == 2


async def test_the_same_keys_again_do_not_change_the_generation() -> None:
    publisher, clock = Publisher("k1", "k2"), Clock()
    keys = keys_from(publisher, clock)
    await keys.refresh()
    publisher.answer = document("k2", "k1")
    await keys.refresh()
    await keys.refresh()
    assert (publisher.fetches, keys.generation) == (3, 1)


@pytest.mark.parametrize("failure", [KeyFetchError("down"), b"<html>", RuntimeError("unforeseen")], ids=repr)
async def test_old_keys_serve_for_an_hour_and_not_longer(failure: bytes | Exception) -> None:
    publisher, clock = Publisher("k1"), Clock(0.0)
    keys = keys_from(publisher, clock)
    await keys.refresh()
    good, publisher.answer = publisher.answer, failure
    clock.now = 3600.0
    await keys.refresh()
    assert keys.find("k1") is not None
    clock.now = 3600.1
    assert (keys.find("k1"), keys.generation) == (None, UNUSABLE)
    assert await keys.look_again("k1") is None
    publisher.answer = good
    await keys.refresh()
    assert (keys.find("k1") is not None, keys.generation) == (True, 1)


async def test_a_set_without_usable_keys_is_the_truth() -> None:
    publisher = Publisher("k1")
    keys = keys_from(publisher, Clock())
    await keys.refresh()
    publisher.answer = b'{"keys": []}'
    await keys.refresh()
    assert (keys.find("k1"), keys.generation) == (None, 2)


async def test_the_background_fetches_every_five_minutes_and_sooner_after_a_failure() -> None:
    publisher, clock = Publisher("k1"), Clock(0.0)
    keys = keys_from(publisher, clock)
    assert keys.due_in() == 0
    await keys.refresh()
    clock.now = 100.0
    assert keys.due_in() == 200
    publisher.answer = KeyFetchError("down")
    clock.now = 300.0
    await keys.refresh()
    assert keys.due_in() == 30


async def test_the_background_keeps_keys_fresh_until_it_is_stopped() -> None:
    publisher = Publisher("old")
    keys = RefreshingKeys(publisher, Algorithm.ES256, RefreshPolicy(every=0.001))
    await keys.start()
    publisher.answer = KeyFetchError("down for a moment")
    seen = publisher.fetches
    while publisher.fetches == seen:
        await asyncio.sleep(0.001)
    publisher.answer = document("new")
    while keys.find("new") is None:
        await asyncio.sleep(0.001)
    publisher.open.clear()
    await keys.stop()
    assert publisher.closed


async def test_a_token_remembered_is_refused_when_its_key_is_withdrawn_or_too_old() -> None:
    publisher, clock = Publisher("k1"), Clock(0.0)
    keys = keys_from(publisher, clock)
    gate = Gate(Issuer(name=ISSUER, audiences=frozenset({"groundwire"}), algorithm=Algorithm.ES256, keys=keys))
    token = craft(header(alg="ES256", kid="k1"), claims(iss=ISSUER), signed_by(Algorithm.ES256))
    verified = await gate.verifier.verify(token)
    assert await gate.verifier.verify(token) is verified
    publisher.answer = document("k2")
    await keys.refresh()
    for _ in range(2):
        with pytest.raises(Unauthenticated):
            await gate.verifier.verify(token)
    publisher.answer = document("k1")
    await keys.refresh()
    await gate.verifier.verify(token)
    publisher.answer = KeyFetchError("down")
    clock.now = 3600.1
    with pytest.raises(Unauthenticated):
        await gate.verifier.verify(token)
    assert gate.refusals == [Refusal.KEY] * 3


async def test_an_expired_token_of_a_forgotten_key_causes_no_fetch() -> None:
    publisher = Publisher("k1")
    gate = Gate(
        Issuer(
            name=ISSUER,
            audiences=frozenset({"groundwire"}),
            algorithm=Algorithm.ES256,
            keys=keys_from(publisher, Clock()),
        )
    )
    gate.clock.now += 3600
    with pytest.raises(Unauthenticated):
        await gate.verifier.verify(asymmetric(Algorithm.ES256, iss=ISSUER))
    assert (publisher.fetches, gate.refusals) == (0, [Refusal.EXPIRED])


async def test_a_file_is_read_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    fetcher = FileFetcher(path)
    with pytest.raises(KeyFetchError) as caught:
        await fetcher.fetch(None)
    assert str(tmp_path) not in str(caught.value)
    path.write_bytes(document("k1"))
    first = await fetcher.fetch(None)
    assert first is not None
    assert await fetcher.fetch(first.version) is None
    # Replaced by one of the same size: only the inode and the time tell.
    replacement = tmp_path / "next.json"
    replacement.write_bytes(document("k2"))
    os.replace(replacement, path)  # noqa: PTH105 - what a deployment does
    second = await fetcher.fetch(first.version)
    assert second is not None
    assert second.document == document("k2")
    path.write_bytes(b" " * 300_000)
    with pytest.raises(KeyFetchError):
        await fetcher.fetch(second.version)
    await fetcher.close()


async def test_a_damaged_file_is_looked_at_again_until_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.write_bytes(document("k1")[:-1])
    clock = Clock()
    keys = RefreshingKeys(FileFetcher(path), Algorithm.ES256, clock=clock)
    await keys.refresh()
    await keys.refresh()
    assert keys.generation == UNUSABLE
    path.write_bytes(document("k1"))
    await keys.refresh()
    assert keys.find("k1") is not None
    await keys.stop()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "jwks.json",
        "http://idp.example/jwks",
        "http://10.0.0.1/jwks",
        "http://localhost.evil.example/jwks",
        "https://user:secret@idp.example/jwks",
        "https://idp.example/jwks#fragment",
        "file:///etc/passwd",
        "ftp://127.0.0.1/jwks",
        "https://",
    ],
)
def test_keys_come_over_https_or_from_this_machine(url: str) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        HttpsFetcher(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["https://idp.example/jwks", "http://127.0.0.1:1/jwks", "http://[::1]/", "http://localhost/"]
)
async def test_good_addresses_are_accepted(url: str) -> None:
    await HttpsFetcher(url).close()
