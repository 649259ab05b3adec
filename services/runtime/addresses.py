"""How the address of one service is written down, and what gRPC makes of it."""

from __future__ import annotations

import re
from ipaddress import IPv6Address

_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 - nobody listens here


def target(address: str) -> str:
    """The gRPC target of an address: names are resolved to all of their endpoints, sockets are taken as they are."""
    if address.startswith(("unix:", "dns:", "ipv4:", "ipv6:", "xds:")):
        return address
    # A server that listens everywhere is not called so, and no certificate says that it is.
    host, colon, port = address.rpartition(":")
    return f"dns:///{_EVERYWHERE.get(host, host)}{colon}{port}"


_SCHEME = re.compile(r"(?P<name>[A-Za-z][A-Za-z0-9+.\-]*)://(?P<rest>.*)", re.DOTALL)
_HOST = re.compile(r"[A-Za-z0-9._\-]+|\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._\-]+)?\]")
_PORT = re.compile(r"[0-9]{1,9}")
_HIGHEST = 65_535
_SECURE = {"https", "grpcs"}


def address_problem(text: str, port: str = "50050", *, lowest: int = 0) -> str | None:
    """What is wrong with an address that ought to be ``HOST:PORT`` or ``unix:/path``, and what to write; None if nothing.

    ``port`` is the one that is usual for this address; it is named where a port is missing. ``lowest`` is the lowest
    port that makes sense: a server may be asked to take any (0), a client may not.
    """
    if text.startswith("unix:"):
        return None if text.removeprefix("unix:").strip("/") else f"{text!r} names no socket: write unix:/path"
    wanted, why = _correct(text, port, lowest)
    if wanted == text:
        return None
    return f"{text!r} is not HOST:PORT or unix:/path" + (f": write {wanted}" if wanted else "") + why


def _correct(text: str, port: str, lowest: int) -> tuple[str, str]:
    """What may have been meant, empty if that cannot be told, and why it has to be written so."""
    scheme = _SCHEME.fullmatch(text.strip())
    secure = scheme is not None and scheme["name"].lower() in _SECURE
    rest = scheme["rest"].lstrip("/") if scheme else text.strip()
    rest = re.split(r"[/?#\s]", rest, maxsplit=1)[0].rpartition("@")[2]
    why = f", without {scheme['name']}://" if scheme else ""
    why += "; TLS is used when the setting tls.authorities is there" if secure else ""
    if _is_ipv6(rest):
        return f"[{rest}]:{port}", why + ", with the port behind brackets"
    host, colon, given = rest.rpartition(":")
    if not colon or rest.endswith("]"):
        # A number alone is a port of this machine.
        host, given = ("127.0.0.1", rest) if rest.isdecimal() else (rest, "")
    if not given:
        given, why = port, why + "; the port was missing"
    if not _PORT.fullmatch(given) or not lowest <= int(given) <= _HIGHEST:
        return "", f": a port is a number from {max(1, lowest)} to {_HIGHEST}"
    if not host:
        host = "127.0.0.1"
    if ":" in host and not host.startswith("[") and _is_ipv6(host):
        host = f"[{host}]"
    if not _HOST.fullmatch(host):
        return "", ""
    return f"{host}:{given}", why


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return ":" in text
