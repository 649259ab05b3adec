"""The life of a process: serve until told to stop, then drain in an order that loses nothing."""

from __future__ import annotations

import asyncio
import ctypes
import signal
import sys
from collections.abc import Sequence

import structlog

from services.runtime.server import Server

_log = structlog.get_logger(__name__)
_PR_SET_PDEATHSIG = 1
# Linux sends the parent-death signal once for each thread of a dying parent: so close together, they are one.
_SAME_SIGNAL_SECONDS = 1.0


async def serve_until_stopped(tiers: Sequence[Sequence[Server]]) -> None:
    """Wait for SIGTERM or SIGINT, then drain ``tiers`` one after another, the servers of one tier together.

    Tiers go from the front of the mesh to its back: a service keeps answering, and says so to health checks, until
    those that call it have ended their last call. A second signal, a second
    or more later, ends the process at once.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    first = 0.0

    def on_signal(number: int) -> None:
        nonlocal first
        if stop.is_set():
            if loop.time() - first > _SAME_SIGNAL_SECONDS:
                sys.exit(128 + number)
            return
        first = loop.time()
        _log.info("draining", signal=signal.Signals(number).name)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    await stop.wait()
    for tier in tiers:
        await asyncio.gather(*(server.drain() for server in tier))


def die_with_parent() -> None:
    """Ask Linux to send this process SIGTERM when its parent dies, so that a killed supervisor leaves nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
