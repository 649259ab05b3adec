"""``groundwire status``: how everything is, asked all at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rich.table import Table
from rich.text import Text

from cli.ask import as_json
from cli.client import open_channel
from cli.errors import ExitCode, usage
from cli.output import Format, Screen
from cli.rpc_errors import explain, tls_problem
from cli.services import MESH, NAMES
from cli.text import clean, one_line
from groundwire.generation.v1 import generation_service_pb2 as generation_pb
from groundwire.generation.v1 import generation_service_pb2_grpc as generation_rpc
from groundwire.retrieval.v1 import retrieval_service_pb2 as retrieval_pb
from groundwire.retrieval.v1 import retrieval_service_pb2_grpc as retrieval_rpc
from services.runtime.settings import Settings, TlsOptions

SERVING = "serving"
NOT_READY = "not ready"
NOT_SERVING = "not serving"
UNREACHABLE = "unreachable"
_COLOURS = {SERVING: "green", NOT_READY: "yellow", NOT_SERVING: "red", UNREACHABLE: "red"}


@dataclass(frozen=True)
class Answer:
    """How one service is. ``milliseconds`` is how long its answer took; None without one."""

    service: str
    address: str
    state: str
    milliseconds: float | None = None
    detail: str = ""


def addresses(settings: Settings, given: Sequence[str], port_base: int | None) -> dict[str, str]:
    """Where each service is: from the settings, unless the command line says otherwise."""
    found = {name: settings.address(name) for name in NAMES}
    if port_base:
        found |= {name: f"127.0.0.1:{port_base + n}" for n, name in enumerate(MESH)}
    for text in given:
        name, _, address = text.partition("=")
        if name not in found or not address:
            raise usage(f"--address {text!r}: write NAME=ADDR with a name of {', '.join(found)}")
        found[name] = address
    return found


async def show_status(
    screen: Screen, where: Mapping[str, str], patience: float, *, tls: TlsOptions | None = None
) -> int:
    """Ask everything, show it, and return the exit code."""
    answers, stores, endpoints = await asyncio.gather(
        asyncio.gather(*(check(name, address, patience, tls) for name, address in where.items())),
        _list_stores(where["retrieval"], patience, tls),
        _list_endpoints(where["generation"], patience, tls),
    )
    if screen.format is Format.JSON:
        screen.json(
            {
                "services": [asdict(answer) for answer in answers],
                "stores": stores and [as_json(store) for store in stores.stores],
                "endpoints": endpoints and [as_json(endpoint) for endpoint in endpoints.endpoints],
            }
        )
    elif screen.format is Format.TEXT:
        screen.text(*_text_lines(answers, stores, endpoints))
    else:
        _show_tables(screen, answers, stores, endpoints)
    down = [answer for answer in answers if answer.state != SERVING]
    if down and screen.pretty:
        remedy = "`groundwire up` starts it" if len(down) == len(answers) else "`groundwire doctor` looks for the cause"
        screen.note(f"{len(down)} of {len(answers)} services are not serving: {remedy}", style="yellow")
    broken = [store for store in (stores.stores if stores else ()) if not store.healthy]
    broken_endpoints = [endpoint for endpoint in (endpoints.endpoints if endpoints else ()) if not endpoint.healthy]
    return ExitCode.UNAVAILABLE if down or broken or broken_endpoints else ExitCode.OK


async def check(name: str, address: str, patience: float, tls: TlsOptions | None = None) -> Answer:
    """Ask one service's health, and whether it is ready."""
    channel = open_channel(address, tls)
    stub = health_pb2_grpc.HealthStub(channel)
    start = time.perf_counter()
    try:
        alive = await stub.Check(health_pb2.HealthCheckRequest(service=""), timeout=patience)
        took = round((time.perf_counter() - start) * 1000, 1)
        if alive.status != health_pb2.HealthCheckResponse.SERVING:
            return Answer(name, address, NOT_SERVING, took, "it is starting or draining")
        ready = await stub.Check(health_pb2.HealthCheckRequest(service="readiness"), timeout=patience)
        if ready.status != health_pb2.HealthCheckResponse.SERVING:
            return Answer(name, address, NOT_READY, took, "it waits for something that it needs; its log says what")
        return Answer(name, address, SERVING, took)
    except grpc.aio.AioRpcError as error:
        code = error.code()
        if code is grpc.StatusCode.UNAVAILABLE:
            return Answer(name, address, UNREACHABLE, detail=tls_problem(error) or "nothing answers there")
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return Answer(name, address, UNREACHABLE, detail="it did not answer in time")
        return Answer(name, address, UNREACHABLE, detail=one_line(explain(error, name, address).message))
    finally:
        await channel.close()


