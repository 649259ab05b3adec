"""One port for several processes (SO_REUSEPORT, see socket(7)): the kernel spreads connections over their listeners.

The option lets any process of the same user join, which would make a port that is taken a silent accident. So whoever
starts the processes holds the port for as long as they may run: :func:`reserve`.

Connections are spread, not calls, so each has an age after which it begins anew (gRPC's proposal A9): its calls end
where they are, the next ones go to whoever takes the new connection. That is also how a process leaves without a failed
call (:func:`let_go`). gRPC can close a listener only together with its server, which then answers calls that were on
their way CANCELLED; an ageing connection lets them arrive.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

_ANY = ("0.0.0.0", "::")  # noqa: S104 - names what the settings may say
# Of families that a machine may lack, such as ::1 for localhost.
_ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
# gRPC varies ages by a tenth, and a farewell takes a round trip.
_JITTER = 1.1
_FAREWELL_SECONDS = 5.0
_FAREWELL_INTERVAL = 0.1
_EMPTY_SECONDS, _EMPTY_INTERVAL = 2.0, 0.001
# Without an end, a watch would keep its old connection for ever.
_LONGEST_CALL_MS = 3_600_000
_Where = tuple[Any, ...]  # host and port, and for IPv6 two numbers more


class Reservation:
    """Holds a port without listening on it; :attr:`port` is the one that was found when any was asked for."""

    def __init__(self, sockets: list[socket.socket]) -> None:
        self._sockets = sockets
        self.port = int(sockets[0].getsockname()[1])

    def close(self) -> None:
        """Let others have the port."""
        for held in self._sockets:
            held.close()


def reserve(host: str, port: int) -> Reservation:
    """Take ``port`` (0: any) for processes that listen on it together, and for nobody else.

    Whoever listens, or holds the port in this way, keeps others out, with SO_REUSEPORT or without; connections that
    have just ended do not. Raises OSError.
    """
    absent: OSError | None = None
    held: list[socket.socket] = []
    with ExitStack() as stack:
        for family, where in _places(host, port):
            # The port that was found for the first place is the port of all.
            chosen = held[0].getsockname()[1] if held else port
            try:
                bound = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
                _hold(bound, (where[0], chosen, *where[2:]))
            except OSError as error:
                if error.errno not in _ABSENT:
                    raise
                absent = error
            else:
                held.append(bound)
                if host in _ANY:
                    break  # one place for both families
        if not held:
            raise absent or OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
        stack.pop_all()
    return Reservation(held)


def options(age: float | None) -> list[tuple[str, int]]:
    """GRPC's arguments of a server that shares its port, whose connections begin anew after ``age`` seconds.

    None is for all others: to them a taken port must be an error.
    """
    if age is None:
        return [("grpc.so_reuseport", 0)]
    return [
        ("grpc.so_reuseport", 1),
        ("grpc.max_connection_age_ms", round(age * 1000)),
        ("grpc.max_connection_age_grace_ms", _LONGEST_CALL_MS),
    ]


async def let_go(port: int, age: float) -> None:
    """Stop listening on ``port`` and return when no caller comes any more: all connections ended, or reached ``age``."""
    end = asyncio.get_running_loop().time() + age * _JITTER + _FAREWELL_SECONDS
    await asyncio.to_thread(stop_listening, port)
    while asyncio.get_running_loop().time() < end:
        if not await asyncio.to_thread(connections, port):
            return
        await asyncio.sleep(_FAREWELL_INTERVAL)


def stop_listening(port: int) -> None:
    """Take no new connections on ``port`` in this process, and leave those that there are alone.

    The kernel resets connections that nobody has accepted yet, unless it may hand them to other listeners
    (``net.ipv4.tcp_migrate_req``), so this waits, for a bounded time, for a moment in which there are none. Blocking.
    """
    for opened in _sockets(port):
        if opened.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            end = time.monotonic() + _EMPTY_SECONDS
            while _unaccepted(opened) and time.monotonic() < end:
                time.sleep(_EMPTY_INTERVAL)
            with suppress(OSError):
                opened.shutdown(socket.SHUT_RD)


def connections(port: int) -> int:
    """How many connections to ``port`` this process has."""
    return sum(map(_is_connected, _sockets(port)))


def _places(host: str, port: int) -> list[tuple[socket.AddressFamily, _Where]]:
    if host in _ANY:  # gRPC listens on both families then, where there are both
        return [(socket.AF_INET6, ("::", port)), (socket.AF_INET, ("0.0.0.0", port))]  # noqa: S104 - as asked for
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, where) for family, _, _, _, where in found]


def _hold(bound: socket.socket, where: _Where) -> None:
    if where[0] == "::":
        bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    # Bound for itself alone, so that it fails when anybody listens; only then open for those who say that they share.
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(where)
    # Left on, it would let another one hold the port as well until somebody listens.
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)


def _unaccepted(listener: socket.socket) -> int:
    """How many connections wait for an accept: what TCP_INFO calls ``tcpi_unacked``, for a socket that listens."""
    return int.from_bytes(listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 28)[24:28], sys.byteorder)


def _is_connected(opened: socket.socket) -> bool:
    try:
        opened.getpeername()
    except OSError:
        return False
    return True


def _sockets(port: int) -> Iterator[socket.socket]:
    """This process's TCP sockets that are bound to ``port``."""
    for entry in list(Path("/proc/self/fd").iterdir()):
        found = _socket(int(entry.name))
        if found is not None:
            with closing(found), suppress(OSError):
                if found.family in (socket.AF_INET, socket.AF_INET6) and found.getsockname()[1] == port:
                    yield found


def _socket(descriptor: int) -> socket.socket | None:
    try:
        copy = os.dup(descriptor)
    except OSError:
        return None  # closed meanwhile
    try:
        return socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        return None
