"""Roles, permissions and the rule table that the contract states.

A permission is ``resource:action``; ``resource:*`` includes every action on a resource and ``admin:*`` everything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from groundwire.policy.v1 import policy_pb2
from services.corpus.errors import NotFound, PermissionDenied, Unauthenticated
from services.corpus.principal import Caller

EVERYTHING = "admin:*"

_READER = frozenset(
    {
        "documents:query",
        "documents:retrieve",
        "documents:read",
        "answers:generate",
        "sessions:*",
        "feedback:submit",
        "collections:read",
    }
)
_WRITER = _READER | {"documents:*", "jobs:*", "collections:create", "collections:update"}
DEFAULT_ROLES: Mapping[str, frozenset[str]] = {
    "reader": _READER,
    "writer": _WRITER,
    "operator": frozenset(
        {"stores:read", "endpoints:read", "topology:read", "metrics:read", "alerts:read", "alert_rules:*", "jobs:*"}
    ),
    "auditor": frozenset({"audit:read", "audit:verify"}),
    "admin": frozenset({EVERYTHING}),
}


class UnmappedMethodError(Exception):
    """A served method has no access rule in the contract: the server must not start."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What a method demands of its caller. ``audit`` is an ``AuditLevel`` of policy/v1."""

    permission: str
    audit: int
    mesh_only: bool
    streaming: bool


def permissions_of(roles: Iterable[str], table: Mapping[str, frozenset[str]] = DEFAULT_ROLES) -> frozenset[str]:
    """Everything that the roles permit together; an unknown role permits nothing."""
    return frozenset().union(*(table.get(role, frozenset()) for role in roles))


def role_table(own: Mapping[str, Iterable[str]]) -> dict[str, frozenset[str]]:
    """The roles that are built in, and an installation's ``own``, which replace those of the same name."""
    return {**DEFAULT_ROLES, **{role: frozenset(permissions) for role, permissions in own.items()}}


def permits(held: frozenset[str], wanted: str) -> bool:
    """Whether ``held`` includes the permission ``wanted``."""
    return wanted in held or f"{wanted.partition(':')[0]}:*" in held or EVERYTHING in held


def rule_table(services: Iterable[ServiceDescriptor]) -> dict[str, Rule]:
    """The rule of every method by its path ``/package.Service/Method``; UnmappedMethodError if one has none."""
    table = {}
    for service in services:
        for method in service.methods:
            table[f"/{service.full_name}/{method.name}"] = _rule(method)
    return table


def lasting_methods(services: Iterable[ServiceDescriptor]) -> frozenset[str]:
    """The paths of the methods whose calls stay open for as long as one side likes: all that stream, in either direction."""
    return frozenset(
        f"/{service.full_name}/{method.name}"
        for service in services
        for method in service.methods
        if method.client_streaming or method.server_streaming
    )


def administrators_only(*, streaming: bool) -> Rule:
    """The rule of a method that is not in the contract, such as reflection's."""
    return Rule(permission=EVERYTHING, audit=policy_pb2.AUDIT_DENIALS, mesh_only=False, streaming=streaming)


def _rule(method: MethodDescriptor) -> Rule:
    options = method.GetOptions()
    if not options.HasExtension(policy_pb2.access):
        raise UnmappedMethodError(f"{method.full_name} has no access rule")
    rule = options.Extensions[policy_pb2.access]
    if not rule.resource or not rule.action or rule.audit == policy_pb2.AUDIT_LEVEL_UNSPECIFIED:
        raise UnmappedMethodError(f"the access rule of {method.full_name} is incomplete")
    return Rule(
        permission=f"{rule.resource}:{rule.action}",
        audit=rule.audit,
        mesh_only=rule.audience == policy_pb2.AUDIENCE_MESH,
        streaming=method.server_streaming,
    )


def policy_version(rules: Mapping[str, Rule], roles: Mapping[str, frozenset[str]]) -> str:
    """A name for what decides: the same rules and roles give the same, any others another."""
    lines = [f"{path} {rule.permission} {rule.audit} {rule.mesh_only}" for path, rule in rules.items()]
    lines += [f"{role} {' '.join(sorted(permissions))}" for role, permissions in roles.items()]
    digest = sha256("\n".join(sorted(lines)).encode()).hexdigest()
    return f"sha256:{digest[:16]}"


class Authorizer:
    """Decides by the rule table. Paths are looked up exactly as they were sent: what is not in the table is refused."""

    def __init__(self, table: Mapping[str, Rule], *, open_services: frozenset[str]) -> None:
        """``open_services`` are the few (health, reflection) whose methods need no permission."""
        self._table = dict(table)
        self._open = open_services
        self._guarded = frozenset(path for path in self._table if not self._is_open(path))

    @property
    def watches(self) -> frozenset[str]:
        """The methods whose streams end with the server alone."""
        return frozenset(path for path, rule in self._table.items() if rule.streaming and "/Watch" in path)

    @property
    def rules(self) -> Mapping[str, Rule]:
        """The table, by path."""
        return self._table

    def is_open(self, method: str) -> bool:
        """Whether ``method`` belongs to a service that needs no identity."""
        return method not in self._guarded and self._is_open(method)

    def _is_open(self, method: str) -> bool:
        parts = method.split("/")
        return len(parts) == 3 and parts[0] == "" and parts[1] in self._open

    def decide(self, method: str, caller: Caller | None) -> None:
        """Return if ``caller`` may use ``method``; raise Unauthenticated, NotFound or PermissionDenied otherwise."""
        if method not in self._guarded and self._is_open(method):
            return
        if caller is None:
            raise Unauthenticated
        rule = self._table.get(method)
        if rule is None:
            raise NotFound("no such method")
        if rule.mesh_only:
            # The service itself is trusted with it, whatever the person may do on whose behalf it works.
            if not caller.acting_service:
                raise PermissionDenied("only services of the mesh may call this")
            return
        if not permits(caller.permissions, rule.permission):
            raise PermissionDenied(
                f"this needs the permission {rule.permission}", metadata={"permission": rule.permission}
            )
