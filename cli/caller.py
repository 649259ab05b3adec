"""Whose token a command's calls carry: the one in ``GROUNDWIRE_TOKEN``, or else that of the development identity."""

from __future__ import annotations

import asyncio
import os
import time

from cli.errors import CliError, ExitCode
from services.corpus.errors import FailedPrecondition
from services.runtime.settings import TOKEN_VARIABLE, ConfigurationError, Settings, is_loopback, load

# A token of the development identity is minted again after this, in seconds; it is valid for longer.
_RENEWED = 1200.0


class CallerToken:
    """The metadata of calls to one address."""

    def __init__(self, address: str) -> None:
        # A development token is a secret of this machine: it is never sent to another one.
        self._local = is_loopback(address)
        self._minted: str | None = None
        self._minted_at = 0.0

    async def metadata(self) -> list[tuple[str, str]]:
        """The ``authorization`` header, if there is a token."""
        token = os.environ.get(TOKEN_VARIABLE, "").strip() or await self._development()
        return [("authorization", f"Bearer {token}")] if token else []

    async def _development(self) -> str | None:
        if not self._local:
            return None
        if self._minted is None or time.monotonic() - self._minted_at > _RENEWED:
            self._minted = await asyncio.to_thread(_mint)
            self._minted_at = time.monotonic()
        return self._minted


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
