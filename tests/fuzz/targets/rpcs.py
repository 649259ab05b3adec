"""Whole calls of every service's methods, against real servers in this process: any request, and bytes that are none.

A call ends with a status that a caller's own mistake may lead to, INVALID_ARGUMENT names fields, and good calls still
work. That an endpoint is away for a moment (UNAVAILABLE) is no finding: other work on the machine may cause it.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from random import Random
from typing import Any

import grpc
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from groundwire.audit.v1 import audit_service_pb2 as audit_pb
from groundwire.generation.v1 import generation_service_pb2 as generation_pb
from groundwire.ingestion.v1 import ingestion_service_pb2 as ingestion_pb
from groundwire.monitoring.v1 import monitoring_service_pb2 as monitoring_pb
from groundwire.query.v1 import query_service_pb2 as query_pb
from groundwire.retrieval.v1 import retrieval_service_pb2 as retrieval_pb
from groundwire.store.v1 import store_service_pb2 as store_pb
from tests.fuzz.engine import Fault
from tests.fuzz.messages import mutate_message
from tests.fuzz.mutations import mutate as mutate_bytes
from tests.integration.test_bad_input import ALLOWED, BUILT
from tests.support.mesh import Ended, Mesh, open_mesh, raw

_MODULES: dict[str, Any] = {
    "audit": audit_pb,
    "generation": generation_pb,
    "ingestion": ingestion_pb,
    "monitoring": monitoring_pb,
    "query": query_pb,
    "retrieval": retrieval_pb,
    "store": store_pb,
}
# In the order of the contract; an input's first byte is a place in it.
_METHODS: list[tuple[str, str, type[Message]]] = [
    (room, f"/{service.full_name}/{method.name}", GetMessageClass(method.input_type))
    for room, module in _MODULES.items()
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]
_ACCEPTED = ALLOWED | {grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED}
_METADATA: tuple[tuple[tuple[str, str], ...], ...] = (
    (),
    (("x-request-id", "a" * 129), ("traceparent", "00-x")),
    (("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), ("x-request-id", "r1"), ("tracestate", "=,")),
    (("authorization", "Bearer a.b.c"),),
    (("authorization", "Bearer"), ("authorization", "x")),
    (("grpc-timeout", "1n"), ("x-groundwire-acting-service", "query")),
)  # fmt: skip
_PLACES = {
    path.replace("/groundwire.", "").split(".")[0] + "/" + path.rpartition("/")[2]: n
    for n, (_, path, _) in enumerate(_METHODS)
}
_BETWEEN_CHECKS = 50
_BETWEEN_MESHES = 3000  # what earlier calls have written makes later ones slower

SEEDS = tuple(
    bytes([place, 0]) + (BUILT[name].SerializeToString() if name in BUILT else b"")
    for name, place in sorted(_PLACES.items())
)


def mutate(data: bytes, random: Random, others: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    """Change a request field by field; now and then the method or the metadata."""
    place, sent = (data[0], data[1]) if len(data) > 1 else (0, 0)
    message = data[2:]
    if random.random() < 0.1:
        place = random.randrange(len(_METHODS))
    if random.random() < 0.1:
        sent = random.randrange(len(_METADATA))
    kind = _METHODS[place % len(_METHODS)][2]
    if random.random() < 0.05:
        message = mutate_bytes(message, random, others, words)
    else:
        message = mutate_message(kind, message, random, (), words)
    return bytes([place, sent]) + message


class _World:
    """One mesh after another, on a loop of their own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._stack = AsyncExitStack()
        self._mesh: Mesh | None = None
        self._calls = 0

    def call(self, data: bytes) -> None:
        self._loop.run_until_complete(self._call(data))

    def close(self) -> None:
        self._loop.run_until_complete(self._close())

    async def _close(self) -> None:
        if self._mesh is not None:
            await self._stack.aclose()
        self._mesh = None

    async def _open(self) -> Mesh:
        if self._calls % _BETWEEN_MESHES == 0:
            await self._close()
        if self._mesh is None:
            os.environ["GROUNDWIRE_RETRIEVAL__STORE_TIMEOUT"] = "60"
            self._mesh = await self._stack.enter_async_context(open_mesh())
        self._calls += 1
        return self._mesh

    async def _call(self, data: bytes) -> None:
        mesh = await self._open()
        place, sent = (data[0], data[1]) if len(data) > 1 else (0, 0)
        room, path, _ = _METHODS[place % len(_METHODS)]
        metadata = _METADATA[sent % len(_METADATA)]
        # A watch goes on until its caller has seen enough.
        lasts = "/Watch" in path
        ended = await mesh.raw(room, path, data[2:], timeout=0.05 if lasts else 120, metadata=metadata)
        accepted = set(_ACCEPTED)
        if lasts:
            accepted.add(grpc.StatusCode.DEADLINE_EXCEEDED)
        if any(name == "authorization" for name, _ in metadata):
            accepted.add(grpc.StatusCode.UNAUTHENTICATED)
        if any(name == "grpc-timeout" for name, _ in metadata):
            accepted.add(grpc.StatusCode.DEADLINE_EXCEEDED)
        if ended.code not in accepted:
            raise Fault(f"{path} {ended.code.name}", f"{ended.reason} {ended.details}")
        if ended.code is grpc.StatusCode.INVALID_ARGUMENT and not ended.fields:
            raise Fault(f"{path} no fields", ended.details)
        if path.endswith("/IngestDocuments") and ended.responses:
            _check_documents(ended)
        if self._calls % _BETWEEN_CHECKS == 0:
            await _check_alive(mesh)


def _check_documents(ended: Ended) -> None:
    taken = ingestion_pb.IngestDocumentsResponse.FromString(ended.responses[0])
    assert ingestion_pb.FAILURE_REASON_INTERNAL not in {result.failure_reason for result in taken.results}, taken


async def _check_alive(mesh: Mesh) -> None:
    ends = time.monotonic() + 60
    for name in (
        "query/Query",
        "ingestion/ListCollections",
        "monitoring/GetTopology",
        "generation/ListEndpoints",
        "store/GetCapabilities",
    ):
        room = name.partition("/")[0]
        while True:
            ended = await _good(mesh, room, name)
            if ended is grpc.StatusCode.OK:
                break
            assert time.monotonic() < ends, (name, ended)


async def _good(mesh: Mesh, room: str, name: str) -> grpc.StatusCode:
    call = raw(mesh.channels[room], _METHODS[_PLACES[name]][1])(BUILT[name].SerializeToString(), timeout=60)
    try:
        async for _ in call:
            pass
    except grpc.aio.AioRpcError:
        pass
    code: grpc.StatusCode = await call.code()
    return code


_WORLD = _World()


def fuzz(data: bytes) -> None:
    """See the module."""
    _WORLD.call(data)


def close() -> None:
    """Stop the servers."""
    _WORLD.close()
