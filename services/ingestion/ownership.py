"""Who may replace a document or decide who reads it. Pure."""

from __future__ import annotations

from services.corpus.principal import Caller
from services.security.permissions import EVERYTHING


def may_manage(caller: Caller, owner: str) -> bool:
    """Whether ``caller`` is ``owner``, such as "user:alice", or an administrator.

    Being able to read is not enough: a reader who replaced a document would own it and decide who else may read it.
    """
    return owner == f"user:{caller.subject}" or EVERYTHING in caller.permissions
