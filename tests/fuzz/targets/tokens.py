"""Tokens, properly signed over whatever they say: a caller or a refusal, never an unforeseen error; names come back."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

from services.corpus.errors import FailedPrecondition, InvalidField, Unauthenticated
from services.corpus.principal import is_name, is_principal, parse_principal, principal
from services.security.claim_paths import find, parse_claim_path
from services.security.claims import ClaimNames, Issuer
from services.security.keysets import Algorithm, MalformedKeySetError, StaticKeys, parse_jwks, shared_secret
from services.security.mesh_identity import SpiffeId
from services.security.mesh_tokens import mesh_issuer
from services.security.refusal import Explanation, Refusal
from services.security.tokens import TokenVerifier
from tests.fuzz.source import Source
from tests.support.token_forge import (
    AUDIENCE,
    HS,
    MESH_SECRET,
    SECRET,
    Clock,
    KnownRevocations,
    b64,
    claims,
    craft,
    header,
    hs256,
)

_LOOSE = "https://loose.example"
_LOOP = asyncio.new_event_loop()


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


_RSA = {
    "kty": "RSA",
    "use": "sig",
    "alg": "RS256",
    "kid": "r1",
    "e": "AQAB",
    "n": b64((2**2047 + 12345).to_bytes(256, "big")),
}
_ED = {"kty": "OKP", "crv": "Ed25519", "use": "sig", "kid": "e1", "x": b64(bytes(range(32)))}
_P256 = {
    "kty": "EC",
    "crv": "P-256",
    "kid": "p1",
    "x": "axfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpY",
    "y": "T-NC4v4af5uO5-tKfA-eFivOM1drMV7Oy7ZAaDe_UfU",
}
SEEDS = (
    _json(header()) + b"\xff" + _json(claims()) + b"\xff/realm_access/roles\xffalice\xffBearer x\x00",
    _json(header()) + b"\xff" + _json(claims(groups=["hr", "a:b", "\0"], roles=["reader", "x y"])) + b"\xffgroups\xffgroup:hr\xffbearer  x\x00",
    _json(header(typ="JWT")) + b"\xff" + _json(claims(iss=_LOOSE, a={"g": ["x", 1], "r": "reader admin"}, aud=[AUDIENCE], scope="a b")) + b"\xff/a~1b/0\xff%41\x00",
    _json(header(kid=...)) + b"\xff" + _json(claims(iss="groundwire-mesh", aud="groundwire-mesh", act={"sub": "query", "act": {"sub": "spiffe://a/b"}}, origin={"iss": HS, "jti": "", "iat": 1, "exp": 2})) + b"\xffx\xffspiffe://example.com/a\xff\x01",
    _json({"keys": [_RSA, _ED, _P256]}) + b"\xff\xff\xff\x00",
)  # fmt: skip


def _issuer(name: str, **how: Any) -> Issuer:
    keys = StaticKeys([shared_secret(SECRET, "h1")])
    return Issuer(name=name, audiences=frozenset({AUDIENCE}), algorithm=Algorithm.HS256, keys=keys, **how)


_ISSUERS = (
    _issuer(HS),
    _issuer(
        _LOOSE,
        token_types=frozenset({"JWT"}),
        claims=ClaimNames(groups=("/a/g", "groups"), roles=("/a/r",), scopes=("scope",)),
        role_names={"reader": ("reader",), "a": ("admin", "reader")},
    ),
    mesh_issuer([MESH_SECRET]),
)


def around(run: bytes) -> list[bytes]:
    """Inputs with a long run in them."""
    return [
        b"\xff".join(
            (b'{"alg":"HS256"}', b'{"sub":"' + run[:3000] + b'"}', run[:3000], run[:3000], b"Bearer " + run[:3000])
        )
        + b"\xff\x00"
    ]


def fuzz(data: bytes) -> None:
    """See the module."""
    source = Source(data)
    secret = MESH_SECRET if source.flag() else SECRET
    head, body, path, name, value = source.part(), source.part(), source.text(), source.text(), source.text()
    token = craft(head, body, hs256(secret))
    for values in ([f"Bearer {token}"], [value], [f"Bearer {b64(head)}.{b64(body)}."], [f"bearer {name}", value]):
        _verify(values)
    for algorithm in (Algorithm.RS256, Algorithm.ES256, Algorithm.EDDSA):
        with contextlib.suppress(MalformedKeySetError):
            parse_jwks(head, algorithm)
    _check_path(path, body)
    _check_names(name)


def _verify(values: list[str]) -> None:
    refusals: list[Explanation] = []
    verifier = TokenVerifier(_ISSUERS, KnownRevocations(), on_refusal=refusals.append, clock=Clock())
    try:
        verified = _LOOP.run_until_complete(verifier.authenticate(values))
    except Unauthenticated as refused:
        assert refused.__cause__ is None
        assert refused.__context__ is None
        assert [refusal.reason for refusal in refusals] != [Refusal.UNEXPECTED]
        return
    caller = verified.caller
    assert caller.tenant
    assert all(map(is_principal, caller.principals))
    assert verifier.remembered(values) == verified


def _check_path(path: str, body: bytes) -> None:
    try:
        parsed = parse_claim_path(path)
    except InvalidField:
        return
    with contextlib.suppress(ValueError, RecursionError, AttributeError):
        find(json.loads(body), parsed)
    with contextlib.suppress(FailedPrecondition):
        ClaimNames(groups=(path,))


def _check_names(name: str) -> None:
    for kind in ("user", "group"):
        if is_name(kind, name):
            made = principal(kind, name)
            assert is_principal(made)
            assert parse_principal(made) == made
    try:
        assert parse_principal(name) == name
    except InvalidField:
        assert not is_principal(name)
    with contextlib.suppress(InvalidField):
        assert str(SpiffeId.parse(name)) == name
