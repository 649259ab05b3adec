"""``groundwire status --watch``: how everything is, until Ctrl-C.

Monitoring pushes each change. Beside that it is asked for numbers that it does not announce, which also shows that it
lives: a process that is stopped keeps its connections. While it does not answer, the services are asked themselves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, NoReturn, Protocol, TypeVar

import grpc
from rich.console import Group
from rich.live import Live
from rich.text import Text

from cli.output import Format, Screen
from cli.rpc_errors import explain
from cli.status_ask import Peers, Where
from cli.status_changes import changes
from cli.status_tables import render
from cli.status_view import Llms, Picture, ServiceView, Stores

_T = TypeVar("_T")
REFRESH = 2.0
_FIRST_RETRY, _LAST_RETRY = 0.2, 2.0
# What trying again does not change.
_FINAL = (
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.INVALID_ARGUMENT,
)


async def watch_status(screen: Screen, where: Where) -> NoReturn:
    """Show everything, and each change of it, until the command is interrupted."""
    show = _Table(screen) if screen.pretty else _Lines(screen)
    async with Peers(where) as peers:
        with show.shown():
            await Watch(peers, show).run()
    raise AssertionError("a watch does not end by itself")


class Show(Protocol):
    """Where a watch shows what it sees."""

    def shown(self) -> AbstractContextManager[object]:
        """What surrounds the watch."""

    def picture(self, picture: Picture) -> None:
        """Everything is so now."""

    def lost(self, why: str) -> None:
        """Monitoring does not answer any more; the services themselves are asked from now on."""

    def found(self) -> None:
        """Monitoring answers again."""


class Watch:
    """Follows the mesh over ``peers`` and tells ``show``."""

    def __init__(self, peers: Peers, show: Show, *, refresh: float = REFRESH) -> None:
        self._peers = peers
        self._show = show
        self._refresh = refresh
        self._services: Sequence[ServiceView] = ()
        self._stores: Stores = None
        self._llms: Llms = None
        self._lost = False
        self._told = 0

    async def run(self) -> NoReturn:
        """Never returns; raises CliError where monitoring refuses to tell."""
        await _first(self._follow(), self._look_at_the_rest())
        raise AssertionError("neither ends by itself")

    async def _follow(self) -> NoReturn:
        pause = 0.0
        while True:
            told = self._told
            try:
                why = await _first(self._listen(), self._ask())
            except grpc.aio.AioRpcError as error:
                # A watch may outlive the token that it began with: then it goes on with a new one, if there is one.
                expired = error.code() is grpc.StatusCode.UNAUTHENTICATED and self._told > told
                if error.code() in _FINAL and not expired:
                    raise explain(error, "monitoring", self._peers.where.addresses["monitoring"]) from error
                why = self._peers.why(error, "monitoring")
                if self._told > told:
                    # A connection that was fine has ended: only if no other one comes about, that is told.
                    pause = _FIRST_RETRY
                    await asyncio.sleep(pause)
                    continue
            if not self._lost:
                self._lost = True
                self._show.lost(why)
            pause = min(max(2 * pause, _FIRST_RETRY), _LAST_RETRY)
            await asyncio.sleep(pause)

    async def _listen(self) -> str:
        """Hear of changes until monitoring has no more to say; raises AioRpcError when the connection ends."""
        async for services in self._peers.topologies():
            self._tell(services)
        return "it stops"

    async def _ask(self) -> str:
        """Ask now and then until there is no answer in time; raises AioRpcError when the connection ends."""
        while True:
            await asyncio.sleep(self._refresh)
            told = self._told
            try:
                services = await self._peers.topology()
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                    return self._peers.why(error, "monitoring")
                raise
            if told == self._told:
                # What was pushed meanwhile is newer.
                self._tell(services)

    def _tell(self, services: Sequence[ServiceView]) -> None:
        self._told += 1
        if self._lost:
            self._lost = False
            self._show.found()
        self._services = services
        self._draw()

    async def _look_at_the_rest(self) -> NoReturn:
        peers = self._peers
        while True:
            self._stores, self._llms = await asyncio.gather(peers.stores(), peers.llms())
            if self._lost:
                told = self._told
                services = await asyncio.gather(*map(peers.check, peers.where.addresses))
                if told == self._told:
                    # Monitoring has not come back meanwhile.
                    self._services = services
            self._draw()
            await asyncio.sleep(self._refresh)

    def _draw(self) -> None:
        if self._services:
            self._show.picture(Picture(tuple(self._services), self._stores, self._llms, watched=not self._lost))


async def _first(*work: Coroutine[Any, Any, _T]) -> _T:
    """The result, or the exception, of what ends first; the rest is cancelled."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return done.pop().result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


class _Table:
    """On a terminal: tables that are drawn again and again."""

    def __init__(self, screen: Screen) -> None:
        self._console = screen.out
        self._live = Live(console=screen.out, auto_refresh=False)
        self._picture: Picture | None = None
        self._lost = ""

    def shown(self) -> AbstractContextManager[object]:
        """See :class:`Show`."""
        return self._live

    def picture(self, picture: Picture) -> None:
        """See :class:`Show`."""
        self._picture = picture
        self._draw()

    def lost(self, why: str) -> None:
        """See :class:`Show`."""
        self._lost = f"monitoring is lost since {datetime.now().astimezone():%H:%M:%S}: {why}. Trying again …"
        self._draw()

    def found(self) -> None:
        """See :class:`Show`."""
        self._lost = ""

    def _draw(self) -> None:
        now = Text(f"{datetime.now().astimezone():%H:%M:%S}  Ctrl-C ends", style="dim")
        lost = [Text(self._lost, style="yellow")] if self._lost else []
        seen = [render(self._picture, self._console.width), ""] if self._picture is not None else []
        self._live.update(Group(*seen, *lost, now), refresh=True)


class _Lines:
    """Elsewhere: a line for each change, with its time."""

    def __init__(self, screen: Screen, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._screen = screen
        self._now = now
        self._last: Picture | None = None

    def shown(self) -> AbstractContextManager[object]:
        """See :class:`Show`."""
        return nullcontext()

    def picture(self, picture: Picture) -> None:
        """See :class:`Show`."""
        if self._last is not None:
            # Who does not answer has not taken back what they said.
            stores, llms = picture.stores, picture.llms
            picture = replace(
                picture,
                stores=self._last.stores if stores is None else stores,
                llms=self._last.llms if llms is None else llms,
            )
        now = self._now()
        for change in changes(self._last, picture):
            if self._screen.format is Format.JSON:
                self._json(change.as_document(now))
            else:
                self._screen.text(change.line(now))
        self._last = picture

    def lost(self, why: str) -> None:
        """See :class:`Show`."""
        self._watch("lost", f"monitoring is lost: {why}; the services themselves are asked until it is back", why)

    def found(self) -> None:
        """See :class:`Show`."""
        self._watch("found", "monitoring is back")

    def _watch(self, after: str, words: str, detail: str = "") -> None:
        now = self._now()
        if self._screen.format is Format.JSON:
            self._json(
                {"time": now.isoformat(timespec="milliseconds"), "kind": "watch", "after": after, "detail": detail}
            )
        else:
            self._screen.text(f"{now.isoformat(timespec='seconds')} {words}")

    def _json(self, document: object) -> None:
        self._screen.json_line(document)
