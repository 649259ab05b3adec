"""Roles, permissions and the access table that the contract states."""

from __future__ import annotations

import pytest

from groundwire.policy.v1 import policy_pb2
from groundwire.store.v1 import store_service_pb2
from services.corpus.errors import NotFound, PermissionDenied, Unauthenticated
from services.corpus.principal import Caller
from services.security.permissions import (
    DEFAULT_ROLES,
    EVERYTHING,
    Authorizer,
    Rule,
    UnmappedMethodError,
    permissions_of,
    permits,
    rule_table,
)
from tests.support.serving import make_service

STORE = store_service_pb2.DESCRIPTOR.services_by_name["StoreService"]


@pytest.mark.parametrize(
    ("held", "wanted", "allowed"),
    [
        ("documents:read", "documents:read", True),
        ("documents:*", "documents:read", True),
        ("admin:*", "documents:read", True),
        ("admin:*", "admin:anything", True),
        ("documents:read", "documents:delete", False),
        ("document:*", "documents:read", False),
        ("documents:rea", "documents:read", False),
        ("documents:reader", "documents:read", False),
        ("*:read", "documents:read", False),
        ("*", "documents:read", False),
        ("*:*", "documents:read", False),
        ("admin:read", "documents:read", False),
        ("", "documents:read", False),
    ],
)
def test_what_a_permission_includes(held: str, wanted: str, allowed: bool) -> None:
    assert permits(frozenset({held}), wanted) is allowed


def test_nothing_permits_nothing() -> None:
    assert not permits(frozenset(), "documents:read")


def test_roles_add_up_and_unknown_ones_permit_nothing() -> None:
    assert permissions_of(["reader", "auditor"]) == DEFAULT_ROLES["reader"] | DEFAULT_ROLES["auditor"]
    assert permissions_of(["root", ""]) == frozenset()
    assert permissions_of(["x"], {"x": frozenset({"a:b"})}) == {"a:b"}


def test_only_the_admin_may_do_everything() -> None:
    assert {role for role, held in DEFAULT_ROLES.items() if EVERYTHING in held} == {"admin"}
    assert DEFAULT_ROLES["reader"] < DEFAULT_ROLES["writer"]


def test_the_table_has_every_method_of_the_contract() -> None:
    table = rule_table([STORE])
    assert set(table) == {f"/groundwire.store.v1.StoreService/{method.name}" for method in STORE.methods}
    rule = table["/groundwire.store.v1.StoreService/UpsertChunks"]
    assert rule == Rule("chunks:write", policy_pb2.AUDIT_DENIALS, mesh_only=True, streaming=False)


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("NoRule", None),
        ("NoResource", policy_pb2.AccessRule(action="read", audit=policy_pb2.AUDIT_NONE)),
        ("NoAction", policy_pb2.AccessRule(resource="x", audit=policy_pb2.AUDIT_NONE)),
        ("NoAudit", policy_pb2.AccessRule(resource="x", action="read")),
    ],
)
def test_a_method_without_a_whole_rule_is_refused(name: str, rule: policy_pb2.AccessRule | None) -> None:
    service = make_service(f"groundwire.test.permissions.v1.{name}Service", {"Get": (False, False)}, rule=rule)
    with pytest.raises(UnmappedMethodError, match=f"{service.full_name}.Get"):
        rule_table([STORE, service])


READ = "/a.v1.A/Read"
INTERNAL = "/a.v1.A/Internal"
AUTHORIZER = Authorizer(
    {
        READ: Rule("things:read", policy_pb2.AUDIT_NONE, mesh_only=False, streaming=False),
        INTERNAL: Rule("things:read", policy_pb2.AUDIT_NONE, mesh_only=True, streaming=False),
    },
    open_services=frozenset({"grpc.health.v1.Health"}),
)


def caller(*permissions: str, acting: str = "") -> Caller:
    return Caller("t", "alice", permissions=frozenset(permissions), acting_service=acting)


def test_a_caller_with_the_permission_may() -> None:
    AUTHORIZER.decide(READ, caller("things:read"))
    AUTHORIZER.decide(INTERNAL, caller("things:read", acting="retrieval"))


def test_a_caller_without_it_may_not_and_learns_which() -> None:
    with pytest.raises(PermissionDenied) as refused:
        AUTHORIZER.decide(READ, caller("things:write"))
    assert refused.value.metadata == {"permission": "things:read"}


def test_an_internal_method_is_for_the_mesh_alone() -> None:
    with pytest.raises(PermissionDenied, match="mesh"):
        AUTHORIZER.decide(INTERNAL, caller("admin:*"))
    # On behalf of somebody who may do nothing of the kind themselves: the service is trusted with it.
    AUTHORIZER.decide(INTERNAL, caller(acting="retrieval"))


@pytest.mark.parametrize("method", [READ, INTERNAL, "/a.v1.A/Nope", ""])
def test_nobody_may_nothing(method: str) -> None:
    with pytest.raises(Unauthenticated):
        AUTHORIZER.decide(method, None)


@pytest.mark.parametrize(
    "method",
    [
        "/a.v1.A/Nope",
        "a.v1.A/Read",
        "//a.v1.A/Read",
        "/a.v1.A/Read/",
        "/a.v1.a/Read",
        "/a.v1.A/read",
        "/A/Read",
        "",
        "/",
    ],
)
def test_a_path_counts_exactly_as_it_was_sent(method: str) -> None:
    with pytest.raises(NotFound):
        AUTHORIZER.decide(method, caller("admin:*", acting="x"))


def test_health_needs_nobody() -> None:
    AUTHORIZER.decide("/grpc.health.v1.Health/Check", None)
    assert AUTHORIZER.is_open("/grpc.health.v1.Health/Watch")


@pytest.mark.parametrize(
    "method",
    [
        "grpc.health.v1.Health/Check",
        "//grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Check/x",
        "/grpc.health.v1.Health",
        "/grpc.health.v1.HealthX/Check",
        "/x/grpc.health.v1.Health/Check",
        "x/grpc.health.v1.Health/Check",
    ],
)
def test_what_only_resembles_health_needs_somebody(method: str) -> None:
    assert not AUTHORIZER.is_open(method)
    with pytest.raises(Unauthenticated):
        AUTHORIZER.decide(method, None)
