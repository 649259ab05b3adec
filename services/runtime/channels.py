"""Channels to other services: health-aware, bounded, and carrying the current call's context on."""

from __future__ import annotations

import json

import grpc
from opentelemetry.trace import Tracer

from interceptors.client import Outgoing

# Kept back from the caller's deadline on every hop, in seconds, so that a late failure can still be reported.
DEADLINE_MARGIN = 0.05

_SERVICE_CONFIG = json.dumps(
    {
        # Health-checked round robin: a backend that drains loses its traffic at once, before it refuses a call.
        "loadBalancingConfig": [{"round_robin": {}}],
        "healthCheckConfig": {"serviceName": ""},
    }
)


def target(address: str) -> str:
    """The gRPC target of an address: names are resolved to all of their endpoints, sockets are taken as they are."""
    return address if address.startswith(("unix:", "dns:", "ipv4:", "ipv6:", "xds:")) else f"dns:///{address}"


def open_channel(
    address: str, *, tracer: Tracer | None = None, max_message_bytes: int = 64 * 1024 * 1024
) -> grpc.aio.Channel:
    """A channel to ``address``; nothing is sent until the first call."""
    options: list[tuple[str, str | int]] = [
        ("grpc.service_config", _SERVICE_CONFIG),
        ("grpc.enable_retries", 0),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 5_000),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        # Each channel has connections of its own: one stuck subchannel must not be everybody's.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if address.startswith("unix:"):
        options.append(("grpc.default_authority", "localhost"))
    return grpc.aio.insecure_channel(
        target(address), options=options, interceptors=[Outgoing(tracer=tracer, margin=DEADLINE_MARGIN)]
    )
