"""Channels to other services: health-aware, bounded, and carrying the current call's context on."""

from __future__ import annotations

import json

import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry.trace import Tracer

from interceptors.client import Credentials, outgoing
from services.corpus.errors import Unavailable
from services.runtime.addresses import target
from services.runtime.renewing_channel import RenewingChannel
from services.runtime.sockets import PREFIX, untrusted
from services.runtime.tls import ReloadingTls, channel_credentials
from services.runtime.tls_files import TlsMaterial

# Kept back from the caller's deadline on every hop, in seconds, so that a late failure can still be reported.
DEADLINE_MARGIN = 0.05
# How long nothing is heard during a call before the peer is sent a ping, in seconds; servers allow one in
# ``connections.min_ping_interval``.
KEEPALIVE = 30.0
_log = structlog.get_logger(__name__)

_SERVICE_CONFIG = json.dumps(
    {
        # Health-checked round robin: a backend that drains loses its traffic at once, before it refuses a call.
        "loadBalancingConfig": [{"round_robin": {}}],
        "healthCheckConfig": {"serviceName": ""},
    }
)


def open_channel(
    address: str,
    *,
    tracer: Tracer | None = None,
    credentials: Credentials | None = None,
    tls: ReloadingTls | None = None,
    health_checked: bool = True,
    server_name: str = "",
    max_message_bytes: int = 64 * 1024 * 1024,
) -> grpc.aio.Channel:
    """A channel to ``address``; nothing is sent until the first call.

    With ``tls`` the server's certificate must be of its authorities and for the host of ``address``; renewed files are
    taken up while it is open. Unless ``health_checked``, calls are sent to peers that say that they do not serve, too.
    ``server_name`` is the host that the server proves to be, where ``address`` is one of those that it was looked up as.
    """
    options: list[tuple[str, str | int]] = [
        *([("grpc.service_config", _SERVICE_CONFIG)] if health_checked else []),
        ("grpc.enable_retries", 0),
        # gRPC would send even loopback addresses through the http_proxy of the environment.
        ("grpc.enable_http_proxy", 0),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.keepalive_time_ms", round(KEEPALIVE * 1000)),
        ("grpc.keepalive_timeout_ms", 5_000),
        ("grpc.initial_reconnect_backoff_ms", 100),
        # How long a connection may take to be made, too: a busy machine needs more than the 100 ms between two attempts.
        ("grpc.min_reconnect_backoff_ms", 3_000),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        # Each channel has connections of its own: one stuck subchannel must not be everybody's.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if address.startswith("unix:"):
        options.append(("grpc.default_authority", "localhost"))
        tls = None
    elif server_name:
        options.append(("grpc.ssl_target_name_override", server_name))
        options.append(("grpc.default_authority", server_name))
    if credentials is not None and address.startswith(PREFIX):
        credentials = _to_own_sockets(address, credentials)
    interceptors = outgoing(tracer=tracer, margin=DEADLINE_MARGIN, credentials=credentials)
    if tls is None:
        return grpc.aio.insecure_channel(target(address), options=options, interceptors=interceptors)

    def make(material: TlsMaterial) -> grpc.aio.Channel:
        proof = channel_credentials(material)
        return grpc.aio.secure_channel(target(address), proof, options=options, interceptors=interceptors)

    return RenewingChannel(tls, make)


def _to_own_sockets(address: str, credentials: Credentials) -> Credentials:
    """``credentials`` that are given only while nobody else can have put the socket there; else the call fails."""
    told = ""

    async def checked() -> list[tuple[str, str]]:
        nonlocal told
        before, told = told, untrusted(address)
        if problem := told:
            if problem != before:
                _log.error("no token is sent", address=address, why=problem)
            none = grpc.aio.Metadata()
            raise grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, none, none, f"no token is sent: {problem}")
        return await credentials()

    return checked


async def check_serving(
    channel: grpc.aio.Channel, name: str, *, service: str = "readiness", patience: float = 2.0
) -> None:
    """Ask the peer's health service; raise Unavailable unless it says SERVING within ``patience`` seconds."""
    stub = health_pb2_grpc.HealthStub(channel)
    try:
        response = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=patience)
    except grpc.aio.AioRpcError as error:
        raise Unavailable(f"{name} does not answer", metadata={"dependency": name}) from error
    if response.status != health_pb2.HealthCheckResponse.SERVING:
        raise Unavailable(f"{name} is not ready", metadata={"dependency": name})
