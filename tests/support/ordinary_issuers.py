"""Tokens as well-known issuers make them: their headers and claims, under keys of our own.

The shapes are those of the issuers' documentation and of tokens that they made; the settings are those of
docs/access.md, so that what the page says is what is tried.
"""

from __future__ import annotations

import json
import threading
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

from services.runtime.options import AuthenticationOptions, IssuerOptions
from services.security.refusal import Refusal
from tests.support.documents import blocks

PAGE = Path(__file__).parents[2] / "docs" / "access.md"
KEYCLOAK = "https://keycloak.example.com/realms/staff"
AUTH0 = "https://example.eu.auth0.com/"
ENTRA_TENANT = "6f1c1a54-0000-4000-8000-3f2f7f0a4c11"
ENTRA = f"https://login.microsoftonline.com/{ENTRA_TENANT}/v2.0"
OKTA = "https://example.okta.com/oauth2/default"
COGNITO = "https://cognito-idp.eu-central-1.amazonaws.com/eu-central-1_example"
ADFS = "http://adfs.example.com/adfs/services/trust"
AUTHENTIK = "https://authentik.example.com/application/o/groundwire/"
DEX = "https://dex.example.com/dex"
GOOGLE = "https://accounts.google.com"
OF_THE_PAGE = (KEYCLOAK, AUTH0, ENTRA, OKTA)

# What the page's table says of those that have no block of their own.
OTHERS: dict[str, dict[str, Any]] = {
    COGNITO: {
        "audience": "7lhlkkfbfb4q5kpp90urffao",
        "token_types": ["none"],
        "claims": {"audience": "client_id", "groups": "cognito:groups", "scopes": "scope"},
        "roles": {"groundwire/read": "reader"},
    },
    ADFS: {
        "audience": "microsoft:identityserver:groundwire",
        "token_types": ["JWT"],
        "claims": {"user": "upn", "roles": "role", "groups": "group"},
    },
    AUTHENTIK: {"audience": "groundwire-provider", "token_types": ["JWT"], "claims": {"groups": "groups"}},
    DEX: {"audience": "groundwire-client", "token_types": ["none"]},
    GOOGLE: {
        "audience": "1234-abc.apps.googleusercontent.com",
        "token_types": ["id_token"],
        "claims": {"user": "email"},
    },
}


@cache
def signing_key() -> rsa.RSAPrivateKey:
    """The key of every issuer here."""
    return rsa.generate_private_key(65537, 2048)


def key_set() -> bytes:
    """A JWK Set as these issuers publish them: the signing key, with its certificate, and one for encryption."""
    members = jwt.PyJWS().get_algorithm_by_name("RS256")
    public = json.loads(members.to_jwk(signing_key().public_key()))
    public.pop("key_ops", None)
    chain = {"x5c": ["MIICmzCCAYMCBgF"], "x5t": "u2Ww7YbF", "x5t#S256": "z1"}
    return json.dumps(
        {
            "keys": [
                {**public, "kid": "enc-1", "use": "enc", "alg": "RSA-OAEP", **chain},
                # Entra ID names no algorithm.
                {**public, "kid": "sig-1", "use": "sig", "issuer": ENTRA, **chain},
                {"kty": "EC", "kid": "ec-1", "use": "sig", "alg": "ES256", "crv": "P-256", "x": "AA", "y": "AA"},
            ]
        }
    ).encode()


@contextmanager
def served(document: bytes) -> Iterator[str]:
    """The address at which ``document`` is served."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(document)))
            self.end_headers()
            self.wfile.write(document)

        def log_message(self, *_arguments: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/keys"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def configured(keys: str | Path) -> AuthenticationOptions:
    """The page's issuers, and those of its table, with their keys at a URL or in a file."""
    place = {"jwks_url": keys} if isinstance(keys, str) else {"jwks_url": None, "jwks_file": keys}
    tables = [
        table
        for block in blocks(PAGE, "toml")
        for table in tomllib.loads(block.body).get("authentication", {}).get("issuers", ())
        if table["name"] in OF_THE_PAGE
    ]
    tables += [{"name": name, "algorithm": "RS256", "tenant": "default", **rest} for name, rest in OTHERS.items()]
    return AuthenticationOptions(issuers=tuple(IssuerOptions(**{**table, **place}) for table in tables))


