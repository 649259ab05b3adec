"""``groundwire status``: how everything is, asked all at once."""

from __future__ import annotations

import asyncio

import grpc

from cli.errors import ExitCode
from cli.output import Format, Screen
from cli.status_ask import Peers, Where
from cli.status_tables import render
from cli.status_view import UNHEALTHY, Picture, ServiceView, as_document, text_lines
from cli.text import plural

_REFUSED = frozenset({grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED})


async def show_status(screen: Screen, where: Where) -> int:
    """Ask everything, show it, and return the exit code."""
    async with Peers(where) as peers:
        picture = await look(peers)
    if screen.format is Format.JSON:
        screen.json(as_document(picture))
    elif screen.format is Format.TEXT:
        screen.text(*text_lines(picture))
    else:
        screen.table(render(picture, screen.out.width))
    if screen.format is not Format.JSON:
        _say_what_to_do(screen, picture)
    return ExitCode.OK if picture.all_well else ExitCode.UNAVAILABLE


async def look(peers: Peers) -> Picture:
    """Everything, from monitoring if it tells, and else from each service."""
    asked = {name: asyncio.ensure_future(peers.check(name)) for name in peers.where.addresses}
    try:
        (topology, why), stores, llms = await asyncio.gather(_topology(peers), peers.stores(), peers.llms())
        if topology is None:
            services = [await answer for answer in asked.values()]
        else:
            services = [await asked[each.service] if _elsewhere(each, peers.where) else each for each in topology]
    finally:
        for answer in asked.values():
            answer.cancel()
        await asyncio.wait(asked.values())
    return Picture(tuple(services), stores, llms, watched=topology is not None, why=why)


async def _topology(peers: Peers) -> tuple[tuple[ServiceView, ...] | None, str]:
    try:
        return await peers.topology(), ""
    except grpc.aio.AioRpcError as error:
        # A caller can do something about these; the services' own states tell the rest.
        return None, peers.why(error, "monitoring") if error.code() in _REFUSED else ""


def _elsewhere(service: ServiceView, where: Where) -> bool:
    """Whether the command line names an address for ``service`` that monitoring knows nothing of."""
    addresses = {endpoint.address for endpoint in service.endpoints}
    return service.service in where.given and where.addresses[service.service] not in addresses


def _say_what_to_do(screen: Screen, picture: Picture) -> None:
    nobody = all(service.state == UNHEALTHY for service in picture.services)
    if not picture.watched and not nobody:
        told = "monitoring does not tell: each service was asked, and knows only of itself"
        screen.note(f"{told}; {picture.why}" if picture.why else told, style="yellow")
    if picture.not_healthy and screen.pretty:
        remedy = "`groundwire up` starts it" if nobody else "`groundwire doctor` looks for the cause"
        count = plural(len(picture.services), "service")
        screen.note(f"{len(picture.not_healthy)} of {count} are not healthy: {remedy}", style="yellow")
