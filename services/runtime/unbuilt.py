"""RPCs that the contract promises and this release does not offer yet.

A servicer names each as ``CreateIngestionJob = unbuilt``; the table in ARCHITECTURE.md is tested against that.
"""

from __future__ import annotations

from typing import Any

from services.corpus.errors import NotYetImplemented


async def _unbuilt(_self: Any, _request: Any, _context: Any) -> Any:
    raise NotYetImplemented("this method is part of the contract, but this release does not offer it yet")


# Typed as Any because it stands in for methods of every shape.
unbuilt: Any = _unbuilt


def unbuilt_methods(servicer: type) -> frozenset[str]:
    """The names of the RPCs that ``servicer`` leaves unbuilt."""
    return frozenset(name for name in dir(servicer) if getattr(servicer, name) is unbuilt)
