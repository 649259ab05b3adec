"""Keyed hashes of lexical terms and queries, so that an index or a cache holds no words.

A term becomes the first 96 bits of its HMAC-SHA256 under a key of the tenant, as 16 characters of URL-safe base64.
The same term always gives the same hash within a tenant, so BM25 works unchanged; two tenants' hashes have nothing
in common. Among ten million different terms of a tenant, the probability that any two share a hash is below
n²/2⁹⁷ ≈ 10⁻¹⁵, and a collision would merely let a chunk be found by one word too many.

Whoever holds the index without the key still sees which chunks share a term, and how often: see the documentation.
"""

from __future__ import annotations

import base64
import hmac
import secrets
from collections.abc import Callable, Iterable
from functools import lru_cache
from weakref import WeakKeyDictionary

from services.security.keyring import Keyring
from services.security.tenant_keys import TenantKeys

_TERM_BYTES = 12
_QUERY_BYTES = 24
_TERMS = "lexical-terms/v1"
_QUERIES = "query-hashes/v1"
_AUDITED = "audited-queries/v1"
SALT_BYTES = 16


class KeyedTerms:
    """Hashes terms and queries per tenant. Safe to use from several threads."""

    def __init__(self, keyring: Keyring, *, cached_terms: int = 65_536) -> None:
        """``cached_terms`` bounds how many terms' hashes are remembered per tenant and root key."""
        self._keyring = keyring
        self._cached_terms = cached_terms
        # Remembered words go when the keyring lets go of their tenant's keys.
        self._hashers: WeakKeyDictionary[TenantKeys, dict[int, Callable[[str], str]]] = WeakKeyDictionary()

    def hash(self, tenant: str, terms: Iterable[str], *, root: int | None = None) -> list[str]:
        """The hash of each term, in order and as often as it comes.

        ``root`` is the number of a root key, None for the one in use; an index must be asked with the one that it
        was built with. KeyError if there is none of that number. May block and raise as ``Keyring.for_tenant`` does.
        """
        return self._hash(self._keyring.for_tenant(tenant), terms, root)

    async def hash_query(self, tenant: str, terms: Iterable[str], *, root: int | None = None) -> list[str]:
        """:meth:`hash` for the few terms of a query, on an event loop: fresh keys are fetched in a thread."""
        return self._hash(await self._keyring.load(tenant), terms, root)

    async def query_digest(self, tenant: str, query: str) -> str:
        """A name for ``query`` in logs and caches, 32 characters; it cannot be computed, or guessed, without the key."""
        key = (await self._keyring.load(tenant)).derive(_QUERIES)
        return _encode(hmac.digest(key, query.encode("utf-8", "surrogatepass"), "sha256")[:_QUERY_BYTES])

    async def query_hmac(self, tenant: str, query: str) -> bytes:
        """What the audit log keeps of ``query``: :func:`salted_hmac` under a key of the tenant's that serves nothing else."""
        key = (await self._keyring.load(tenant)).derive(_AUDITED)
        return salted_hmac(key, query.encode("utf-8", "surrogatepass"), secrets.token_bytes(SALT_BYTES))

    def _hash(self, keys: TenantKeys, terms: Iterable[str], root: int | None) -> list[str]:
        number = keys.roots[0] if root is None else root
        hashers = self._hashers.setdefault(keys, {})
        hasher = hashers.get(number)
        if hasher is None:
            hasher = hashers[number] = lru_cache(self._cached_terms)(_hasher(keys.derive(_TERMS, root=number)))
        return [hasher(term) for term in terms]


def salted_hmac(key: bytes, message: bytes, salt: bytes) -> bytes:
    """``salt`` (16 random bytes) and the first 16 bytes of HMAC-SHA256 of the salt and ``message``; 32 bytes.

    Two of the same message differ, so who lets one be made of a guess cannot compare it with another: that takes the key.
    """
    return salt + hmac.digest(key, salt + message, "sha256")[:16]


def _hasher(key: bytes) -> Callable[[str], str]:
    keyed = hmac.new(key, digestmod="sha256")

    def hash_term(term: str) -> str:
        # Copying the keyed state saves hashing the key again for each term.
        state = keyed.copy()
        state.update(term.encode("utf-8", "surrogatepass"))
        return _encode(state.digest()[:_TERM_BYTES])

    return hash_term


def _encode(digest: bytes) -> str:
    return base64.urlsafe_b64encode(digest).decode()
