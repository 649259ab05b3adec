"""What gRPC makes of an address in the settings."""

from __future__ import annotations

_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 - nobody listens here


def target(address: str) -> str:
    """The gRPC target of an address: names are resolved to all of their endpoints, sockets are taken as they are."""
    if address.startswith(("unix:", "dns:", "ipv4:", "ipv6:", "xds:")):
        return address
    # A server that listens everywhere is not called so, and no certificate says that it is.
    host, colon, port = address.rpartition(":")
    return f"dns:///{_EVERYWHERE.get(host, host)}{colon}{port}"
