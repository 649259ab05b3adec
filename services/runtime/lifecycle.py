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
    or more later, ends the process at once. Servers that share their addresses also stop on SIGHUP, but let their
    callers go to the others first.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    leave = asyncio.Event()
    sharing = [server for tier in tiers for server in tier if server.shared]
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
    if sharing:
        loop.add_signal_handler(signal.SIGHUP, leave.set)
    stopped = asyncio.ensure_future(stop.wait())
    left = asyncio.ensure_future(_let_go(sharing, leave))
    await asyncio.wait((stopped, left), return_when=asyncio.FIRST_COMPLETED)
    replaced = not stop.is_set()
    for waiting in (stopped, left):
        waiting.cancel()
    for tier in tiers:
        await asyncio.gather(
            *(server.drain(delay=0.0, announce=False) if replaced else server.drain() for server in tier)
        )


async def _let_go(sharing: Sequence[Server], leave: asyncio.Event) -> None:
    await leave.wait()
    _log.info("leaving: others serve this address", services=[server.service.name for server in sharing])
    await asyncio.gather(*(server.let_go() for server in sharing))


def die_with_parent() -> None:
    """Ask Linux to send this process SIGTERM when its parent dies, so that a killed supervisor leaves nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
