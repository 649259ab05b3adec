"""Whose token a command's calls carry: the one in ``GROUNDWIRE_TOKEN``, or else that of the development identity."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import time
from collections.abc import Sequence
from typing import Any

from cli.errors import CliError, ExitCode, usage
from services.corpus.errors import FailedPrecondition
from services.corpus.principal import EVERYBODY, is_name, principal
from services.runtime.options import ClaimOptions, IssuerOptions
from services.runtime.settings import TOKEN_VARIABLE, ConfigurationError, Settings, is_loopback, load
from services.runtime.sockets import untrusted

# A token of the development identity is minted again after this, in seconds; it is valid for longer.
_RENEWED = 1200.0
# What is not of b64token (RFC 6750 §2.1).
_NO_TOKEN = re.compile(r"[^A-Za-z0-9\-._~+/=]")


class CallerToken:
    """The metadata of calls to one address; CliError if what stands in the environment cannot be sent as a token."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._given = _token_of_the_environment()
        # A development token is a secret of this machine: it is never sent to another one.
        self._local = is_loopback(address)
        self._minted: str | None = None
        self._minted_at = 0.0

    async def metadata(self) -> list[tuple[str, str]]:
        """The ``authorization`` header, if there is a token; CliError if it could reach another user."""
        if problem := untrusted(self._address):
            raise CliError(
                f"no token is sent to {self._address}: {problem}; use another address or data directory",
                code=ExitCode.USAGE,
            )
        token = self._given or await self._development()
        return [("authorization", f"Bearer {token}")] if token else []

    async def _development(self) -> str | None:
        if not self._local:
            return None
        if self._minted is None or time.monotonic() - self._minted_at > _RENEWED:
            self._minted = await asyncio.to_thread(_mint)
            self._minted_at = time.monotonic()
        return self._minted


def _token_of_the_environment() -> str:
    token = os.environ.get(TOKEN_VARIABLE, "").strip()
    found = _NO_TOKEN.search(token)
    if found is None:
        return token
    character = found[0]
    what = {"\n": "a line break", "\r": "a line break", " ": "a space", "\t": "a tab"}.get(character, "a character")
    raise usage(
        f"{TOKEN_VARIABLE} is no token: it has {what} at position {found.start() + 1} that no token can have "
        "(RFC 6750: letters, digits and -._~+/=); set it to one token alone"
    )


def _mint() -> str | None:
    from services.runtime import development  # noqa: PLC0415 - the token library is only needed without a token

    try:
        settings = load(Settings)
    except ConfigurationError:
        # The services would not start with these settings either; commands that need them say what is wrong.
        return None
    if settings.authentication.issuers or not settings.authentication.required:
        return None
    try:
        return development.mint(settings)
    except FailedPrecondition as error:
        raise CliError(f"{development.key_path(settings)}: {error.message}", code=ExitCode.USAGE) from error


def principals(settings: Settings, address: str) -> frozenset[str] | None:
    """What the caller of a service at ``address`` answers to, as far as can be told here; None if it cannot.

    A token in the environment is read without a look at its signature: good for a hint, and for nothing else.
    """
    if token := os.environ.get(TOKEN_VARIABLE, "").strip():
        issuers = settings.authentication.issuers
        claims = _unverified(token)
        usual = all(issuer.claims == ClaimOptions() for issuer in issuers if issuer.name == claims.get("iss"))
        subject, groups = claims.get("sub"), claims.get("groups", [])
        if not usual or not isinstance(subject, str) or not isinstance(groups, list):
            return None
        named = [("user", subject), *(("group", group) for group in groups if isinstance(group, str))]
    elif settings.authentication.issuers or not is_loopback(address):
        return None
    else:
        own = settings.development
        named = [("user", own.subject), *(("group", group) for group in own.groups)]
    return frozenset({EVERYBODY, *(principal(kind, name) for kind, name in named if is_name(kind, name))})


def _unverified(token: str) -> dict[str, Any]:
    payload = token.partition(".")[2].partition(".")[0]
    try:
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except ValueError:
        return {}
    return claims if isinstance(claims, dict) else {}


def why_unknown(address: str) -> str:
    """Why a service at ``address`` does not know this caller, and what to do about it."""
    try:
        settings = load(Settings)
    except ConfigurationError:
        return f"put a token into {TOKEN_VARIABLE}"
    issuers = settings.authentication.issuers
    if os.environ.get(TOKEN_VARIABLE, "").strip():
        told = f"it does not accept the token in {TOKEN_VARIABLE}, which may have expired or be meant for others"
        return f"{told}; {where_tokens_are_from(issuers)}"
    if issuers:
        return f"no token was sent; {where_tokens_are_from(issuers)}"
    if not settings.authentication.required:
        return f"it wants a token, though the settings here do not; use its settings, or set {TOKEN_VARIABLE}"
    if not is_loopback(address):
        return f"no token was sent, because that of a data directory never leaves its machine; set {TOKEN_VARIABLE}"
    return (
        f"it does not use the secret of the data directory {settings.data_dir}; "
        f"set GROUNDWIRE_DATA_DIR to the one that it uses, or put a token into {TOKEN_VARIABLE}"
    )


def where_tokens_are_from(issuers: Sequence[IssuerOptions]) -> str:
    """How a person comes by a token of one of ``issuers``; without any, by one of the data directory."""
    if not issuers:
        return f"make one with `export {TOKEN_VARIABLE}=$(groundwire token)`"
    if any(issuer.secret is not None for issuer in issuers):
        return f"make one with `export {TOKEN_VARIABLE}=$(groundwire token --subject NAME --role reader)`"
    names = " or ".join(issuer.name for issuer in issuers)
    return f"get one from {names} and put it into {TOKEN_VARIABLE}: only the issuer has the key that signs"
