"""What ``groundwire status`` knows, and how it is shown: as a table, as lines, and as JSON. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cli.ask import as_json
from cli.services import NAMES
from cli.text import clean, one_line
from groundwire.generation.v1 import generation_service_pb2 as generation_pb
from groundwire.monitoring.v1 import monitoring_service_pb2 as pb
from groundwire.retrieval.v1 import retrieval_service_pb2 as retrieval_pb

Stores: TypeAlias = Sequence[retrieval_pb.StoreStatus] | None
Llms: TypeAlias = Sequence[generation_pb.EndpointStatus] | None
"""None where the service that knows did not answer."""

HEALTHY = "healthy"
DEGRADED = "degraded"
UNHEALTHY = "unhealthy"
_FAILING = "failing"
_OPEN = "open"
_COLOURS = {
    HEALTHY: "green",
    DEGRADED: "yellow",
    UNHEALTHY: "red",
    _FAILING: "red",
    "closed": "green",
    "half-open": "yellow",
    _OPEN: "red",
}
_HEALTH: Mapping[int, str] = {pb.SERVICE_HEALTH_HEALTHY: HEALTHY, pb.SERVICE_HEALTH_DEGRADED: DEGRADED}
_ROLES: Mapping[int, str] = {pb.ENDPOINT_ROLE_PRIMARY: "primary", pb.ENDPOINT_ROLE_BACKUP: "backup"}
# From this width on a table says how fast endpoints answer, too, and shows more of a long address.
_WIDE = 100


@dataclass(frozen=True)
class EndpointView:
    """One endpoint of a service. ``breaker`` is empty where nobody that can be asked calls it.

    ``serving`` and ``in_flight`` are None where only the endpoint itself was asked.
    """

    address: str
    state: str
    detail: str = ""
    role: str = ""
    zone: str = ""
    breaker: str = ""
    serving: bool | None = None
    in_flight: int | None = None
    milliseconds: float | None = None


@dataclass(frozen=True)
class ServiceView:
    """One service; ``detail`` says why it is not healthy."""

    service: str
    state: str
    detail: str
    endpoints: tuple[EndpointView, ...]


@dataclass(frozen=True)
class Picture:
    """Everything at one moment; ``watched`` says whether monitoring told about the services: else each was asked."""

    services: tuple[ServiceView, ...]
    stores: Stores
    llms: Llms
    watched: bool

    @property
    def not_healthy(self) -> list[ServiceView]:
        """The services that lack something."""
        return [service for service in self.services if service.state != HEALTHY]

    @property
    def all_well(self) -> bool:
        """Whether nothing at all is wrong."""
        parts_well = all(each.healthy for each in self.stores or ()) and all(each.healthy for each in self.llms or ())
        return parts_well and not self.not_healthy


def read_services(services: Iterable[pb.ServiceTopology]) -> tuple[ServiceView, ...]:
    """What monitoring says, in the order of the mesh."""
    order = {name: place for place, name in enumerate(NAMES)}
    found = [
        ServiceView(
            service=clean(service.service_name),
            state=_HEALTH.get(service.status, UNHEALTHY),
            detail=one_line(service.error_message),
            endpoints=tuple(map(_endpoint, service.endpoints)),
        )
        for service in services
    ]
    return tuple(sorted(found, key=lambda each: (order.get(each.service, len(order)), each.service)))


def _endpoint(endpoint: pb.EndpointTopology) -> EndpointView:
    took = endpoint.health.response_time.ToMicroseconds() / 1000
    return EndpointView(
        address=clean(endpoint.address),
        state=_HEALTH.get(endpoint.health.status, UNHEALTHY),
        detail=one_line(endpoint.health.error_message),
        role=_ROLES.get(endpoint.role, ""),
        zone=clean(endpoint.zone),
        breaker=clean(endpoint.breaker),
        serving=endpoint.serving,
        in_flight=endpoint.in_flight,
        milliseconds=round(took, 1) if took else None,
    )


def as_document(picture: Picture) -> dict[str, Any]:
    """The picture as one JSON document."""
    return {
        "services": [asdict(service) for service in picture.services],
        "stores": None if picture.stores is None else [as_json(store) for store in picture.stores],
        "endpoints": None if picture.llms is None else [as_json(endpoint) for endpoint in picture.llms],
        "monitoring": picture.watched,
    }


def text_lines(picture: Picture) -> list[str]:
    """The picture as lines of cells, with tabs between them: the first says what the line is about."""
    lines: list[tuple[str, ...]] = []
    for service in picture.services:
        lines.append(("service", service.service, service.state, service.detail))
        lines += [("endpoint", service.service, *_endpoint_cells(endpoint)) for endpoint in service.endpoints]
    lines += [("store", *_store_cells(store)) for store in picture.stores or ()]
    lines += [("llm", *_llm_cells(llm)) for llm in picture.llms or ()]
    return ["\t".join(cells).rstrip() for cells in lines]


def _endpoint_cells(endpoint: EndpointView) -> tuple[str, ...]:
    return (
        endpoint.address,
        endpoint.state,
        endpoint.role,
        endpoint.zone,
        _breaker(endpoint.breaker),
        _serves(endpoint.serving, sound=endpoint.state != UNHEALTHY and endpoint.breaker != _OPEN),
        "" if endpoint.in_flight is None else _in_flight(endpoint.in_flight),
        endpoint.detail,
    )


def _store_cells(store: retrieval_pb.StoreStatus) -> tuple[str, ...]:
    return (
        clean(store.name),
        health_of(store),
        clean(store.engine),
        _searches_by(store),
        f"{store.chunk_count:,} passages",
        _breaker(store.breaker),
        _in_flight(store.in_flight),
        one_line(store.error_message),
    )


def _llm_cells(llm: generation_pb.EndpointStatus) -> tuple[str, ...]:
    return (
        clean(llm.name),
        health_of(llm),
        _kind(llm),
        clean(llm.role),
        _breaker(llm.breaker),
        _serves(llm.serving, sound=llm.breaker != _OPEN),
        _in_flight(llm.in_flight),
        _latency(llm),
        one_line(llm.error_message),
    )


def health_of(thing: retrieval_pb.StoreStatus | generation_pb.EndpointStatus) -> str:
    """The state of a store, or of an endpoint that writes answers, in one word."""
    return HEALTHY if thing.healthy else _FAILING


def render(picture: Picture, width: int) -> RenderableType:
    """The picture as tables for a terminal of ``width`` columns, and below them why what is not well is not."""
    parts: list[RenderableType] = [_services_table(picture.services, width)]
    if picture.stores:
        parts += ["", _stores_table(picture.stores)]
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
                _serves(endpoint.serving, sound=endpoint.state != UNHEALTHY and endpoint.breaker != _OPEN),
                "" if endpoint.in_flight is None else str(endpoint.in_flight),
            ]
            took = endpoint.milliseconds
            table.add_row(*cells, *(["" if took is None else f"{took:.1f} ms"] if wide else []))
    return table


def _stores_table(stores: Sequence[retrieval_pb.StoreStatus]) -> Table:
    columns = ("Vector store", "State", "Engine", "Finds by", "Passages", "Breaker", "Calls")
    table = _table(*columns, right=("Passages", "Calls"))
    for store in stores:
        table.add_row(
            clean(store.name),
            _coloured(health_of(store)),
            clean(store.engine),
            _searches_by(store, ", "),
            f"{store.chunk_count:,}",
            _coloured(store.breaker),
            str(store.in_flight),
        )
    return table


def _llms_table(llms: Sequence[generation_pb.EndpointStatus], width: int) -> Table:
    wide = width >= _WIDE
    columns = ("LLM endpoint", "State", "Model", "Role", "Breaker", "Now", "Calls")
    table = _table(*columns, *(["Answer"] if wide else []), right=("Calls", "Answer"))
    for llm in llms:
        table.add_row(
            clean(llm.name),
            _coloured(health_of(llm)),
            _kind(llm) if wide else clean(llm.model or llm.kind),
            clean(llm.role),
            _coloured(llm.breaker),
            _serves(llm.serving, sound=llm.breaker != _OPEN),
            str(llm.in_flight),
            *([_latency(llm)] if wide else []),
        )
    return table


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
                yield _reason(f"{what} {clean(thing.name)}", health_of(thing), one_line(thing.error_message))


def _reason(who: str, state: str, why: str) -> Text:
    return Text.assemble((who, "cyan"), " is ", _coloured(state), f": {why}" if why else "")


def _coloured(word: str) -> Text:
    return Text(clean(word), style=_COLOURS.get(word, ""))


def _breaker(state: str) -> str:
    return f"breaker {clean(state)}" if state else ""


def _serves(serving: bool | None, *, sound: bool) -> str:
    if serving is None:
        return ""
    return "serves" if serving else "waits" if sound else "is out"


def _in_flight(count: int) -> str:
    return f"{count:,} in flight"


def _latency(llm: generation_pb.EndpointStatus) -> str:
    latency = llm.latency.ToMilliseconds()
    return f"{latency:,} ms" if latency else ""


def _kind(llm: generation_pb.EndpointStatus) -> str:
    return " ".join(clean(word) for word in (llm.kind, llm.model) if word)


def _searches_by(store: retrieval_pb.StoreStatus, between: str = " + ") -> str:
    return (
        between.join(word for word, able in (("meaning", store.dense), ("words", store.lexical)) if able) or "nothing"
    )


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
