"""The services by name: where their settings and assemblies are. Imported when a service is started, not before."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from services.runtime.process import Process
    from services.runtime.server import Service
    from services.runtime.settings import Settings

STORE = "store"
# What `groundwire keys` and `groundwire backup` are to the services that they call: one of the mesh that only calls.
KEYS = "keys"
WITNESS = "witness"
# From the front of the mesh to its back: the order in which services stop.
TIERS = (("query", "ingestion"), ("retrieval", "generation"), ("audit", "monitoring"), (STORE, WITNESS))
# In the order of their default ports.
NAMES = ("query", "ingestion", "retrieval", "generation", "audit", "monitoring", STORE, WITNESS)
# Each of these has a process of its own, and a unix socket by default.
APART = (STORE, WITNESS)
MESH = tuple(name for name in NAMES if name not in APART)
_ROOMS = {WITNESS: "audit.witness"}


def settings_class(name: str) -> type[Settings]:
    """The settings of one service."""
    module = import_module(f"services.{_ROOMS.get(name, name)}.settings")
    found: type[Settings] = getattr(module, f"{name.capitalize()}Settings")
    return found


def assembly(name: str) -> Callable[[Any, Process], Awaitable[Service]]:
    """The composition root of one service."""
    found: Callable[[Any, Process], Awaitable[Service]] = import_module(
        f"services.{_ROOMS.get(name, name)}.assembly"
    ).assemble
    return found
