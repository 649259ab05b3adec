"""Forged, malformed, expired, misdirected and revoked tokens, each with the reason why it must be refused."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from services.security.compact import MAX_TOKEN
from services.security.keysets import Algorithm
from services.security.refusal import Refusal
from services.security.revocation import SubjectRevoked, TokenRevoked
from tests.support.token_forge import (
    ED,
    ES,
    HS,
    NOW,
    RS,
    SECRET,
    asymmetric,
    b64,
    claims,
    craft,
    header,
    hs256,
    mesh,
    private_key,
    signed_by,
)


def public_pem(algorithm: Algorithm) -> bytes:
    pem: bytes = private_key(algorithm).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem


def public_der(algorithm: Algorithm) -> bytes:
    der: bytes = private_key(algorithm).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return der


def raw_claims(extra: str, **changes: object) -> bytes:
    """Good claims with a piece of JSON of any shape put in front."""
    return f"{{{extra},{json.dumps(claims(**changes))[1:]}".encode()


def other_last_character(token: str) -> str:
    """The same bytes spelled another way: the last character's unused bits set."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return token[:-1] + alphabet[alphabet.index(token[-1]) + 1]


def halves_swapped(message: bytes) -> bytes:
    """An ES256 signature whose two numbers stand in the wrong order."""
    signature = signed_by(Algorithm.ES256)(message)
    return signature[32:] + signature[:32]


def nested_act(depth: int) -> dict[str, object]:
    act: dict[str, object] = {"sub": "query"}
    for _ in range(depth - 1):
        act = {"sub": "query", "act": act}
    return act


def rs_head(**changes: object) -> dict[str, object]:
    return header(alg="RS256", kid="k1", **changes)


