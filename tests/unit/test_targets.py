"""How endpoints are written down."""

from __future__ import annotations

import pytest

from services.resilience.targets import Target, TargetKind, parse_targets

FIXED, NAME, OPAQUE = TargetKind.FIXED, TargetKind.NAME, TargetKind.OPAQUE


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:50052", [Target(FIXED, "127.0.0.1:50052")]),
        ("[::1]:50052", [Target(FIXED, "[::1]:50052")]),
        ("localhost:1", [Target(FIXED, "localhost:1")]),
        ("unix:/run/store.sock", [Target(FIXED, "unix:/run/store.sock")]),
        ("retrieval.example.com:50052", [Target(NAME, "retrieval.example.com:50052")]),
        ("dns:///retrieval:50052", [Target(NAME, "retrieval:50052")]),
        ("dns:retrieval:50052@eu-1", [Target(NAME, "retrieval:50052", "eu-1")]),
        ("xds:///retrieval", [Target(OPAQUE, "xds:///retrieval")]),
        ("10.0.0.1:1@eu-1", [Target(FIXED, "10.0.0.1:1", "eu-1")]),
        ("static:///10.0.0.1:1,10.0.0.2:2", [Target(FIXED, "10.0.0.1:1"), Target(FIXED, "10.0.0.2:2")]),
        (
            "static:///10.0.0.1:1@a, pod:2@b",
            [Target(FIXED, "10.0.0.1:1", "a"), Target(NAME, "pod:2", "b")],
        ),
    ],
)
def test_targets(text: str, expected: list[Target]) -> None:
    assert parse_targets(text) == expected


@pytest.mark.parametrize("text", ["", "nobody", "host:", ":1", "host:port", "host:70000", "static:///", "dns:///name"])
def test_what_names_nothing_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"HOST:PORT|static: names no addresses"):
        parse_targets(text)


def test_host_and_port() -> None:
    (target,) = parse_targets("dns:///retrieval.mesh.svc:50052")
    assert (target.host, target.port) == ("retrieval.mesh.svc", 50052)
    assert parse_targets("[fd00::1]:7")[0].host == "fd00::1"
