"""How the endpoints of a service are written down. Pure.

    127.0.0.1:50052                 one endpoint
    unix:/run/groundwire/store.sock one endpoint on this machine
    retrieval.example.com:50052     all the addresses that the name has now, looked up again from time to time
    dns:///retrieval:50052          the same, as gRPC and Kubernetes' headless services write it
    static:///10.0.0.1:1,10.0.0.2:1 these
    xds:///retrieval                whatever gRPC's xDS client finds; seen as one endpoint

``@zone`` behind a target, or behind one of a list, names the zone that it is in.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address

_PORT = re.compile(r"[0-9]{1,9}")


class TargetKind(Enum):
    """Who finds the addresses: nobody needs to, the resolver of this process, or gRPC."""

    FIXED = "fixed"
    NAME = "name"
    OPAQUE = "opaque"


@dataclass(frozen=True, slots=True)
class Target:
    """One target: an address, a name to look up (``host:port``), or what gRPC alone understands."""

    kind: TargetKind
    address: str
    zone: str = ""

    @property
    def host(self) -> str:
        """The host of ``host:port``, without the brackets of an IPv6 address."""
        return self.address.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The port of ``host:port``."""
        return int(self.address.rpartition(":")[2])


def parse_targets(text: str) -> list[Target]:
    """The targets that one setting names; raises ValueError, with what is wrong, when it names none."""
    rest, zone = _split_zone(text.strip())
    if rest.startswith("static:"):
        parts = [part for part in rest.removeprefix("static:").lstrip("/").split(",") if part.strip()]
        if not parts:
            raise ValueError("static: names no addresses")
        return [Target(each.kind, each.address, each.zone or zone) for part in parts for each in parse_targets(part)]
    if rest.startswith(("unix:", "ipv4:", "ipv6:")):
        return [Target(TargetKind.FIXED, rest, zone)]
    if rest.startswith("xds:"):
        return [Target(TargetKind.OPAQUE, rest, zone)]
    named = rest.startswith("dns:")
    address = rest.removeprefix("dns:").lstrip("/") if named else rest
    host, colon, port = address.rpartition(":")
    if not colon or not host or "/" in host or not _PORT.fullmatch(port) or int(port) > 65_535:
        raise ValueError(f"{text!r} is not HOST:PORT, unix:/PATH, dns:///NAME:PORT, static:///A,B or xds:///NAME")
    # What this machine calls itself needs no resolver, and has two addresses for one server.
    fixed = _is_ip(host.strip("[]")) or host == "localhost"
    return [Target(TargetKind.FIXED if fixed else TargetKind.NAME, address, zone)]


def _split_zone(text: str) -> tuple[str, str]:
    before, at, zone = text.rpartition("@")
    if not at or "," in zone or "/" in zone:
        return text, ""
    return before, zone


def _is_ip(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
