"""Every method of the contract × every kind of caller × every spelling of its path, against a golden table.

The servers are the production assembly's, with real tokens; only the handlers behind the chain are replaced by ones
that count and answer with nothing. ``WRITE_GOLDEN=1`` writes the table anew: read the difference.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from pydantic import SecretStr

from groundwire.audit.v1 import audit_service_pb2
from groundwire.generation.v1 import generation_service_pb2
from groundwire.ingestion.v1 import ingestion_service_pb2
from groundwire.monitoring.v1 import monitoring_service_pb2
from groundwire.query.v1 import query_service_pb2
from groundwire.retrieval.v1 import retrieval_service_pb2
from groundwire.store.v1 import store_service_pb2
from services.runtime import reflection
from services.runtime.authentication import TokenAuthentication
from services.runtime.options import AuthenticationOptions, IssuerOptions
from services.runtime.server import Server, Service
from services.runtime.settings import Settings
from services.security.minting import TokenMinter
from tests.support.mesh import ended, raw
from tests.support.recording import memory_recorder

GOLDEN = Path(__file__).parents[1] / "golden" / "access_matrix.txt"
SECRET = "0123456789abcdef0123456789abcdef"
ANY, ACME = "https://any.example", "https://acme.example"
DESCRIPTORS: tuple[ServiceDescriptor, ...] = tuple(
    descriptor
    for module in (
        query_service_pb2,
        ingestion_service_pb2,
        retrieval_service_pb2,
        generation_service_pb2,
        audit_service_pb2,
        monitoring_service_pb2,
        store_service_pb2,
    )
    for descriptor in module.DESCRIPTOR.services_by_name.values()
)
METHODS = [method for descriptor in DESCRIPTORS for method in descriptor.methods]
SPELLINGS: Mapping[str, Callable[[str], str]] = {
    "/S/M": lambda path: path,
    "S/M": lambda path: path[1:],
    "//S/M": lambda path: f"/{path}",
    "/S/M/": lambda path: f"{path}/",
    "other case": str.swapcase,
    "unknown": lambda path: f"{path}Unknown",
}
LETTERS = {
    grpc.StatusCode.OK: "allowed",
    grpc.StatusCode.UNAUTHENTICATED: "who?",
    grpc.StatusCode.PERMISSION_DENIED: "denied",
    grpc.StatusCode.NOT_FOUND: "-",
}


def _issuer(name: str, *tenants: str) -> IssuerOptions:
    return IssuerOptions(
        name=name, audience="groundwire", algorithm="HS256", secret=SecretStr(SECRET), jwks_url=None, tenants=tenants,
        max_lifetime=3600, leeway=10,
    )  # fmt: skip


def _token(issuer: str, tenant: str, *roles: str) -> str:
    minter = TokenMinter(SECRET.encode(), issuer=issuer, audience="groundwire")
    return minter.mint(tenant=tenant, subject="alice", roles=roles)


class Counted:
    """A server over all services whose handlers do nothing but count."""

    def __init__(self, directory: Path) -> None:
        self.reached: Counter[str] = Counter()
        self.settings = Settings(
            data_dir=directory, authentication=AuthenticationOptions(issuers=(_issuer(ANY), _issuer(ACME, "acme")))
        )
        self.channel: grpc.aio.Channel
        self.tokens: dict[str, str] = {}

    async def start(self) -> Server:
        authentication = await TokenAuthentication.start(self.settings)

        async def ready() -> None:
            """Nothing is needed."""

        service = Service("every", DESCRIPTORS, self._register, ready, authentication.close, memory_recorder()[0])
        server = Server(service, self.settings, authentication.identify)
        await server.start("127.0.0.1:0")
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{server.port}")
        roles = ("reader", "writer", "operator", "auditor", "admin")
        self.tokens = {
            "no token": "",
            **{role: _token(ANY, "acme", role) for role in roles},
            "no role": _token(ANY, "acme"),
            "unknown role": _token(ANY, "acme", "superuser"),
            "wrong tenant": _token(ACME, "globex", "admin"),
        }
        # A service of the mesh that works for a reader.
        reader = (await authentication.verify(self.tokens["reader"])).claims
        ((_, bearer),) = await _on_behalf(authentication, reader)
        self.tokens["mesh"] = bearer.removeprefix("Bearer ")
        return server

    def _register(self, server: grpc.aio.Server) -> None:
        for descriptor in DESCRIPTORS:
            handlers = {method.name: self._handler(method) for method in descriptor.methods}
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(descriptor.full_name, handlers),))

    def _handler(self, method: MethodDescriptor) -> Any:
        path = f"/{method.containing_service.full_name}/{method.name}"

        async def unary(_request: Any, _context: Any) -> bytes:
            self.reached[path] += 1
            return b""

        async def stream(_request: Any, _context: Any) -> AsyncIterator[bytes]:
            self.reached[path] += 1
            yield b""

        # The shape that the contract says.
        if method.server_streaming:
            return grpc.unary_stream_rpc_method_handler(stream)
        if method.client_streaming:
            return grpc.stream_unary_rpc_method_handler(unary)
        return grpc.unary_unary_rpc_method_handler(unary)

    async def call(self, path: str, caller: str) -> grpc.StatusCode:
        token = self.tokens[caller]
        metadata = (("authorization", f"Bearer {token}"),) if token else ()
        got = await ended(raw(self.channel, path)(b"", metadata=metadata, timeout=30))
        assert got.code in LETTERS, (path, caller, got)
        return got.code


async def _on_behalf(authentication: TokenAuthentication, claims: Any) -> list[tuple[str, str]]:
    from interceptors import current

    token = current.credential.set(claims)
    try:
        return await authentication.credentials("query")()
    finally:
        current.credential.reset(token)


@pytest.fixture
async def counted() -> AsyncIterator[Counted]:
    with tempfile.TemporaryDirectory(prefix="gw-") as directory:
        made = Counted(Path(directory) / "data")
        server = await made.start()
        yield made
        await made.channel.close()
        await server.drain(delay=0, grace=0)


@pytest.mark.slow
async def test_who_may_call_what_is_as_the_golden_table_says(counted: Counted) -> None:
    callers = list(counted.tokens)
    lines = [f"{'method':66} {'path':10} " + " ".join(f"{caller:12}" for caller in callers)]
    for method in METHODS:
        path = f"/{method.containing_service.full_name}/{method.name}"
        for spelling, spell in SPELLINGS.items():
            said = []
            for caller in callers:
                before = counted.reached.total()
                code = await counted.call(spell(path), caller)
                # Whatever the caller is told: a handler runs if, and only if, the call is allowed.
                assert counted.reached.total() - before == (code is grpc.StatusCode.OK), (path, spelling, caller)
                said.append(LETTERS[code])
            lines.append(f"{path[1:]:66} {spelling:10} " + " ".join(f"{word:12}" for word in said))
    found = "\n".join(line.rstrip() for line in lines) + "\n"
    if os.environ.get("WRITE_GOLDEN"):
        GOLDEN.write_text(found, encoding="utf-8")
    assert found == GOLDEN.read_text(encoding="utf-8")


def test_the_golden_table_opens_no_spelling_but_the_exact_one() -> None:
    for line in GOLDEN.read_text(encoding="utf-8").splitlines()[1:]:
        if "/S/M " not in line.replace("//S/M", "").replace("/S/M/", ""):
            assert "allowed" not in line, line


def test_the_golden_table_has_every_method_and_lets_in_nobody_without_a_good_token() -> None:
    header, *lines = GOLDEN.read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(METHODS) * len(SPELLINGS)
    for column in (header.index("no token"), header.index("wrong tenant")):
        assert {line[column : column + 12].strip() for line in lines} == {"who?"}


async def test_reflection_needs_no_token_on_loopback(counted: Counted) -> None:
    for path in reflection.METHODS:
        assert await counted.call(path, "no token") is grpc.StatusCode.OK