def token(issuer: str, *, header: Mapping[str, Any] | None = None, **changes: Any) -> str:
    """A token as ``issuer`` makes it, with parts of its header and claims changed; ``...`` leaves one out."""
    usual, says = SHAPES[issuer]()
    head = {"alg": "RS256", "kid": "sig-1", "typ": None, **usual, **(header or {})}
    body = {name: value for name, value in {"iss": issuer, **says, **changes}.items() if value is not ...}
    # PyJWT leaves out a type of None, and a key's name only if it is not mentioned.
    headers = {name: value for name, value in head.items() if name == "typ" or value is not ...}
    return jwt.encode(body, signing_key(), "RS256", headers=headers)


def times(lifetime: int, *names: str) -> dict[str, int]:
    """``iat`` and whatever else is ``names`` are a moment ago, ``exp`` is ``lifetime`` later."""
    now = int(time.time()) - 30
    return {"iat": now, "exp": now + lifetime, **dict.fromkeys(names, now)}


def _keycloak() -> tuple[dict[str, Any], dict[str, Any]]:
    return {"typ": "JWT"}, {
        **times(300, "auth_time"),
        "jti": "onrtac:9f0a1c52-5a1e-4a37-b1f4-0c9ad1b1f3b7",
        "aud": ["groundwire", "account"],
        "sub": "f3b1c2d4-0000-4000-8000-000000000001",
        "typ": "Bearer",
        "azp": "portal",
        "sid": "7d1f0b1e-0000-4000-8000-000000000002",
        "acr": "1",
        "allowed-origins": ["https://portal.example.com"],
        "realm_access": {"roles": ["Knowledge Manager", "offline_access", "default-roles-staff", "uma_authorization"]},
        "resource_access": {
            "groundwire": {"roles": ["groundwire-reader"]},
            "account": {"roles": ["manage-account", "view-profile"]},
        },
        "scope": "openid email profile",
        "email_verified": True,
        "groups": ["/hr", "/hr/payroll", "/Human Resources"],
        "preferred_username": "alice",
        "email": "alice@example.com",
    }


def _auth0() -> tuple[dict[str, Any], dict[str, Any]]:
    return {"typ": "JWT"}, {
        **times(86_400),
        "sub": "auth0|5f7c8ec7c33c6c004bbafe82",
        "aud": ["https://groundwire.example.com", "https://example.eu.auth0.com/userinfo"],
        "azp": "my_client_id",
        "scope": "openid profile email read:documents",
        "permissions": ["read:documents"],
        "https://groundwire.example.com/roles": ["reader", "HR Manager"],
        "https://groundwire.example.com/groups": ["Human Resources", "Büro, 2. Stock"],
    }


def _entra() -> tuple[dict[str, Any], dict[str, Any]]:
    return {"typ": "JWT"}, {
        **times(5_345, "nbf"),
        "aud": "0b6e2c9d-0000-4000-8000-5d1f6a7b8c90",
        "aio": "AXQAi/8TAAAAOFYi",
        "azp": "1d2c3b4a-0000-4000-8000-112233445566",
        "azpacr": "0",
        "groups": ["0760b6cf-170e-4a14-91b3-4b78e0739963", "3b2b0c93-acd8-4208-8eba-7a48db1cd4c0"],
        "name": "Alice Smith",
        "oid": "690222be-ff1a-4d56-abd1-7e4f7d38e474",
        "preferred_username": "alice@example.com",
        "rh": "0.ARoA",
        "roles": ["reader"],
        "scp": "access_as_user",
        "sub": "_HKZpfaHyWadeOouYlitjrI-KffTm222X5rrV3xDqfKQ",
        "tid": ENTRA_TENANT,
        "uti": "fqiBqXLPj0eQa82S-IYFAA",
        "ver": "2.0",
    }


