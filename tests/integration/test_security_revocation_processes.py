"""A revocation by one process is effective in another."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from services.corpus.errors import Unauthenticated
from services.security.refusal import Refusal
from services.security.revocation_feed import RevocationFeed
from services.security.revocation_sqlite import SqliteRevocationStore
from services.security.tokens import TokenVerifier
from tests.support.token_forge import Clock, claims, craft, issuers

REVOKE = """
import asyncio, sys
from pathlib import Path
from services.security.revocation import SubjectRevoked, TokenRevoked
from services.security.revocation_sqlite import SqliteRevocationStore

async def main(path, now):
    store = SqliteRevocationStore(Path(path))
    await store.add(TokenRevoked.at(now, "https://hs.example", "token-1"), now)
    await store.add(SubjectRevoked.at(now, "acme", "bob"), now)

asyncio.run(main(sys.argv[1], float(sys.argv[2])))
"""


async def test_what_another_process_revokes_is_void_here(tmp_path: Path, repository: Path) -> None:
    path = tmp_path / "revocations.sqlite3"
    feed, clock = RevocationFeed(SqliteRevocationStore(path)), Clock()
    refusals: list[Refusal] = []
    verifier = TokenVerifier(issuers(), feed, on_refusal=lambda told: refusals.append(told.reason), clock=clock)
    await feed.start()
    revoked, of_bob, good = craft(), craft(body=claims(jti="b", sub="bob")), craft(body=claims(jti="c", sub="carol"))
    for token in (revoked, of_bob, good):
        await verifier.verify(token)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", REVOKE, str(path), str(clock.now), cwd=repository
    )
    assert await process.wait() == 0
    # The poller may see them one by one.
    while len(feed._known) < 2:
        await asyncio.sleep(0.01)
    for token in (revoked, of_bob):
        with pytest.raises(Unauthenticated):
            await verifier.verify(token)
    assert refusals == [Refusal.REVOKED] * 2
    await verifier.verify(good)
    await feed.stop()
