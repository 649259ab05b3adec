"""``groundwire token`` and ``groundwire revoke``: tokens for development and tests, and their end."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Sequence

from cli.caller import where_tokens_are_from
from cli.errors import CliError, ExitCode, usage
from cli.file_errors import explain, refuse_obstacle
from cli.on_record import on_record
from services.corpus.errors import FailedPrecondition, GroundwireError, InvalidRequest, Unauthenticated
from services.corpus.principal import name_problem, principal
from services.runtime import development
from services.runtime.authentication import token_claims
from services.runtime.options import ClaimOptions, IssuerOptions
from services.runtime.settings import Settings
from services.security.claims import is_tenant, is_token_id, is_user
from services.security.minting import TokenMinter
from services.security.permissions import role_table
from services.security.refusal import Explanation
from services.security.revocation import Revocation, SubjectRevoked, TokenRevoked
from services.security.revocation_sqlite import SqliteRevocationStore

_LIFETIME = 3600


def mint(
    settings: Settings,
    *,
    subject: str,
    tenant: str,
    groups: Sequence[str],
    roles: Sequence[str],
    lifetime: int | None,
    issuer: str | None,
    warn: Callable[[str], None],
) -> str:
    """A token of the named issuer, or of the first that has a shared secret; ``warn`` is told what may be a mistake.

    ``lifetime`` is in seconds; None: an hour, or less where the issuer's tokens may not live that long. CliError for
    what the services would refuse.
    """
    if not settings.authentication.required:
        raise usage("the settings say authentication.required = false: nobody looks at tokens")
    # Its secret is made where there is none.
    is_new = not settings.authentication.issuers and not os.path.lexists(development.key_path(settings))
    others: list[str] = []
    for candidate in accepted(settings):
        if candidate.secret is None or issuer not in (None, candidate.name):
            continue
        if _reads_otherwise(candidate):
            others.append(candidate.name)
            continue
        _refuse_limits(candidate, tenant, lifetime)
        secret = candidate.secret.get_secret_value().encode()
        try:
            minter = TokenMinter(secret, issuer=candidate.name, audience=candidate.audiences[0])
            token = minter.mint(
                tenant=tenant,
                subject=subject,
                groups=groups,
                roles=roles,
                lifetime=lifetime or min(_LIFETIME, candidate.max_lifetime),
            )
        except InvalidRequest as error:
            first, *more = (f"{wrong.field}: {wrong.description}" for wrong in error.violations)
            raise usage(first, *more) from error
        except GroundwireError as error:
            raise usage(error.message) from error
        if is_new:
            warn(
                f"note: nothing was started yet with the data directory {settings.data_dir}, which has a new secret "
                "now: the token is for services that are started with it; GROUNDWIRE_DATA_DIR names another directory"
            )
        _warn_of_roles(settings, roles, warn)
        return token
    if others:
        raise usage(f"{others[0]}: its settings `claims`, `roles` or `tenant` differ from what this command writes")
    if issuer is None:
        told = where_tokens_are_from(accepted(settings))
        raise usage(f"no token can be made here: the settings have no issuer with a shared secret (HS256); {told}")
    shared = [each.name for each in accepted(settings) if each.secret is not None]
    raise usage(
        f"the settings have no issuer {issuer!r} with a shared secret; "
        + (f"there are {', '.join(shared)}" if shared else where_tokens_are_from(accepted(settings)))
    )


def _refuse_limits(issuer: IssuerOptions, tenant: str, lifetime: int | None) -> None:
    """CliError where the issuer's settings have the services refuse the token."""
    if lifetime is not None and lifetime > issuer.max_lifetime:
        told = f"--lifetime {lifetime} is longer than the services accept: "
        if issuer.name == development.ISSUER:
            raise usage(f"{told}tokens of the data directory live at most {issuer.max_lifetime} seconds")
        raise usage(
            f"{told}the setting max_lifetime of the issuer {issuer.name} is {issuer.max_lifetime} seconds; "
            "ask for at most that, or raise the setting in authentication.issuers"
        )
    if issuer.tenants and tenant not in issuer.tenants:
        raise usage(
            f"--tenant {tenant!r} is none of those that the issuer {issuer.name} may speak for: its setting tenants has "
            + ", ".join(issuer.tenants)
        )


