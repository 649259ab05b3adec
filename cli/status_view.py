"""What ``groundwire status`` knows, as lines and as JSON. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from cli.ask import as_json
from cli.services import NAMES
from cli.text import one_line
from groundwire.generation.v1 import generation_service_pb2 as generation_pb
from groundwire.monitoring.v1 import monitoring_service_pb2 as pb
from groundwire.retrieval.v1 import retrieval_service_pb2 as retrieval_pb
from services.corpus.cleaning import cleaned

Stores: TypeAlias = Sequence[retrieval_pb.StoreStatus] | None
Llms: TypeAlias = Sequence[generation_pb.EndpointStatus] | None
"""None where the service that knows did not answer."""

HEALTHY = "healthy"
DEGRADED = "degraded"
UNHEALTHY = "unhealthy"
FAILING = "failing"
OPEN = "open"
_HEALTH: Mapping[int, str] = {pb.SERVICE_HEALTH_HEALTHY: HEALTHY, pb.SERVICE_HEALTH_DEGRADED: DEGRADED}
_ROLES: Mapping[int, str] = {pb.ENDPOINT_ROLE_PRIMARY: "primary", pb.ENDPOINT_ROLE_BACKUP: "backup"}


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
    """Everything at one moment; ``watched`` says whether monitoring told about the services: else each was asked.

    ``why`` is what the caller lacks, if that is why monitoring did not tell.
    """

    services: tuple[ServiceView, ...]
    stores: Stores
    llms: Llms
    watched: bool
    why: str = ""

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
            service=cleaned(service.service_name),
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
        address=cleaned(endpoint.address),
        state=_HEALTH.get(endpoint.health.status, UNHEALTHY),
        detail=one_line(endpoint.health.error_message),
        role=_ROLES.get(endpoint.role, ""),
        zone=cleaned(endpoint.zone),
        breaker=cleaned(endpoint.breaker),
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
        who_serves(endpoint.serving, sound=endpoint.state != UNHEALTHY and endpoint.breaker != OPEN),
        "" if endpoint.in_flight is None else _in_flight(endpoint.in_flight),
        endpoint.detail,
    )


def _store_cells(store: retrieval_pb.StoreStatus) -> tuple[str, ...]:
    return (
        cleaned(store.name),
        health_of(store),
        cleaned(store.engine),
        searches_by(store),
        f"{store.chunk_count:,} passages",
        _breaker(store.breaker),
        _in_flight(store.in_flight),
        one_line(store.error_message),
    )


def _llm_cells(llm: generation_pb.EndpointStatus) -> tuple[str, ...]:
    return (
        cleaned(llm.name),
        health_of(llm),
        kind_of(llm),
        cleaned(llm.role),
        _breaker(llm.breaker),
        who_serves(llm.serving, sound=llm.breaker != OPEN),
        _in_flight(llm.in_flight),
        latency_of(llm),
        one_line(llm.error_message),
    )


def health_of(thing: retrieval_pb.StoreStatus | generation_pb.EndpointStatus) -> str:
    """The state of a store, or of an endpoint that writes answers, in one word."""
    return HEALTHY if thing.healthy else FAILING


def _breaker(state: str) -> str:
    return f"breaker {cleaned(state)}" if state else ""


def who_serves(serving: bool | None, *, sound: bool) -> str:
    """Whether calls go to something now and, if they do not, whether they could; empty where nobody knows."""
    if serving is None:
        return ""
    return "serves" if serving else "waits" if sound else "is out"


def _in_flight(count: int) -> str:
    return f"{count:,} in flight"


def latency_of(llm: generation_pb.EndpointStatus) -> str:
    """How long an answer takes, in milliseconds; empty before the first."""
    latency = llm.latency.ToMilliseconds()
    return f"{latency:,} ms" if latency else ""


def kind_of(llm: generation_pb.EndpointStatus) -> str:
    """How an endpoint is reached, and its model."""
    return " ".join(cleaned(word) for word in (llm.kind, llm.model) if word)


def searches_by(store: retrieval_pb.StoreStatus, between: str = " + ") -> str:
    """By what a store can search."""
    return (
        between.join(word for word, able in (("meaning", store.dense), ("words", store.lexical)) if able) or "nothing"
    )
