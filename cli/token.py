"""``groundwire token``: tokens for development and tests."""

from __future__ import annotations

from collections.abc import Sequence

from cli.errors import usage
from services.corpus.errors import GroundwireError
from services.runtime.settings import AuthenticationOptions
from services.security.minting import TokenMinter


def mint(
    options: AuthenticationOptions,
    *,
    subject: str,
    tenant: str,
    groups: Sequence[str],
    roles: Sequence[str],
    lifetime: int,
    issuer: str | None,
) -> str:
    """A token of the named issuer, or of the first that has a shared secret."""
    for candidate in options.issuers:
        if candidate.secret is None or issuer not in (None, candidate.name):
            continue
        secret = candidate.secret.get_secret_value().encode()
        try:
            minter = TokenMinter(secret, issuer=candidate.name, audience=candidate.audience)
            return minter.mint(tenant=tenant, subject=subject, groups=groups, roles=roles, lifetime=lifetime)
        except GroundwireError as error:
            raise usage(error.message) from error
    wanted = f"no issuer {issuer!r} with" if issuer else "no issuer with"
    raise usage(f"the settings have {wanted} a shared secret; `authentication.issuers` names one (docs/access.md)")