def _warn_of_roles(settings: Settings, roles: Sequence[str], warn: Callable[[str], None]) -> None:
    known = role_table(settings.authorization.roles)
    if unknown := [role for role in dict.fromkeys(roles) if role not in known]:
        warn(
            f"note: {', '.join(unknown)} permits nothing: there {'is' if len(unknown) == 1 else 'are'} no such "
            f"role{'' if len(unknown) == 1 else 's'} in the settings, which have {', '.join(known)}"
        )


def _reads_otherwise(issuer: IssuerOptions) -> bool:
    return issuer.claims != ClaimOptions() or bool(issuer.roles) or issuer.tenant is not None


def accepted(settings: Settings) -> Sequence[IssuerOptions]:
    """The issuers whose tokens count: the configured ones, or the data directory's own."""
    try:
        return settings.authentication.issuers or [development.issuer(settings)]
    except OSError as error:
        # Such as one of a full disk, which names no file.
        error.filename = error.filename or str(settings.data_dir)
        raise explain(error) or error from error
    except FailedPrecondition as error:
        raise CliError(f"{development.key_path(settings)}: {error.message}", code=ExitCode.USAGE) from error


def revoke(
    settings: Settings, *, token_id: str | None, issuer: str | None, subject: str | None, tenant: str | None
) -> str:
    """Note a revocation where every service of this data directory reads it; says what was revoked."""
    refuse_obstacle(settings.data_dir)
    if not settings.data_dir.is_dir():
        raise usage(
            f"there is no data directory {settings.data_dir}, so no service would learn of it; "
            "set GROUNDWIRE_DATA_DIR to the one that they use"
        )
    now = time.time()
    if token_id is not None and subject is None:
        if issuer is None or not is_token_id(token_id):
            raise usage("--token-id JTI needs --issuer NAME: ids are unique with their issuer alone")
        revocation: Revocation = TokenRevoked.at(now, issuer, token_id)
        whose, tenant = f"tokens/{token_id}", ""
        said = f"token {token_id} of {issuer}"
    elif subject is not None and token_id is None:
        tenant = tenant or settings.development.tenant
        if not is_user(subject):
            raise usage(f"--subject {name_problem('user', subject)}, as it stands in tokens")
        if not is_tenant(tenant):
            raise usage("--tenant must be a name as it stands in tokens")
        revocation = SubjectRevoked.at(now, tenant, subject)
        whose = f"tenants/{tenant}/users/{principal('user', subject).removeprefix('user:')}/tokens"
        said = f"every token of {subject} ({tenant}) that was issued up to now; new ones count in half a minute"
    elif token_id is None and sys.stdin is not None and not sys.stdin.isatty():
        revocation, said = _of_token(settings, sys.stdin.read().strip())
        whose, tenant = f"tokens/{revocation.token_id}", ""
    else:
        raise usage("say what to revoke: --subject NAME, --token-id JTI --issuer NAME, or a token on stdin")
    with on_record(settings, "revoke", whose, tenant=tenant):
        asyncio.run(_keep(settings, revocation, now))
    return f"revoked: {said}"


def _of_token(settings: Settings, token: str) -> tuple[TokenRevoked, str]:
    why: list[Explanation] = []
    try:
        claims = asyncio.run(token_claims(settings, token, why.append))
    except Unauthenticated:
        raise usage(
            "what is on stdin is no valid token, so there is nothing to revoke", *(each.words for each in why)
        ) from None
    if not claims.token_id:
        raise usage("this token has no id; --subject revokes all of its subject's tokens")
    return TokenRevoked(claims.issuer, claims.token_id, claims.valid_until), f"token {claims.token_id}"


async def _keep(settings: Settings, revocation: Revocation, now: float) -> None:
    store = SqliteRevocationStore(settings.keys_dir / "revocations.sqlite3")
    try:
        await store.add(revocation, now)
    except GroundwireError as error:
        raise CliError(f"the revocation could not be kept: {error.message}", code=ExitCode.UNAVAILABLE) from error
    finally:
        await store.close()