# What is wrong: the refusal that the audit trail gets, and the values of the authorization metadata.
TOKENS: dict[str, tuple[Refusal, Callable[[], str]]] = {
    # Forged
    "no signature": (Refusal.MALFORMED, lambda: craft().rpartition(".")[0] + "."),
    "signature of another secret": (Refusal.SIGNATURE, lambda: craft(sign=hs256(secrets.token_bytes(32)))),
    "signature of the empty secret": (Refusal.SIGNATURE, lambda: craft(sign=hs256(b""))),
    "signature cut": (Refusal.SIGNATURE, lambda: craft(sign=lambda message: hs256()(message)[:16])),
    "signature extended": (Refusal.SIGNATURE, lambda: craft(sign=lambda message: hs256()(message) + b"\0")),
    "payload of another token": (
        Refusal.SIGNATURE,
        lambda: ".".join([craft().split(".")[0], b64(json.dumps(claims(sub="root")).encode()), craft().split(".")[2]]),
    ),
    "alg none": (Refusal.ALGORITHM, lambda: craft(header(alg="none"), sign=lambda _: b"x")),
    "alg none, signed": (Refusal.ALGORITHM, lambda: craft(header(alg="none"))),
    "alg None": (Refusal.ALGORITHM, lambda: craft(header(alg="None"))),
    "alg empty": (Refusal.ALGORITHM, lambda: craft(header(alg=""))),
    "alg missing": (Refusal.ALGORITHM, lambda: craft(header(alg=...))),
    "alg a list": (Refusal.ALGORITHM, lambda: craft(header(alg=["HS256"]))),
    "alg in lower case": (Refusal.ALGORITHM, lambda: craft(header(alg="hs256"))),
    "alg of the family but not the issuer's": (Refusal.ALGORITHM, lambda: craft(header(alg="HS512"))),
    "public PEM as HMAC secret": (
        Refusal.ALGORITHM,
        lambda: craft(header(kid="k1"), claims(iss=RS), hs256(public_pem(Algorithm.RS256))),
    ),
    "public DER as HMAC secret": (
        Refusal.ALGORITHM,
        lambda: craft(header(kid="k1"), claims(iss=RS), hs256(public_der(Algorithm.RS256))),
    ),
    "public PEM as HMAC secret, alg kept": (
        Refusal.SIGNATURE,
        lambda: craft(rs_head(), claims(iss=RS), hs256(public_pem(Algorithm.RS256))),
    ),
    "RSA key of somebody else": (
        Refusal.SIGNATURE,
        lambda: craft(rs_head(), claims(iss=RS), signed_by(Algorithm.RS256, rsa.generate_private_key(65537, 2048))),
    ),
    "EC key of somebody else": (
        Refusal.SIGNATURE,
        lambda: craft(
            header(alg="ES256", kid="k1"),
            claims(iss=ES),
            signed_by(Algorithm.ES256, ec.generate_private_key(ec.SECP256R1())),
        ),
    ),
    "Ed25519 key of somebody else": (
        Refusal.SIGNATURE,
        lambda: craft(
            header(alg="EdDSA", kid="k1"),
            claims(iss=ED),
            signed_by(Algorithm.EDDSA, ed25519.Ed25519PrivateKey.generate()),
        ),
    ),
    "ECDSA with r = s = 0 (CVE-2022-21449)": (
        Refusal.SIGNATURE,
        lambda: craft(header(alg="ES256", kid="k1"), claims(iss=ES), lambda _: bytes(64)),
    ),
    "ECDSA with the halves swapped": (
        Refusal.SIGNATURE,
        lambda: craft(header(alg="ES256", kid="k1"), claims(iss=ES), halves_swapped),
    ),
    "one issuer's name, another's key": (
        Refusal.ALGORITHM,
        lambda: craft(header(alg="ES256", kid="k1"), claims(iss=RS), signed_by(Algorithm.ES256)),
    ),
    "the mesh's name under the users' secret": (
        Refusal.SIGNATURE,
        lambda: craft(
            header(kid=...), claims(iss="groundwire-mesh", aud="groundwire-mesh", exp=NOW, act={"sub": "query"})
        ),
    ),
    # Malformed
    "empty": (Refusal.SCHEME, lambda: ""),
    "not a token": (Refusal.MALFORMED, lambda: "opaque"),
    "two segments": (Refusal.MALFORMED, lambda: craft().rpartition(".")[0]),
    "four segments": (Refusal.MALFORMED, lambda: craft() + ".AAAA"),
    "five segments, as if encrypted": (Refusal.MALFORMED, lambda: craft() + ".AAAA.AAAA"),
    "leading dot": (Refusal.MALFORMED, lambda: "." + craft()),
    "trailing dot": (Refusal.MALFORMED, lambda: craft() + "."),
    "empty payload": (Refusal.MALFORMED, lambda: "{0}..{2}".format(*craft().split("."))),
    "padding": (Refusal.MALFORMED, lambda: craft() + "="),
    "standard base64 instead of base64url": (Refusal.MALFORMED, lambda: craft()[:-4] + "+/+/"),
    "a length that no bytes have": (Refusal.MALFORMED, lambda: craft(sign=lambda _: b"123") + "A"),
    "the same bytes spelled another way": (Refusal.MALFORMED, lambda: other_last_character(craft())),
    "white space inside": (Refusal.SCHEME, lambda: craft().replace(".", ". ", 1)),
    "line feed at the end": (Refusal.SCHEME, lambda: craft() + "\n"),
    "NUL at the end": (Refusal.SCHEME, lambda: craft() + "\0"),
    "a dot of another script": (Refusal.SCHEME, lambda: craft().replace(".", "\uff0e", 1)),
    "oversized": (Refusal.MALFORMED, lambda: craft(body=claims(pad="x" * MAX_TOKEN))),
    "larger than users' tokens may be": (Refusal.MALFORMED, lambda: craft(body=claims(pad="x" * 4400))),
    "header not JSON": (Refusal.MALFORMED, lambda: craft(b"alg=HS256")),
    "header a list": (Refusal.MALFORMED, lambda: craft(b'["HS256"]')),
    "header null": (Refusal.MALFORMED, lambda: craft(b"null")),
    "payload a string": (Refusal.MALFORMED, lambda: craft(body=b'"claims"')),
    "payload in UTF-16": (Refusal.MALFORMED, lambda: craft(body=json.dumps(claims()).encode("utf-16"))),
    "payload with a byte order mark": (
        Refusal.MALFORMED,
        lambda: craft(body=b"\xef\xbb\xbf" + json.dumps(claims()).encode()),
    ),
    "payload not UTF-8": (Refusal.MALFORMED, lambda: craft(body=raw_claims('"x":"?"').replace(b"?", b"\xff"))),
    "payload with a comment": (Refusal.MALFORMED, lambda: craft(body=raw_claims("/* */"))),
    "payload followed by another": (Refusal.MALFORMED, lambda: craft(body=json.dumps(claims()).encode() + b"{}")),
    "nested too deep": (Refusal.MALFORMED, lambda: craft(body=raw_claims(f'"x":{"[" * 1900}{"]" * 1900}'))),
    "a number of 5,000 digits": (Refusal.MALFORMED, lambda: craft(body=raw_claims(f'"x":{"9" * 5000}'))),
    "duplicate alg": (Refusal.MALFORMED, lambda: craft(b'{"alg":"none","typ":"at+jwt","alg":"HS256"}')),
    "duplicate sub": (Refusal.MALFORMED, lambda: craft(body=raw_claims('"sub":"root"'))),
    "duplicate exp": (Refusal.MALFORMED, lambda: craft(body=raw_claims('"exp":9999999999', exp=NOW - 1000))),
    "duplicate name, spelled with an escape": (
        Refusal.MALFORMED,
        lambda: craft(body=raw_claims(r'"\u0073ub":"root"')),
    ),
    "duplicate name, nested": (Refusal.MALFORMED, lambda: craft(body=raw_claims('"x":{"a":1,"a":2}'))),
    # Header
    "typ missing": (Refusal.TYPE, lambda: craft(header(typ=...))),
    "typ JWT": (Refusal.TYPE, lambda: craft(header(typ="JWT"))),
    "typ of an ID token": (Refusal.TYPE, lambda: craft(header(typ="id_token+jwt"))),
    "typ a list": (Refusal.TYPE, lambda: craft(header(typ=["at+jwt"]))),
    "typ with a parameter": (Refusal.TYPE, lambda: craft(header(typ="at+jwt; v=1"))),
    "crit": (Refusal.HEADER, lambda: craft(header(crit=["exp"]))),
    "crit empty": (Refusal.HEADER, lambda: craft(header(crit=[]))),
    "b64 false": (Refusal.HEADER, lambda: craft(header(b64=False))),
    "compressed": (Refusal.HEADER, lambda: craft(header(zip="DEF"))),
    "jku": (Refusal.HEADER, lambda: craft(header(jku="https://evil.example/jwks"))),
    "x5u": (Refusal.HEADER, lambda: craft(header(x5u="https://evil.example/chain"))),
    "x5c": (Refusal.HEADER, lambda: craft(header(x5c=["MIIB"]))),
    "jwk": (Refusal.HEADER, lambda: craft(header(jwk={"kty": "oct", "k": b64(SECRET)}))),
    "kid of nobody": (Refusal.KEY, lambda: craft(header(kid="h2"))),
    "kid a path": (Refusal.KEY, lambda: craft(header(kid="../../../../dev/null"), sign=hs256(b""))),
    "kid SQL": (Refusal.KEY, lambda: craft(header(kid="h1'--"))),
    "kid with a NUL": (Refusal.KEY, lambda: craft(header(kid="h1\0"))),
    "kid a number": (Refusal.KEY, lambda: craft(header(kid=1))),
    "kid null": (Refusal.KEY, lambda: craft(header(kid=None))),
    "kid empty": (Refusal.KEY, lambda: craft(header(kid=""))),
    "kid endless": (Refusal.KEY, lambda: craft(header(kid="h" * 500))),
    # Times
    "expired": (Refusal.EXPIRED, lambda: craft(body=claims(exp=NOW - 11))),
    "expired this moment, leeway included": (Refusal.EXPIRED, lambda: craft(body=claims(exp=NOW - 10))),
    "exp missing": (Refusal.TIME, lambda: craft(body=claims(exp=...))),
    "exp null": (Refusal.TIME, lambda: craft(body=claims(exp=None))),
    "exp a string": (Refusal.TIME, lambda: craft(body=claims(exp=str(NOW + 600)))),
    "exp a fraction": (Refusal.TIME, lambda: craft(body=claims(exp=NOW + 600.5))),
    "exp an exponent": (Refusal.TIME, lambda: craft(body=raw_claims('"exp":1e400', exp=...))),
    "exp NaN": (Refusal.MALFORMED, lambda: craft(body=claims(exp=float("nan")))),
    "exp Infinity": (Refusal.MALFORMED, lambda: craft(body=claims(exp=float("inf")))),
    "exp true": (Refusal.TIME, lambda: craft(body=claims(exp=True))),
    "exp negative": (Refusal.TIME, lambda: craft(body=claims(exp=-1))),
    "exp 10^18": (Refusal.LIFETIME, lambda: craft(body=claims(exp=10**18))),
    "lives too long": (Refusal.LIFETIME, lambda: craft(body=claims(iat=NOW, exp=NOW + 3601))),
    "expires before it was issued": (Refusal.LIFETIME, lambda: craft(body=claims(iat=NOW + 5, exp=NOW + 4))),
    "iat missing": (Refusal.TIME, lambda: craft(body=claims(iat=...))),
    "iat true": (Refusal.TIME, lambda: craft(body=claims(iat=True, exp=3000))),
    "iat a fraction": (Refusal.TIME, lambda: craft(body=claims(iat=NOW - 0.5))),
    "iat in the future": (Refusal.NOT_YET_VALID, lambda: craft(body=claims(iat=NOW + 11))),
    "nbf in the future": (Refusal.NOT_YET_VALID, lambda: craft(body=claims(nbf=NOW + 11))),
    "nbf a string": (Refusal.TIME, lambda: craft(body=claims(nbf="0"))),
    # Misdirected
    "iss missing": (Refusal.ISSUER, lambda: craft(body=claims(iss=...))),
    "iss of nobody": (Refusal.ISSUER, lambda: craft(body=claims(iss="https://evil.example"))),
    "iss with a slash more": (Refusal.ISSUER, lambda: craft(body=claims(iss=HS + "/"))),
    "iss in upper case": (Refusal.ISSUER, lambda: craft(body=claims(iss=HS.upper()))),
    "iss a list": (Refusal.ISSUER, lambda: craft(body=claims(iss=[HS]))),
    "iss an object": (Refusal.ISSUER, lambda: craft(body=claims(iss={"name": HS}))),
    "aud missing": (Refusal.AUDIENCE, lambda: craft(body=claims(aud=...))),
    "aud another service": (Refusal.AUDIENCE, lambda: craft(body=claims(aud="billing"))),
    "aud another issuer's": (Refusal.AUDIENCE, lambda: craft(body=claims(aud="other-api"))),
    "aud a longer name": (Refusal.AUDIENCE, lambda: craft(body=claims(aud="groundwire-2"))),
    "aud empty": (Refusal.AUDIENCE, lambda: craft(body=claims(aud=""))),
    "aud an empty list": (Refusal.AUDIENCE, lambda: craft(body=claims(aud=[]))),
    "aud a list of others": (Refusal.AUDIENCE, lambda: craft(body=claims(aud=["billing", "crm"]))),
    "aud a list with a number": (Refusal.AUDIENCE, lambda: craft(body=claims(aud=["groundwire", 1]))),
    "aud a nested list": (Refusal.AUDIENCE, lambda: craft(body=claims(aud=[["groundwire"]]))),
    "aud an object": (Refusal.AUDIENCE, lambda: craft(body=claims(aud={"groundwire": True}))),
    "aud of too many": (Refusal.AUDIENCE, lambda: craft(body=claims(aud=["groundwire"] * 17))),
    "tenant that the issuer may not speak for": (
        Refusal.TENANT,
        lambda: asymmetric(Algorithm.RS256, tenant="initech"),
    ),
    "a user's token at the mesh's audience": (Refusal.AUDIENCE, lambda: craft(body=claims(aud="groundwire-mesh"))),
    # Whom it names
    "sub missing": (Refusal.SUBJECT, lambda: craft(body=claims(sub=...))),
    "sub empty": (Refusal.SUBJECT, lambda: craft(body=claims(sub=""))),
    "sub a number": (Refusal.SUBJECT, lambda: craft(body=claims(sub=7))),
    "sub a principal": (Refusal.SUBJECT, lambda: craft(body=claims(sub="user:alice"))),
    "sub with a line feed": (Refusal.SUBJECT, lambda: craft(body=claims(sub="alice\n"))),
    "sub with a Cyrillic letter": (Refusal.SUBJECT, lambda: craft(body=claims(sub="\u0430lice"))),
    "sub too long": (Refusal.SUBJECT, lambda: craft(body=claims(sub="a" * 129))),
    "tenant missing": (Refusal.TENANT, lambda: craft(body=claims(tenant=...))),
    "tenant null": (Refusal.TENANT, lambda: craft(body=claims(tenant=None))),
    "tenant empty": (Refusal.TENANT, lambda: craft(body=claims(tenant=""))),
    "tenant a list": (Refusal.TENANT, lambda: craft(body=claims(tenant=["acme"]))),
    "tenant a wildcard": (Refusal.TENANT, lambda: craft(body=claims(tenant="*"))),
    "tenant a path": (Refusal.TENANT, lambda: craft(body=claims(tenant="../globex"))),
    "tenant with full-width letters": (Refusal.TENANT, lambda: craft(body=claims(tenant="\uff41cme"))),
    "tenant with a zero-width space": (Refusal.TENANT, lambda: craft(body=claims(tenant="acme\u200b"))),
    "tenant with a text direction mark": (Refusal.TENANT, lambda: craft(body=claims(tenant="\u202eacme"))),
    "tenant a lone surrogate": (Refusal.TENANT, lambda: craft(body=raw_claims(r'"tenant":"\ud800"', tenant=...))),
    "groups a string": (Refusal.MEMBERSHIP, lambda: craft(body=claims(groups="hr"))),
    "groups an object": (Refusal.MEMBERSHIP, lambda: craft(body=claims(groups={"hr": True}))),
    "groups with a number": (Refusal.MEMBERSHIP, lambda: craft(body=claims(groups=["hr", 1]))),
    "groups with a principal": (Refusal.MEMBERSHIP, lambda: craft(body=claims(groups=["user:root"]))),
    "groups too many": (Refusal.MEMBERSHIP, lambda: craft(body=claims(groups=[f"g{n}" for n in range(257)]))),
    "roles null": (Refusal.MEMBERSHIP, lambda: craft(body=claims(roles=None))),
    "roles with a space": (Refusal.MEMBERSHIP, lambda: craft(body=claims(roles=["reader admin"]))),
    "roles too many": (Refusal.MEMBERSHIP, lambda: craft(body=claims(roles=[f"r{n}" for n in range(65)]))),
    "jti a number": (Refusal.TOKEN_ID, lambda: craft(body=claims(jti=1))),
    "jti empty": (Refusal.TOKEN_ID, lambda: craft(body=claims(jti=""))),
    # Acting for others
    "act in a user's token": (Refusal.ACTOR, lambda: craft(body=claims(act={"sub": "query"}))),
    "act null in a user's token": (Refusal.ACTOR, lambda: craft(body=claims(act=None))),
    "act missing in the mesh's token": (Refusal.ACTOR, lambda: mesh(act=...)),
    "act empty": (Refusal.ACTOR, lambda: mesh(act={})),
    "act a string": (Refusal.ACTOR, lambda: mesh(act="query")),
    "act with a malformed name": (Refusal.ACTOR, lambda: mesh(act={"sub": "Query Service"})),
    "act with a malformed SPIFFE ID": (Refusal.ACTOR, lambda: mesh(act={"sub": "spiffe://mesh/../query"})),
    "act with more claims": (Refusal.ACTOR, lambda: mesh(act={"sub": "query", "roles": ["admin"]})),
    "act of null inside": (Refusal.ACTOR, lambda: mesh(act={"sub": "query", "act": None})),
    "act nested too deep": (Refusal.ACTOR, lambda: mesh(act=nested_act(9))),
    "origin a string": (Refusal.TOKEN_ID, lambda: mesh(origin="token-1")),
    "origin incomplete": (Refusal.TOKEN_ID, lambda: mesh(origin={"iss": HS, "jti": "token-1"})),
    "origin with a malformed time": (
        Refusal.TIME,
        lambda: mesh(origin={"iss": HS, "jti": "token-1", "iat": "0", "exp": NOW}),
    ),
    "the mesh's token lives too long": (Refusal.LIFETIME, lambda: mesh(exp=NOW + 61)),
    # Revoked (see REVOKED)
    "revoked by its id": (Refusal.REVOKED, lambda: craft(body=claims(jti="revoked"))),
    "revoked with its subject": (Refusal.REVOKED, lambda: craft(body=claims(sub="mallory"))),
    "revoked with its subject, issued with a clock ahead": (
        Refusal.REVOKED,
        lambda: craft(body=claims(sub="mallory", iat=NOW + 10)),
    ),
    "derived from a revoked token": (
        Refusal.REVOKED,
        lambda: mesh(origin={"iss": HS, "jti": "revoked", "iat": NOW - 60, "exp": NOW + 600}),
    ),
    "derived from a token of before its subject was revoked": (Refusal.REVOKED, lambda: mesh(sub="mallory")),
}
REVOKED = (TokenRevoked.at(NOW, HS, "revoked"), SubjectRevoked.at(NOW, "acme", "mallory"))

