"""Who may replace or delete a document, or decide who reads it. Pure."""

from __future__ import annotations

from services.corpus.principal import Caller
from services.security.permissions import EVERYTHING


def may_manage(caller: Caller, owner: str) -> bool:
    """Whether ``caller`` is ``owner``, such as "user:alice", or an administrator.

    Being able to read is not enough: a reader who replaced a document would own it and decide who else may read it.
    Nor is being an administrator: callers of this check besides that administrators can read the document.
    """
    return owner == principal_of(caller) or is_administrator(caller)


def principal_of(caller: Caller) -> str:
    """The caller as an owner."""
    return caller.user


def is_administrator(caller: Caller) -> bool:
    """Whether the caller may do everything in their tenant."""
    return EVERYTHING in caller.permissions
