"""Which keys count: their algorithms, strength and names, and what a JWK Set may hold."""

from __future__ import annotations

import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from services.corpus.errors import FailedPrecondition
from services.security.keysets import (
    Algorithm,
    MalformedKeySetError,
    StaticKeys,
    parse_jwks,
    public_key,
    secret_key_id,
    select,
    shared_secret,
)
from tests.support.token_forge import SECRET, private_key, signed_by

ASYMMETRIC = [Algorithm.RS256, Algorithm.PS256, Algorithm.ES256, Algorithm.EDDSA]
ENGINES: dict[str, Any] = {
    name: jwt.PyJWS().get_algorithm_by_name(name) for name in ("RS256", "PS256", "ES256", "EdDSA")
}


def jwk(algorithm: Algorithm, key: Any = None, **changes: Any) -> dict[str, Any]:
    """The public JWK of a test key, some members changed; ``...`` leaves one out."""
    material = private_key(algorithm).public_key() if key is None else key
    members = ENGINES[algorithm.value].to_jwk(material, as_dict=True)
    members.pop("key_ops", None)
    members |= {"use": "sig", "kid": "k1", "alg": algorithm.value, **changes}
    return {name: value for name, value in members.items() if value is not ...}


def keys_of(algorithm: Algorithm, *entries: Any) -> list[str]:
    return sorted(parse_jwks(json.dumps({"keys": entries}).encode(), algorithm).keys)


@pytest.mark.parametrize("algorithm", ASYMMETRIC)
def test_a_published_key_verifies_what_its_private_half_signed(algorithm: Algorithm) -> None:
    parsed = parse_jwks(json.dumps({"keys": [jwk(algorithm), jwk(Algorithm.RS256, use="enc")]}).encode(), algorithm)
    key = parsed.keys["k1"]
    signature = signed_by(algorithm)(b"message")
    assert key.verifies(b"message", signature)
    assert not key.verifies(b"another", signature)
    assert not key.verifies(b"message", signature[:-1])
    assert parsed.ignored == 1


@pytest.mark.parametrize("algorithm", ASYMMETRIC)
@pytest.mark.parametrize(
    "changes",
    [
        {"use": "enc"},
        {"use": ...},
        {"use": ["sig"]},
        {"alg": "HS256"},
        {"alg": "none"},
        {"alg": "RS512"},
        {"alg": "PS384"},
        {"kty": "oct"},
        {"kty": ...},
        {"kid": 7},
        {"key_ops": ["sign"]},
        {"key_ops": "verify"},
        {"d": "AAAA"},
        {"k": "AAAA"},
        {"n": ..., "x": ...},
        {"n": 5, "x": 5},
        {"n": "!", "x": "!"},
        {"n": "", "x": ""},
    ],
)
def test_keys_for_something_else_or_malformed_ones_are_ignored(algorithm: Algorithm, changes: dict[str, Any]) -> None:
    assert keys_of(algorithm, jwk(algorithm, **changes), jwk(algorithm, kid="good")) == ["good"]


def test_weak_keys_and_other_curves_are_ignored() -> None:
    small = rsa.generate_private_key(65537, 1024).public_key()
    p384 = ec.generate_private_key(ec.SECP384R1()).public_key()
    other = ed448.Ed448PrivateKey.generate().public_key()
    assert keys_of(Algorithm.RS256, jwk(Algorithm.RS256, small)) == []
    assert keys_of(Algorithm.ES256, jwk(Algorithm.ES256, p384)) == []
    assert keys_of(Algorithm.EDDSA, jwk(Algorithm.EDDSA, other)) == []
    huge = jwk(Algorithm.RS256, n="AQ" + "A" * 2000)
    assert keys_of(Algorithm.RS256, huge) == []
    off_the_curve = jwk(Algorithm.ES256, x=jwk(Algorithm.ES256)["y"])
    assert keys_of(Algorithm.ES256, off_the_curve) == []


def test_a_private_key_in_a_set_is_ignored() -> None:
    private = ENGINES["RS256"].to_jwk(private_key(Algorithm.RS256), as_dict=True)
    assert keys_of(Algorithm.RS256, {**private, "use": "sig", "key_ops": ["verify"], "kid": "k1"}) == []
    secret = {"kty": "oct", "k": "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE", "use": "sig", "kid": "k1"}
    assert keys_of(Algorithm.RS256, secret) == []


@pytest.mark.parametrize("entry", [None, 7, "key", [], {}])
def test_entries_that_are_no_keys_are_ignored(entry: object) -> None:
    assert keys_of(Algorithm.RS256, entry, jwk(Algorithm.RS256)) == ["k1"]


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"[]",
        b"{}",
        b'{"keys": {}}',
        b'{"keys": [], "keys": []}',
        b"\xff",
        b"<html>",
        json.dumps({"keys": [{}] * 65}).encode(),
    ],
)
def test_what_is_no_key_set_is_refused(document: bytes) -> None:
    with pytest.raises(MalformedKeySetError):
        parse_jwks(document, Algorithm.ES256)


def test_a_name_that_stands_twice_makes_a_set_ambiguous() -> None:
    with pytest.raises(MalformedKeySetError):
        keys_of(Algorithm.ES256, jwk(Algorithm.ES256), jwk(Algorithm.ES256))
    assert keys_of(Algorithm.ES256, jwk(Algorithm.ES256), jwk(Algorithm.ES256, use="enc")) == ["k1"]


def test_symmetric_keys_are_never_published() -> None:
    with pytest.raises(FailedPrecondition):
        parse_jwks(b'{"keys": []}', Algorithm.HS256)


def test_a_token_without_key_name_needs_a_set_of_one() -> None:
    one, two = shared_secret(SECRET, "one"), shared_secret(SECRET[::-1], "two")
    assert select({"one": one}, None) is one
    assert select({"one": one, "two": two}, None) is None
    assert select({}, None) is None
    assert StaticKeys([one, two]).find("two") is two
    for keys in ([], [one, one]):
        with pytest.raises(FailedPrecondition):
            StaticKeys(keys)


def test_weak_secrets_are_refused_without_being_shown() -> None:
    pem = private_key(Algorithm.RS256).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for secret in (b"", b"short-secret", SECRET[:31], pem):
        with pytest.raises(FailedPrecondition) as caught:
            shared_secret(secret)
        assert caught.value.__context__ is None
        assert not secret or secret.decode() not in str(caught.value)
    assert SECRET.decode() not in repr(shared_secret(SECRET))


def test_a_secret_names_itself_without_telling_what_it_is() -> None:
    name = secret_key_id(SECRET)
    assert len(name) == 16
    assert shared_secret(SECRET).key_id == name != secret_key_id(SECRET[::-1])


def test_public_keys_must_suit_their_algorithm() -> None:
    for algorithm in ASYMMETRIC:
        assert public_key(private_key(algorithm).public_key(), algorithm).key_id == ""
        # An RSA key without `alg` serves both; one issuer has one of them.
        both = {Algorithm.RS256, Algorithm.PS256}
        for other in set(Algorithm) - (both if algorithm in both else {algorithm}):
            with pytest.raises(FailedPrecondition):
                public_key(private_key(algorithm).public_key(), other)
        with pytest.raises(FailedPrecondition):
            public_key(private_key(algorithm), algorithm)
