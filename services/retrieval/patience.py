"""How long one part of a search is waited for, when the caller has little time left. Pure."""

from __future__ import annotations

from interceptors import current

_SHARE = 0.5


def patience(limit: float) -> float:
    """``limit`` seconds, or half of the time that the caller has left where that is less: the rest needs time, too."""
    remaining = current.remaining()
    return limit if remaining is None else min(limit, _SHARE * remaining)
