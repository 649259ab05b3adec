"""Calls to services: channels that are opened for one command and closed with it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc

from cli.caller import CallerToken
from cli.errors import usage
from cli.rpc_errors import explain
from interceptors.client import outgoing
from services.runtime.addresses import target
from services.runtime.options import TlsOptions
from services.runtime.settings import ConfigurationError

_MAX_MESSAGE = 64 * 1024 * 1024


@asynccontextmanager
async def connect(service: str, address: str, tls: TlsOptions | None = None) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to ``service`` at ``address``; a call that fails inside leaves as a CliError."""
    channel = open_channel(address, tls)
    try:
        yield channel
    except grpc.aio.AioRpcError as error:
        raise explain(error, service, address) from error
    finally:
        await channel.close()


def open_channel(address: str, tls: TlsOptions | None = None, *, reconnect_ms: int = 1_000) -> grpc.aio.Channel:
    """A simple channel: it says at once that nobody answers, and shows a service that is not serving as it is.

    Over TCP it uses ``tls``, if that names authorities. While nobody answers, it tries again at least every
    ``reconnect_ms`` milliseconds.
    """
    if not address.startswith("unix:") and not address.rpartition(":")[2].isdigit():
        raise usage(f"{address!r} is not an address; write HOST:PORT or unix:/path")
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