def _okta() -> tuple[dict[str, Any], dict[str, Any]]:
    return {}, {
        **times(3_600, "auth_time"),
        "ver": 1,
        "jti": "AT.0mP4JKAZX1iACIT4vbEDF7LpvDVjxypPMf0D7uX39RE",
        "aud": "api://default",
        "cid": "nmdP1fcyvdVO11AL7ECm",
        "uid": "00ugmp1xsaK6cNqh10g4",
        "scp": ["openid", "groundwire.read"],
        "sub": "alice@example.com",
        "groups": ["Everyone", "HR: Payroll"],
    }


def _cognito() -> tuple[dict[str, Any], dict[str, Any]]:
    return {}, {
        **times(3_600, "auth_time"),
        "sub": "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee",
        "cognito:groups": ["hr"],
        "client_id": "7lhlkkfbfb4q5kpp90urffao",
        "origin_jti": "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeee1",
        "event_id": "64f513be-32db-42b0-b78e-b02127b4f463",
        "token_use": "access",
        "scope": "groundwire/read openid",
        "jti": "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeee2",
        "username": "alice",
    }


def _adfs() -> tuple[dict[str, Any], dict[str, Any]]:
    return {"typ": "JWT", "x5t": "u2Ww7YbF"}, {
        **times(3_600, "nbf", "auth_time"),
        "aud": "microsoft:identityserver:groundwire",
        "apptype": "Public",
        "appid": "1d2c3b4a-0000-4000-8000-112233445566",
        "authmethod": "urn:oasis:names:tc:SAML:2.0:ac:classes:PasswordProtectedTransport",
        "ver": "1.0",
        "scp": "openid",
        "upn": "jürgen@corp.example.com",
        "role": "reader",
        "group": "CORP\\HR Staff",
    }


def _authentik() -> tuple[dict[str, Any], dict[str, Any]]:
    return {"typ": "JWT"}, {
        **times(600, "auth_time"),
        "sub": "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881",
        "aud": "groundwire-provider",
        "acr": "goauthentik.io/providers/oauth2/default",
        "groups": ["authentik Admins", "hr"],
        "roles": ["reader"],
    }


def _dex() -> tuple[dict[str, Any], dict[str, Any]]:
    return {}, {
        **times(3_600),
        "sub": "CgcyMzQyNzQ5EgZnaXRodWI",
        "aud": "groundwire-client",
        "email": "alice@example.com",
        "email_verified": True,
        "groups": ["example:platform team"],
        "roles": ["reader"],
    }


def _google() -> tuple[dict[str, Any], dict[str, Any]]:
    return {"typ": "JWT"}, {
        **times(3_600),
        "azp": "1234-abc.apps.googleusercontent.com",
        "aud": "1234-abc.apps.googleusercontent.com",
        "sub": "110169484474386276334",
        "email": "alice@example.com",
        "email_verified": True,
        "at_hash": "HK6E_P6Dh8Y93mRNtsDB1Q",
        "roles": ["reader"],
    }


SHAPES = {
    KEYCLOAK: _keycloak,
    AUTH0: _auth0,
    ENTRA: _entra,
    OKTA: _okta,
    COGNITO: _cognito,
    ADFS: _adfs,
    AUTHENTIK: _authentik,
    DEX: _dex,
    GOOGLE: _google,
}

