"""Calls to services: channels that are opened for one command and closed with it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cli.caller import CallerToken
from cli.errors import CliError, ExitCode, usage
from cli.rpc_errors import explain
from cli.services import MESH, NAMES
from interceptors.client import outgoing
from services.runtime.addresses import address_problem, target
from services.runtime.metadata_logs import hide_metadata
from services.runtime.options import Addresses, TlsOptions
from services.runtime.settings import ConfigurationError, Settings, load

_MAX_MESSAGE = 64 * 1024 * 1024
_HEALTH_PATIENCE = 5.0  # seconds
# What another service than the one that is meant may answer.
_OF_ANOTHER = frozenset(
    {
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
    }
)


@asynccontextmanager
async def connect(
    service: str, address: str, tls: TlsOptions | None = None, *, collections_at: str | None = None
) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to ``service`` at ``address``; a call that fails inside leaves as a CliError.

    ``collections_at`` is the ingestion service's address, where it is known: it says which collections there are when
    the one that was named is not there.
    """
    usual = str(Addresses.model_fields[service].default).rpartition(":")[2]
    if problem := address_problem(address, usual, lowest=1):
        raise usage(problem)
    channel = open_channel(address, tls)
    try:
        yield channel
    except grpc.aio.AioRpcError as error:
        raise await explained(error, service, address, channel, tls, collections_at=collections_at) from error
    finally:
        await channel.close()


async def explained(
    error: grpc.aio.AioRpcError,
    service: str,
    address: str,
    channel: grpc.aio.Channel,
    tls: TlsOptions | None = None,
    *,
    collections_at: str | None = None,
) -> CliError:
    """What ``error`` means.

    For a collection that is not there, it says which ones are (see :func:`connect`). Where the call was refused, the
    server is asked whether it is another service.
    """
    from cli.collections import missing_in, unknown  # noqa: PLC0415 - which imports this module

    if name := missing_in(error):
        return await unknown(name, collections_at, tls)
    if error.code() in _OF_ANOTHER and (found := await _who_answers(channel)) and service not in found:
        return CliError(await _wrong_service(service, address, found[0], tls), code=ExitCode.REFUSED)
    return explain(error, service, address)


async def _who_answers(channel: grpc.aio.Channel) -> list[str]:
    """The services that the server offers, by its health; none if it does not tell."""
    stub = health_pb2_grpc.HealthStub(channel)
    try:
        listed = await stub.List(health_pb2.HealthListRequest(), timeout=_HEALTH_PATIENCE)
    except grpc.aio.AioRpcError:
        return []
    return [name for name in NAMES if f"groundwire.{name}.v1.{name.capitalize()}Service" in listed.statuses]


async def _wrong_service(service: str, address: str, found: str, tls: TlsOptions | None) -> str:
    told = f"{address} is the address of the {found} service, not of the {service} service"
    try:
        settings = load(Settings)
    except ConfigurationError:
        return told
    known = settings.address(service)
    if known == address:
        return f"{told}; correct the setting addresses.{service}"
    if settings.address(found) == address:
        return f"{told}, which the settings say is at {known}"
    # The settings are of another mesh than this one, such as one on other ports, which are in a row.
    beside = in_a_row(service, address, found)
    if beside is None:
        return told
    channel = open_channel(beside, tls)
    try:
        return f"{told}, which is at {beside}" if service in await _who_answers(channel) else told
    finally:
        await channel.close()


def in_a_row(service: str, address: str, found: str) -> str | None:
    """Where ``service`` is if ``found`` is at ``address`` in a mesh that was started with `--port-base`."""
    host, _, port = address.rpartition(":")
    if service not in MESH or found not in MESH or address.startswith("unix:"):
        return None
    moved = int(port) + MESH.index(service) - MESH.index(found)
    return f"{host}:{moved}" if 0 < moved < 65_536 else None


def open_channel(address: str, tls: TlsOptions | None = None, *, reconnect_ms: int = 1_000) -> grpc.aio.Channel:
    """A simple channel: it says at once that nobody answers, and shows a service that is not serving as it is.

    Over TCP it uses ``tls``, if that names authorities. While nobody answers, it tries again at least every
    ``reconnect_ms`` milliseconds.
    """
    if problem := address_problem(address, lowest=1):
        raise usage(problem)
    hide_metadata()
    options: list[tuple[str, str | int]] = [
        ("grpc.enable_retries", 0),
        # gRPC would send even loopback addresses through the http_proxy of the environment.
        ("grpc.enable_http_proxy", 0),
        ("grpc.max_receive_message_length", _MAX_MESSAGE),
        ("grpc.max_send_message_length", _MAX_MESSAGE),
        ("grpc.initial_reconnect_backoff_ms", 100),
        # How long a connection may take to be made, too: far away, or on a busy machine, it is more than 100 ms.
        ("grpc.min_reconnect_backoff_ms", 10_000),
        ("grpc.max_reconnect_backoff_ms", reconnect_ms),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    credentials = None
    if address.startswith("unix:"):
        options.append(("grpc.default_authority", "localhost"))
    else:
        credentials = _credentials(tls)
    interceptors = outgoing(tracer=None, margin=0.0, credentials=CallerToken(address).metadata)
    if credentials is None:
        return grpc.aio.insecure_channel(target(address), options=options, interceptors=interceptors)
    return grpc.aio.secure_channel(target(address), credentials, options=options, interceptors=interceptors)


def _credentials(tls: TlsOptions | None) -> grpc.ChannelCredentials | None:
    if tls is None or not (tls.authorities or tls.certificate or tls.private_key):
        return None
    from services.runtime.tls import CLIENT, channel_credentials, open_tls  # noqa: PLC0415 - only needed with TLS

    try:
        opened = open_tls(tls, CLIENT)
    except ConfigurationError as error:
        raise usage(str(error)) from None
    return channel_credentials(opened.current()) if opened is not None else None
