"""What ``groundwire status`` knows, as tables for a terminal. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cli.status_view import (
    DEGRADED,
    FAILING,
    HEALTHY,
    OPEN,
    UNHEALTHY,
    Picture,
    ServiceView,
    health_of,
    kind_of,
    latency_of,
    searches_by,
    who_serves,
)
from cli.tables import fitted_table
from cli.text import one_line
from groundwire.generation.v1 import generation_service_pb2 as generation_pb
from groundwire.retrieval.v1 import retrieval_service_pb2 as retrieval_pb
from services.corpus.cleaning import cleaned

_COLOURS = {
    HEALTHY: "green",
    DEGRADED: "yellow",
    UNHEALTHY: "red",
    FAILING: "red",
    "closed": "green",
    "half-open": "yellow",
    OPEN: "red",
}
# From this width on a table says how fast endpoints answer, too, and shows more of a long address.
_WIDE = 100


def render(picture: Picture, width: int) -> RenderableType:
    """The picture as tables for a terminal of ``width`` columns, and below them why what is not well is not."""
    parts: list[RenderableType] = [_services_table(picture.services, width)]
    if picture.stores:
        parts += ["", _stores_table(picture.stores, width)]
    if picture.llms:
        parts += ["", _llms_table(picture.llms, width)]
    reasons = list(_reasons(picture))
    if reasons:
        parts += ["", *reasons]
    return Group(*parts)


def _services_table(services: Sequence[ServiceView], width: int) -> Table:
    wide = width >= _WIDE
    zones = any(endpoint.zone for service in services for endpoint in service.endpoints)
    # What is left for an address once every other column has what it needs at most.
    room = max(16, width - (86 if wide else 58) - (12 if zones else 0))
    columns = ["Service", "State", "Endpoint", "Role", *(["Zone"] if zones else []), "Breaker", "Now", "Calls"]
    table = _table(*columns, *(["Answer"] if wide else []), right=("Calls", "Answer"))
    for service in services:
        several = len(service.endpoints) > 1
        if several or not service.endpoints:
            count = f"{len(service.endpoints)} endpoints"
            table.add_row(service.service, _coloured(service.state), Text(count, style="dim"))
        for endpoint in service.endpoints:
            cells: list[str | Text] = [
                "" if several else service.service,
                _coloured(endpoint.state if several else service.state),
                _shortened(endpoint.address, room),
                endpoint.role,
                *([endpoint.zone] if zones else []),
                _coloured(endpoint.breaker),
                who_serves(endpoint.serving, sound=endpoint.state != UNHEALTHY and endpoint.breaker != OPEN),
                "" if endpoint.in_flight is None else str(endpoint.in_flight),
            ]
            took = endpoint.milliseconds
            table.add_row(*cells, *(["" if took is None else f"{took:.1f} ms"] if wide else []))
    return table


def _stores_table(stores: Sequence[retrieval_pb.StoreStatus], width: int) -> Table:
    heads = ("Vector store", "State", "Engine", "Finds by", "Passages", "Breaker", "Calls")
    rows = [
        (
            cleaned(store.name),
            _coloured(health_of(store)),
            cleaned(store.engine),
            searches_by(store, ", "),
            f"{store.chunk_count:,}",
            _coloured(store.breaker),
            str(store.in_flight),
        )
        for store in stores
    ]
    return fitted_table(heads, rows, width, yielding=("Vector store", "Engine"), right=("Passages", "Calls"))


def _llms_table(llms: Sequence[generation_pb.EndpointStatus], width: int) -> Table:
    wide = width >= _WIDE
    heads = ("LLM endpoint", "State", "Model", "Role", "Breaker", "Now", "Calls", *(["Answer"] if wide else []))
    rows: list[tuple[str | Text, ...]] = [
        (
            cleaned(llm.name),
            _coloured(health_of(llm)),
            kind_of(llm) if wide else cleaned(llm.model or llm.kind),
            cleaned(llm.role),
            _coloured(llm.breaker),
            who_serves(llm.serving, sound=llm.breaker != OPEN),
            str(llm.in_flight),
            *([latency_of(llm)] if wide else []),
        )
        for llm in llms
    ]
    return fitted_table(heads, rows, width, yielding=("LLM endpoint", "Model"), right=("Calls", "Answer"))


def _reasons(picture: Picture) -> Iterable[Text]:
    for service in picture.services:
        if service.state != HEALTHY:
            yield _reason(service.service, service.state, service.detail)
            continue
        for endpoint in service.endpoints:
            if endpoint.state != HEALTHY:
                yield _reason(f"{service.service} at {endpoint.address}", endpoint.state, endpoint.detail)
    for what, things in (("vector store", picture.stores or ()), ("LLM endpoint", picture.llms or ())):
        for thing in things:
            if thing.error_message or not thing.healthy:
                yield _reason(f"{what} {cleaned(thing.name)}", health_of(thing), one_line(thing.error_message))


def _reason(who: str, state: str, why: str) -> Text:
    return Text.assemble((who, "cyan"), " is ", _coloured(state), f": {why}" if why else "")


def _coloured(word: str) -> Text:
    return Text(cleaned(word), style=_COLOURS.get(word, ""))


def _shortened(address: str, room: int) -> str:
    """The end of a long address: sockets of one data directory differ there alone."""
    return address if len(address) <= room else f"…{address[1 - room :]}"


def _table(*columns: str, right: Sequence[str] = ()) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(
            column,
            overflow="fold",
            style="cyan" if column == columns[0] else None,
            justify="right" if column in right else "left",
        )
    return table
