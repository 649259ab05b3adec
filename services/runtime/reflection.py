"""Server reflection, v1 and v1alpha: what grpcurl and other tools ask to learn the contract.

grpcio-reflection offers v1alpha alone. The messages of v1 are the same on the wire, so one servicer answers both.
"""

from __future__ import annotations

from collections.abc import Sequence

import grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection import aio

SERVICES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
METHODS = tuple(f"/{service}/ServerReflectionInfo" for service in SERVICES)


def add_reflection(services: Sequence[str], server: grpc.aio.Server) -> None:
    """Let ``server`` describe ``services`` (full names) and the reflection services themselves."""
    servicer = aio.ReflectionServicer([*services, *SERVICES])
    for name in SERVICES:
        handlers = {
            "ServerReflectionInfo": grpc.stream_stream_rpc_method_handler(
                servicer.ServerReflectionInfo,
                request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
                response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
            )
        }
        server.add_registered_method_handlers(name, handlers)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
