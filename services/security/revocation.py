"""Which tokens are void before they expire: a pure state, and the port of the store that all processes share.

A token is void if it, or the credential that it was derived from, was revoked by its id; or if its subject was, at or
after the moment when that credential was issued.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, Self, TypeAlias

from services.security.claims import LONGEST_LIFETIME, MAX_LEEWAY, Claims


@dataclass(frozen=True, slots=True)
class TokenRevoked:
    """One token is void. ``until`` (Unix seconds) is when it would have expired anyway, and this may be forgotten."""

    issuer: str
    token_id: str
    until: int

    @classmethod
    def at(cls, now: float, issuer: str, token_id: str) -> Self:
        """Revoke a token whose expiry is not known: no token outlives ``LONGEST_LIFETIME``."""
        return cls(issuer, token_id, math.ceil(now) + LONGEST_LIFETIME + 2 * MAX_LEEWAY)


@dataclass(frozen=True, slots=True)
class SubjectRevoked:
    """Every token of a subject that was issued before ``epoch`` (Unix seconds) is void."""

    tenant: str
    subject: str
    epoch: int
    until: int

    @classmethod
    def at(cls, now: float, tenant: str, subject: str, *, skew: int = MAX_LEEWAY) -> Self:
        """Revoke everything issued up to ``now`` on a clock that may be ``skew`` seconds ahead of ours.

        New tokens of the subject are accepted again ``skew`` + 1 seconds later: ``iat`` has whole seconds, and a token
        of the same second cannot be told from one that was issued before.
        """
        epoch = math.floor(now) + 1 + skew
        return cls(tenant, subject, epoch, epoch + LONGEST_LIFETIME + MAX_LEEWAY)


Revocation: TypeAlias = TokenRevoked | SubjectRevoked


class Revocations:
    """What is revoked, as far as this process knows. Nothing is ever taken back, only forgotten when it is over.

    ``generation`` grows with every change: whoever remembers that a token was good, and at which generation, need
    not look again while it is the same.
    """

    def __init__(self) -> None:
        self.generation = 0
        self._tokens: dict[tuple[str, str], int] = {}
        self._subjects: dict[tuple[str, str], tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self._tokens) + len(self._subjects)

    def apply(self, revocations: Iterable[Revocation]) -> None:
        """Take note of ``revocations``; those that say nothing new change nothing."""
        changed = [self._note(revocation) for revocation in revocations]
        if any(changed):
            self.generation += 1

    def covers(self, claims: Claims) -> bool:
        """Whether the token that says ``claims`` is void."""
        origin = claims.origin
        if not self._tokens and not self._subjects:
            return False
        if (origin.issuer, origin.token_id) in self._tokens or (claims.issuer, claims.token_id) in self._tokens:
            return True
        epoch, _ = self._subjects.get((claims.tenant, claims.subject), (0, 0))
        return origin.issued_at < epoch

    def prune(self, now: float) -> None:
        """Forget what only concerns tokens that have expired by ``now``."""
        self._tokens = {key: until for key, until in self._tokens.items() if until >= now}
        self._subjects = {key: entry for key, entry in self._subjects.items() if entry[1] >= now}

    def _note(self, revocation: Revocation) -> bool:
        if isinstance(revocation, TokenRevoked):
            token = (revocation.issuer, revocation.token_id)
            known_until = self._tokens.get(token, -1)
            self._tokens[token] = max(known_until, revocation.until)
            return known_until < revocation.until
        subject = (revocation.tenant, revocation.subject)
        known = self._subjects.get(subject, (-1, -1))
        self._subjects[subject] = (max(known[0], revocation.epoch), max(known[1], revocation.until))
        return self._subjects[subject] != known


@dataclass(frozen=True, slots=True)
class Batch:
    """What a store holds beyond an earlier read. ``cursor`` is opaque: it goes into the next read as it is."""

    revocations: Sequence[Revocation]
    cursor: object


class RevocationStore(Protocol):
    """Where revocations are kept for all processes."""

    async def add(self, revocation: Revocation, now: float) -> None:
        """Keep a revocation; returns once it is durable. What expired before ``now`` (Unix seconds) may be dropped.

        Raises Unavailable if it cannot be kept.
        """

    async def read(self, after: object) -> Batch:
        """Everything added since the read that returned the cursor ``after``; everything there is after None.

        May repeat what was read before. Raises Unavailable if the store cannot be read.
        """

    async def close(self) -> None:
        """Release what is held."""


class MemoryRevocationStore:
    """A :class:`RevocationStore` in a list, for one process and for tests."""

    def __init__(self) -> None:
        self._added: list[Revocation] = []

    async def add(self, revocation: Revocation, now: float) -> None:
        """Append."""
        del now
        self._added.append(revocation)

    async def read(self, after: object) -> Batch:
        """The rest of the list."""
        seen = after if isinstance(after, int) else 0
        return Batch(self._added[seen:], len(self._added))

    async def close(self) -> None:
        """Nothing is held."""