async def _list_stores(address: str, patience: float, tls: TlsOptions | None) -> retrieval_pb.ListStoresResponse | None:
    channel = open_channel(address, tls)
    try:
        response: retrieval_pb.ListStoresResponse = await retrieval_rpc.RetrievalServiceStub(channel).ListStores(
            retrieval_pb.ListStoresRequest(), timeout=patience
        )
    except grpc.aio.AioRpcError:
        return None
    else:
        return response
    finally:
        await channel.close()


async def _list_endpoints(
    address: str, patience: float, tls: TlsOptions | None
) -> generation_pb.ListEndpointsResponse | None:
    channel = open_channel(address, tls)
    try:
        response: generation_pb.ListEndpointsResponse = await generation_rpc.GenerationServiceStub(
            channel
        ).ListEndpoints(generation_pb.ListEndpointsRequest(), timeout=patience)
    except grpc.aio.AioRpcError:
        return None
    else:
        return response
    finally:
        await channel.close()


def _store_row(store: retrieval_pb.StoreStatus) -> list[str]:
    can = " + ".join(word for word, able in (("meaning", store.dense), ("words", store.lexical)) if able) or "nothing"
    return [clean(store.name), clean(store.engine), can, f"{store.chunk_count:,} passages", *_condition(store)]


def _endpoint_row(endpoint: generation_pb.EndpointStatus) -> list[str]:
    kind = " ".join(clean(word) for word in (endpoint.kind, endpoint.model) if word)
    latency = endpoint.latency.ToMilliseconds()
    load = f"{endpoint.in_flight} in flight" + (f", {latency:,} ms" if latency else "")
    return [clean(endpoint.name), kind, "", load, *_condition(endpoint)]


def _condition(thing: Any) -> list[str]:
    breaker = f"breaker {thing.breaker}" if thing.breaker else ""
    detail = ", ".join(part for part in (breaker, one_line(thing.error_message)) if part)
    return ["healthy" if thing.healthy else "failing", detail]


def _show_tables(
    screen: Screen,
    answers: Sequence[Answer],
    stores: retrieval_pb.ListStoresResponse | None,
    endpoints: generation_pb.ListEndpointsResponse | None,
) -> None:
    table = _table("Service", "Address", "State", "Answer", "Detail")
    for answer in answers:
        took = "" if answer.milliseconds is None else f"{answer.milliseconds:.1f} ms"
        shown = Text(answer.state, style=_COLOURS[answer.state])
        table.add_row(answer.service, answer.address, shown, took, answer.detail)
    screen.table(table)
    for title, rows in (
        ("Vector store", [_store_row(store) for store in stores.stores] if stores else []),
        ("LLM endpoint", [_endpoint_row(endpoint) for endpoint in endpoints.endpoints] if endpoints else []),
    ):
        if not rows:
            continue
        screen.out.print()
        if title == "Vector store":
            table = _table(title, "Engine", "Searches by", "Holds", "State", "Detail")
        else:
            table = _table(title, "Kind", "", "Load", "State", "Detail")
        for *cells, state, detail in rows:
            table.add_row(*cells, Text(state, style="green" if state == "healthy" else "red"), detail)
        screen.table(table)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold", style="cyan" if column == columns[0] else None)
    return table


def _text_lines(
    answers: Sequence[Answer],
    stores: retrieval_pb.ListStoresResponse | None,
    endpoints: generation_pb.ListEndpointsResponse | None,
) -> list[str]:
    lines = [
        f"service\t{answer.service}\t{answer.address}\t{answer.state}\t{answer.detail}".rstrip() for answer in answers
    ]
    lines += ["\t".join(("store", *_store_row(store))).rstrip() for store in (stores.stores if stores else ())]
    lines += [
        "\t".join(("endpoint", *_endpoint_row(endpoint))).rstrip()
        for endpoint in (endpoints.endpoints if endpoints else ())
    ]
    return lines
