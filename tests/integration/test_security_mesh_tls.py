"""What gRPC really tells about the peer of a mutually authenticated connection."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import pytest
from cryptography import x509

from services.corpus.errors import Unauthenticated
from services.security.mesh_identity import MeshPeers, SpiffeId, peer_identity
from tests.support.certificate_authority import LOOPBACK, CertificateAuthority

QUERY = "spiffe://mesh.example/ns/groundwire/query"


class Listener:
    """A server that demands certificates of its authority, and remembers what it was told about its callers."""

    def __init__(self) -> None:
        self.authority = CertificateAuthority()
        self.seen: list[dict[str, list[bytes]]] = []
        self.port = 0

    async def call(self, *names: x509.GeneralName, authority: CertificateAuthority | None = None) -> None:
        """Call with a certificate for ``names``."""
        key, certificate = (authority or self.authority).issue(names)
        credentials = grpc.ssl_channel_credentials(self.authority.pem, key, certificate)
        async with grpc.aio.secure_channel(f"localhost:{self.port}", credentials) as channel:
            echo: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/test.Echo/Echo")
            await echo(b"")


@pytest.fixture
async def listener() -> AsyncIterator[Listener]:
    listener = Listener()
    key, certificate = listener.authority.issue(LOOPBACK)

    async def echo(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        listener.seen.append({name: list(values) for name, values in context.auth_context().items()})
        return request

    server = grpc.aio.server()
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {"Echo": grpc.unary_unary_rpc_method_handler(echo)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", handlers),))
    credentials = grpc.ssl_server_credentials([(key, certificate)], listener.authority.pem, require_client_auth=True)
    listener.port = server.add_secure_port("localhost:0", credentials)
    await server.start()
    yield listener
    await server.stop(None)


async def test_the_peer_is_who_its_certificate_says(listener: Listener) -> None:
    await listener.call(x509.DNSName("query.example"), x509.UniformResourceIdentifier(QUERY))
    assert peer_identity(listener.seen[0]) == SpiffeId.parse(QUERY)
    assert MeshPeers([QUERY]).admit(listener.seen[0]) == SpiffeId.parse(QUERY)
    with pytest.raises(Unauthenticated):
        MeshPeers([QUERY + "-2"]).admit(listener.seen[0])


async def test_a_dns_name_spelled_like_an_id_is_none(listener: Listener) -> None:
    await listener.call(x509.DNSName(QUERY))
    # This is why gRPC's own list is not believed.
    assert QUERY.encode() in listener.seen[0]["x509_subject_alternative_name"]
    assert peer_identity(listener.seen[0]) is None


async def test_a_certificate_of_another_authority_does_not_connect(listener: Listener) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await listener.call(x509.UniformResourceIdentifier(QUERY), authority=CertificateAuthority())
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert listener.seen == []
