"""Looking up the endpoints behind names, again and again: on Kubernetes a headless service's pods come and go."""

from __future__ import annotations

import asyncio
import contextvars
import socket
from collections.abc import Awaitable, Callable, Sequence

import structlog

from services.resilience.endpoints import Endpoint, Role
from services.resilience.targets import Target, TargetKind

# How often names are looked up, in seconds; sooner when something went down.
INTERVAL = 5.0
SOONEST = 0.5
_log = structlog.get_logger(__name__)

Lookup = Callable[[str, int], Awaitable[Sequence[str]]]
"""From a host's name and a port to the addresses ``host:port`` that it has; raises OSError."""


async def system_lookup(host: str, port: int) -> list[str]:
    """What the system's resolver says. IPv4 alone where there is both: a server with two addresses is one server."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    families = {info[0] for info in found}
    family = socket.AF_INET if socket.AF_INET in families else socket.AF_INET6
    hosts = sorted({str(info[4][0]) for info in found if info[0] is family})
    return [f"[{each}]:{port}" if family is socket.AF_INET6 else f"{each}:{port}" for each in hosts]


class Resolver:
    """Keeps what ``targets`` stand for up to date, and tells ``changed``.

    A name that cannot be looked up keeps the endpoints that it had: a resolver that is away must not empty a mesh.
    """

    def __init__(
        self,
        targets: Sequence[tuple[Target, Role]],
        changed: Callable[[Sequence[Endpoint]], None],
        *,
        lookup: Lookup = system_lookup,
        interval: float = INTERVAL,
    ) -> None:
        self._targets = list(targets)
        self._changed = changed
        self._lookup = lookup
        self._interval = interval
        self._found: dict[Target, list[str]] = {}
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def fixed(self) -> bool:
        """Whether nothing needs to be looked up."""
        return all(target.kind is not TargetKind.NAME for target, _ in self._targets)

    def endpoints(self) -> list[Endpoint]:
        """Every endpoint, as far as names were looked up."""
        found: dict[Endpoint, None] = {}
        for target, role in self._targets:
            name = target.host if target.kind is TargetKind.NAME else ""
            known = self._found.get(target, []) if name else [target.address]
            found.update(dict.fromkeys(Endpoint(address, role, target.zone, name) for address in known))
        return list(found)

    def start(self) -> None:
        """Begin to look names up."""
        if not self.fixed and self._task is None:
            self._task = asyncio.create_task(self._follow(), context=contextvars.Context())

    def hurry(self) -> None:
        """Something is not there any more: look soon."""
        self._wanted.set()

    async def look(self) -> None:
        """Look every name up now."""
        names = [target for target, _ in self._targets if target.kind is TargetKind.NAME]
        answers = await asyncio.gather(
            *(self._lookup(target.host, target.port) for target in names), return_exceptions=True
        )
        for target, answer in zip(names, answers, strict=True):
            if isinstance(answer, Exception):
                reason = answer.strerror if isinstance(answer, OSError) else type(answer).__name__
                _log.warning("a name cannot be looked up", host=target.host, reason=reason)
            elif isinstance(answer, BaseException):
                raise answer
            elif answer:
                self._found[target] = list(answer)
        self._changed(self.endpoints())

    async def close(self) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _follow(self) -> None:
        while True:
            await self.look()
            try:
                async with asyncio.timeout(self._interval):
                    await self._wanted.wait()
            except TimeoutError:
                continue
            self._wanted.clear()
            await asyncio.sleep(SOONEST)
