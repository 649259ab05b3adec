"""The development issuer: tokens without a login, for whoever owns the data directory.

While no issuer is configured, tokens count that are signed with a secret in ``keys/development.key``, which is made at
the first start. Commands on this machine read it and mint what they need; other users of the machine cannot.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import SecretStr

from services.runtime.options import IssuerOptions
from services.runtime.settings import Settings
from services.security.key_files import read_private, shared_secret_file
from services.security.minting import TokenMinter

ISSUER = "groundwire-development"
_LIFETIME = 3600


def key_path(settings: Settings) -> Path:
    """Where the secret is kept."""
    return settings.keys_dir / "development.key"


def issuer(settings: Settings) -> IssuerOptions:
    """The issuer of the secret, which is made now if there is none. Blocking."""
    return _options(shared_secret_file(key_path(settings)))


def mint(settings: Settings) -> str | None:
    """A token for the identity that ``settings.development`` names; None if the mesh was never started here.

    FailedPrecondition if others can read the secret. Blocking.
    """
    try:
        secret, _ = read_private(key_path(settings))
    except OSError:
        return None
    options, who = _options(secret), settings.development
    minter = TokenMinter(_text(secret).encode(), issuer=options.name, audience=options.audiences[0])
    return minter.mint(
        tenant=who.tenant, subject=who.subject, groups=who.groups, roles=who.roles, lifetime=options.max_lifetime
    )


def _options(secret: bytes) -> IssuerOptions:
    return IssuerOptions(
        name=ISSUER,
        audience="groundwire",
        algorithm="HS256",
        secret=SecretStr(_text(secret)),
        jwks_url=None,
        max_lifetime=_LIFETIME,
        leeway=10,
    )


def _text(secret: bytes) -> str:
    return secret.hex()
