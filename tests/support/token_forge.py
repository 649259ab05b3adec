"""Makes tokens, good and bad, and a verifier that must tell them apart. Times stand still unless a test moves them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from services.security.claims import Claims, Issuer
from services.security.keysets import Algorithm, StaticKeys, public_key, shared_secret
from services.security.mesh_tokens import mesh_issuer
from services.security.refusal import Refusal
from services.security.revocation import Revocation, Revocations
from services.security.tokens import TokenVerifier

NOW = 1_800_000_000
SECRET = b"0123456789abcdef0123456789abcdef"
MESH_SECRET = b"fedcba9876543210fedcba9876543210"
HS, RS, ES, ED = "https://hs.example", "https://rs.example", "https://es.example", "https://ed.example"
PS = "https://ps.example"
AUDIENCE = "groundwire"
Sign = Callable[[bytes], bytes]


class Clock:
    """A clock that a test sets."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        """The time, in seconds."""
        return self.now


@cache
def private_key(algorithm: Algorithm) -> Any:
    """The private key of the issuer that signs with ``algorithm``; the same all through a run."""
    match algorithm:
        case Algorithm.RS256 | Algorithm.PS256:
            return rsa.generate_private_key(65537, 2048)
        case Algorithm.ES256:
            return ec.generate_private_key(ec.SECP256R1())
        case Algorithm.EDDSA:
            return ed25519.Ed25519PrivateKey.generate()
        case Algorithm.HS256:
            return SECRET


def issuers() -> list[Issuer]:
    """One issuer for each algorithm, and the mesh."""
    public = {RS: Algorithm.RS256, PS: Algorithm.PS256, ES: Algorithm.ES256, ED: Algorithm.EDDSA}
    return [
        Issuer(
            name=HS,
            audiences=frozenset({AUDIENCE}),
            algorithm=Algorithm.HS256,
            keys=StaticKeys([shared_secret(SECRET, "h1")]),
        ),
        *(
            Issuer(
                name=name,
                audiences=frozenset({AUDIENCE, "other-api"}),
                algorithm=algorithm,
                keys=StaticKeys([public_key(private_key(algorithm).public_key(), algorithm, "k1")]),
                tenants=frozenset({"acme", "globex"}),
            )
            for name, algorithm in public.items()
        ),
        mesh_issuer([MESH_SECRET]),
    ]


class KnownRevocations:
    """Revocations that a test applies by hand, and may declare too old."""

    def __init__(self) -> None:
        self.state = Revocations()
        self.current = True
        self.catches_up = False

    @property
    def generation(self) -> int:
        """Of the state."""
        return self.state.generation

    def covers(self, claims: Claims) -> bool:
        """By the state."""
        return self.state.covers(claims)

    def is_current(self) -> bool:
        """As the test says."""
        return self.current

    async def catch_up(self) -> None:
        """Becomes current if the test allows it."""
        self.current = self.current or self.catches_up

    def apply(self, *revocations: Revocation) -> None:
        """Make them known."""
        self.state.apply(revocations)


class Gate:
    """A verifier with everything that a test wants to see or set."""

    def __init__(self, *extra: Issuer, cache_size: int = 100) -> None:
        self.clock = Clock()
        self.revocations = KnownRevocations()
        self.refusals: list[Refusal] = []
        self.verifier = TokenVerifier(
            [*issuers(), *extra],
            self.revocations,
            on_refusal=lambda told: self.refusals.append(told.reason),
            clock=self.clock,
            cache_size=cache_size,
        )


def claims(**changes: Any) -> dict[str, Any]:
    """A good token's claims with some changed; ``...`` leaves one out."""
    good: dict[str, Any] = {
        "iss": HS,
        "aud": AUDIENCE,
        "sub": "alice",
        "tenant": "acme",
        "groups": ["hr"],
        "roles": ["reader"],
        "iat": NOW - 60,
        "exp": NOW + 600,
        "jti": "token-1",
    }
    return {name: value for name, value in {**good, **changes}.items() if value is not ...}


def header(**changes: Any) -> dict[str, Any]:
    """A good token's header with some parameters changed; ``...`` leaves one out."""
    good = {"alg": "HS256", "typ": "at+jwt", "kid": "h1"}
    return {name: value for name, value in {**good, **changes}.items() if value is not ...}


def hs256(secret: bytes = SECRET) -> Sign:
    """Signs with an HMAC, whatever the secret is."""
    return lambda message: hmac.new(secret, message, hashlib.sha256).digest()


def signed_by(algorithm: Algorithm, key: Any = None) -> Sign:
    """Signs as the issuer with ``algorithm`` does, or with another key."""
    material = private_key(algorithm) if key is None else key
    return lambda message: bytes(jwt.PyJWS().get_algorithm_by_name(algorithm.value).sign(message, material))


def b64(data: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def craft(
    head: Mapping[str, Any] | bytes | None = None,
    body: Mapping[str, Any] | bytes | None = None,
    sign: Sign | None = None,
) -> str:
    """A token of exactly these parts (good ones where none are given), properly signed over whatever they are."""
    parts = (header() if head is None else head, claims() if body is None else body)
    raw = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in parts]
    signing_input = ".".join(map(b64, raw))
    return f"{signing_input}.{b64((sign or hs256())(signing_input.encode()))}"


def asymmetric(algorithm: Algorithm, **changes: Any) -> str:
    """A good token of the issuer that signs with ``algorithm``, some claims changed."""
    name = {Algorithm.RS256: RS, Algorithm.PS256: PS, Algorithm.ES256: ES, Algorithm.EDDSA: ED}[algorithm]
    return craft(header(alg=algorithm.value, kid="k1"), claims(**{"iss": name, **changes}), signed_by(algorithm))


def mesh(**changes: Any) -> str:
    """A good token of the mesh, some claims changed."""
    good = {
        "iss": "groundwire-mesh",
        "aud": "groundwire-mesh",
        "iat": NOW,
        "exp": NOW + 60,
        "act": {"sub": "query"},
        "origin": {"iss": HS, "jti": "token-1", "iat": NOW - 60, "exp": NOW + 610},
    }
    return craft(header(kid=...), claims(**{**good, **changes}), hs256(MESH_SECRET))