METADATA: dict[str, tuple[Refusal, Callable[[], list[str]]]] = {
    "no header": (Refusal.MISSING, list),
    "two headers": (Refusal.SEVERAL, lambda: [f"Bearer {craft()}", f"Bearer {craft()}"]),
    "a good header and an empty one": (Refusal.SEVERAL, lambda: [f"Bearer {craft()}", ""]),
    "no scheme": (Refusal.SCHEME, lambda: [craft()]),
    "another scheme": (Refusal.SCHEME, lambda: [f"Basic {craft()}"]),
    "the scheme alone": (Refusal.SCHEME, lambda: ["Bearer"]),
    "the scheme and a space": (Refusal.SCHEME, lambda: ["Bearer "]),
    "no space": (Refusal.SCHEME, lambda: [f"Bearer{craft()}"]),
    "two spaces": (Refusal.SCHEME, lambda: [f"Bearer  {craft()}"]),
    "a tab": (Refusal.SCHEME, lambda: [f"Bearer\t{craft()}"]),
    "space in front": (Refusal.SCHEME, lambda: [f" Bearer {craft()}"]),
    "space behind": (Refusal.SCHEME, lambda: [f"Bearer {craft()} "]),
    "two tokens": (Refusal.SCHEME, lambda: [f"Bearer {craft()}, Bearer {craft()}"]),
    "quoted": (Refusal.SCHEME, lambda: [f'Bearer "{craft()}"']),
    "a dotless i in the scheme's place": (Refusal.SCHEME, lambda: [f"Beare\u0280 {craft()}"]),
    "line folding": (Refusal.SCHEME, lambda: [f"Bearer\r\n {craft()}"]),
    "a megabyte": (Refusal.MALFORMED, lambda: [f"Bearer {'A' * 1_000_000}"]),
}
