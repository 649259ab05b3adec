"""Who calls: the bridge between the authentication interceptor and the domain."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from interceptors import current
from interceptors._shapes import Call
from services.corpus.errors import Unauthenticated
from services.corpus.principal import Caller
from services.runtime.settings import Settings
from services.security.permissions import permissions_of, role_table


def current_caller() -> Caller:
    """The verified identity behind the call that is being served; fails closed where there is none."""
    caller = current.caller.get()
    if not isinstance(caller, Caller):
        raise Unauthenticated
    return caller


def development_identity(settings: Settings) -> Callable[[Call], Awaitable[Caller]]:
    """Everybody is the one developer that the settings name; servers accept this on loopback alone."""
    options = settings.development
    caller = Caller(
        tenant=options.tenant,
        subject=options.subject,
        groups=frozenset(options.groups),
        permissions=permissions_of(options.roles, role_table(settings.authorization.roles)),
        acting_service="development",
    )

    async def identify(_call: Call) -> Caller:
        return caller

    return identify