# Who calls, by their principals beside `tenant:*`, and one permission that they have.
CALLERS: dict[str, tuple[str, Sequence[str]]] = {
    KEYCLOAK: (
        "default",
        [
            "user:f3b1c2d4-0000-4000-8000-000000000001",
            "group:%2Fhr",
            "group:%2Fhr%2Fpayroll",
            "group:%2FHuman%20Resources",
        ],
    ),
    AUTH0: (
        "default",
        [
            "user:auth0%7C5f7c8ec7c33c6c004bbafe82",
            "group:Human%20Resources",
            "group:B%C3%BCro%2C%202.%20Stock",
        ],
    ),
    ENTRA: (
        ENTRA_TENANT,
        [
            "user:690222be-ff1a-4d56-abd1-7e4f7d38e474",
            "group:0760b6cf-170e-4a14-91b3-4b78e0739963",
            "group:3b2b0c93-acd8-4208-8eba-7a48db1cd4c0",
        ],
    ),
    OKTA: ("default", ["user:alice@example.com", "group:Everyone", "group:HR%3A%20Payroll"]),
    COGNITO: ("default", ["user:aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee", "group:hr"]),
    ADFS: ("default", ["user:j%C3%BCrgen@corp.example.com", "group:CORP%5CHR%20Staff"]),
    AUTHENTIK: (
        "default",
        [
            "user:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881",
            "group:authentik%20Admins",
            "group:hr",
        ],
    ),
    DEX: ("default", ["user:CgcyMzQyNzQ5EgZnaXRodWI", "group:example%3Aplatform%20team"]),
    GOOGLE: ("default", ["user:alice@example.com"]),
}

# What ordinary tokens say and these settings do not allow: why, and what the operator is told to look at.
REFUSED: dict[str, tuple[str, dict[str, Any], Refusal, str]] = {
    "Keycloak without an audience mapper": (KEYCLOAK, {"aud": "account"}, Refusal.AUDIENCE, "`audience`"),
    "Keycloak, audience named by azp": (
        KEYCLOAK,
        {"aud": "account", "azp": "groundwire"},
        Refusal.AUDIENCE,
        'claims.audience = "azp"',
    ),
    "Keycloak's ID token": (KEYCLOAK, {"typ": "ID"}, Refusal.TYPE, "access token"),
    "Keycloak's refresh token": (KEYCLOAK, {"typ": "Refresh"}, Refusal.TYPE, "access token"),
    "Keycloak's logout token": (KEYCLOAK, {"typ": ..., "events": {}}, Refusal.TYPE, "access token"),
    "Auth0's ID token": (AUTH0, {"at_hash": "HK6E"}, Refusal.TYPE, "access token"),
    "Auth0, issuer without its slash": (AUTH0, {"iss": AUTH0.rstrip("/")}, Refusal.ISSUER, AUTH0),
    "Auth0, two days": (AUTH0, times(172_800), Refusal.LIFETIME, "longer than a day"),
    "Entra ID of version 1": (
        ENTRA,
        {"iss": "https://sts.windows.net/6f1c1a54/", "ver": "1.0"},
        Refusal.ISSUER,
        "`name`",
    ),
    "Entra ID, another API": (ENTRA, {"aud": "00000003-0000-0000-c000-000000000000"}, Refusal.AUDIENCE, "`audience`"),
    "Entra ID, another tenant": (ENTRA, {"tid": "9f1c1a54-0000"}, Refusal.TENANT, "`tenants`"),
    "Entra ID, 24 hours": (ENTRA, times(86_400), Refusal.LIFETIME, "`max_lifetime` is 5400"),
    "Entra ID without oid": (ENTRA, {"oid": ...}, Refusal.SUBJECT, "`claims.user`"),
    "Okta, of another audience": (OKTA, {"aud": "https://example.okta.com"}, Refusal.AUDIENCE, "`audience`"),
    "Cognito's ID token": (COGNITO, {"token_use": "id"}, Refusal.TYPE, "access token"),
    "Cognito, another client": (COGNITO, {"client_id": "other"}, Refusal.AUDIENCE, "`client_id`"),
    "Dex, expired": (DEX, {"iat": 1_700_000_000, "exp": 1_700_003_600}, Refusal.EXPIRED, "expired"),
    "authentik, a group like a principal": (AUTHENTIK, {"groups": ["user:root"]}, Refusal.MEMBERSHIP, "principal"),
    "ADFS, roles of another shape": (ADFS, {"role": {"name": "reader"}}, Refusal.MEMBERSHIP, "role"),
    "Google, no iat": (GOOGLE, {"iat": ...}, Refusal.TIME, "`iat`"),
    "sub with a line feed": (OKTA, {"sub": "alice\n"}, Refusal.SUBJECT, "`claims.user`"),
}
