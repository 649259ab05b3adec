"""Keys that verify signatures: their algorithms, their minimum strength, and sets of them.

An issuer has exactly one algorithm (RFC 8725 §3.1), and a key belongs to exactly one: the algorithm that a token
names only ever has to equal it and never chooses how a key is used.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from services.corpus.errors import FailedPrecondition
from services.security.compact import parse_object
from services.security.refusal import Refused

MIN_SECRET = 32
"""Bytes of the shortest HS256 secret (RFC 7518 §3.2)."""
MIN_RSA_BITS = 2048
# A verification takes time that grows with the square of the modulus.
MAX_RSA_BITS = 8192
MAX_KEYS = 64


class Algorithm(StrEnum):
    """The algorithms that an issuer may sign with (RFC 7518, RFC 8037; EdDSA means Ed25519)."""

    HS256 = "HS256"
    RS256 = "RS256"
    PS256 = "PS256"
    ES256 = "ES256"
    EDDSA = "EdDSA"


_ENGINES = {algorithm: jwt.PyJWS().get_algorithm_by_name(algorithm.value) for algorithm in Algorithm}
_KEY_TYPES = {Algorithm.RS256: "RSA", Algorithm.PS256: "RSA", Algorithm.ES256: "EC", Algorithm.EDDSA: "OKP"}
# Members of a JWK that make it private or symmetric (RFC 7518 §6): such a key is known to too many to trust.
_SECRET_MEMBERS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A key bound to its algorithm. ``key_id`` is empty for a key that has no name."""

    key_id: str
    algorithm: Algorithm
    material: Any = field(repr=False)

    def verifies(self, signing_input: bytes, signature: bytes) -> bool:
        """Whether ``signature`` over ``signing_input`` was made with this key's private half (or secret)."""
        return bool(_ENGINES[self.algorithm].verify(signing_input, self.material, signature))


class KeySource(Protocol):
    """Where an issuer's keys come from."""

    @property
    def generation(self) -> int:
        """A number that changes whenever the keys change or become unusable: earlier verifications are then void."""

    def find(self, key_id: str | None) -> VerificationKey | None:
        """The key of that name; without a name, the only key there is; None if there is no such key."""

    async def look_again(self, key_id: str | None) -> VerificationKey | None:
        """Like :meth:`find`, after fetching newer keys if that is possible and allowed now."""


class StaticKeys:
    """A :class:`KeySource` that never changes, such as shared secrets (the present one and those before it)."""

    def __init__(self, keys: Iterable[VerificationKey]) -> None:
        """FailedPrecondition if there is no key, or two have one name."""
        listed = list(keys)
        self._keys = {key.key_id: key for key in listed}
        if not listed or len(self._keys) != len(listed):
            raise FailedPrecondition("an issuer needs at least one key, each with a name of its own")

    @property
    def generation(self) -> int:
        """Always 0."""
        return 0

    def find(self, key_id: str | None) -> VerificationKey | None:
        """The key of that name; without a name, the only key there is."""
        return select(self._keys, key_id)

    async def look_again(self, key_id: str | None) -> VerificationKey | None:
        """There is nothing newer."""
        return self.find(key_id)


def select(keys: Mapping[str, VerificationKey], key_id: str | None) -> VerificationKey | None:
    """The key that a token's ``kid`` names. A token without one is only unambiguous while there is one key."""
    if key_id is None:
        return next(iter(keys.values())) if len(keys) == 1 else None
    return keys.get(key_id)


def shared_secret(secret: bytes, key_id: str | None = None) -> VerificationKey:
    """An HS256 key; FailedPrecondition if it is shorter than 32 bytes, or is a public key or certificate.

    Without ``key_id`` the name is derived from the secret, so that both sides find it without being told.
    """
    if len(secret) < MIN_SECRET:
        raise FailedPrecondition(f"a signing secret needs at least {MIN_SECRET} random bytes")
    try:
        material = _ENGINES[Algorithm.HS256].prepare_key(secret)
    except jwt.InvalidKeyError:
        material = None
    if material is None:
        raise FailedPrecondition("a public key or certificate is no signing secret")
    return VerificationKey(secret_key_id(secret) if key_id is None else key_id, Algorithm.HS256, material)


def secret_key_id(secret: bytes) -> str:
    """A name for a secret that tells nothing about it: 16 hexadecimal digits."""
    return hmac.new(secret, b"groundwire key id", hashlib.sha256).hexdigest()[:16]


def public_key(key: Any, algorithm: Algorithm, key_id: str = "") -> VerificationKey:
    """A public key object of ``cryptography``; FailedPrecondition if it does not suit ``algorithm`` or is weak."""
    if not _suits(key, algorithm):
        raise FailedPrecondition(f"the key does not suit {algorithm.value}, or is too small for it")
    return VerificationKey(key_id, algorithm, key)


@dataclass(frozen=True, slots=True)
class ParsedKeySet:
    """The usable keys of a JWK Set, by name, and how many others it held."""

    keys: Mapping[str, VerificationKey]
    ignored: int


class MalformedKeySetError(Exception):
    """A document is not a JWK Set, or is ambiguous; the message has no part of it."""


def parse_jwks(document: bytes, algorithm: Algorithm) -> ParsedKeySet:
    """Read a JWK Set (RFC 7517) for an issuer that signs with ``algorithm``.

    Only public keys with ``use: sig``, the algorithm's key type, no other ``alg`` and enough strength count; others
    are ignored, because a set may serve other purposes too. MalformedKeySetError if the document is not a set, holds
    more than 64 keys, or two usable keys share a name.
    """
    if algorithm not in _KEY_TYPES:
        raise FailedPrecondition(f"{algorithm.value} has no public keys: it cannot use a JWK Set")
    try:
        listed = parse_object(document).get("keys")
    except Refused:
        listed = None
    if not isinstance(listed, list) or len(listed) > MAX_KEYS:
        raise MalformedKeySetError("not a JWK Set of a reasonable size")
    keys: dict[str, VerificationKey] = {}
    for entry in listed:
        key = _from_jwk(entry, algorithm)
        if key is None:
            continue
        if key.key_id in keys:
            raise MalformedKeySetError("two keys share a name")
        keys[key.key_id] = key
    return ParsedKeySet(keys, ignored=len(listed) - len(keys))


def _from_jwk(entry: object, algorithm: Algorithm) -> VerificationKey | None:
    if not isinstance(entry, dict) or not _SECRET_MEMBERS.isdisjoint(entry):
        return None
    if entry.get("use") != "sig" or entry.get("kty") != _KEY_TYPES[algorithm]:
        return None
    operations, key_id = entry.get("key_ops", ["verify"]), entry.get("kid", "")
    if entry.get("alg", algorithm.value) != algorithm.value or not isinstance(key_id, str):
        return None
    if not isinstance(operations, list) or "verify" not in operations:
        return None
    try:
        material = _ENGINES[algorithm].from_jwk(entry)
    except (jwt.InvalidKeyError, UnsupportedAlgorithm, ValueError, TypeError, KeyError, AttributeError):
        # What the libraries raise on members that are missing, of another type, or no point of the curve.
        return None
    return VerificationKey(key_id, algorithm, material) if _suits(material, algorithm) else None


def _suits(key: object, algorithm: Algorithm) -> bool:
    match algorithm:
        case Algorithm.RS256 | Algorithm.PS256:
            return isinstance(key, RSAPublicKey) and MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS
        case Algorithm.ES256:
            return isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1)
        case Algorithm.EDDSA:
            return isinstance(key, Ed25519PublicKey)
        case Algorithm.HS256:
            return False
