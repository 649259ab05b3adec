"""TLS between real servers and channels: who gets in, as what, and what happens when certificates are replaced."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from structlog.testing import capture_logs

from cli.client import connect
from cli.errors import CliError
from interceptors._shapes import Context
from interceptors.client import Credentials
from services.runtime.authentication import TokenAuthentication
from services.runtime.channels import open_channel
from services.runtime.options import AuthenticationOptions, TlsOptions
from services.runtime.renewing_channel import RenewingChannel
from services.runtime.server import Server
from services.runtime.settings import Settings
from services.runtime.tls import open_tls
from services.security.mesh_tokens import MeshTokens
from services.security.minting import TokenMinter
from tests.support.serving import Outcome, Text, begin, call, echo_service, ended, path, until
from tests.support.tls import ISSUER, SECRET, certificate, credentials, serial_in, serial_served, tls_options

OK, UNAVAILABLE = grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE
UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED


async def _who(text: str, context: Context) -> str:
    """The serial number of the caller's certificate, and the connection."""
    (pem,) = context.auth_context().get("x509_pem_cert", [b""])
    return f"{text} {serial_in(pem) if pem else 0} {context.peer()}"


@dataclass
class World:
    """A folder with certificates and the servers that use them."""

    folder: Path
    tls: TlsOptions
    authentication: TokenAuthentication
    servers: list[Server] = field(default_factory=list)
    channels: list[grpc.aio.Channel] = field(default_factory=list)

    def settings(self, **changes: Any) -> Settings:
        return Settings(
            data_dir=self.folder / "data",
            tls=self.tls.model_copy(update=changes),
            authentication=AuthenticationOptions(issuers=(ISSUER,)),
        )

    async def serve(self, name: str = "retrieval", address: str = "127.0.0.1:0", **changes: Any) -> Server:
        service = echo_service(_who, name=name)
        server = Server(service, self.settings(**changes), identify=self.authentication.identify)
        await server.start(address)
        self.servers.append(server)
        return server

    async def call(self, target: str, proof: grpc.ChannelCredentials | None, token: str) -> Outcome:
        """Call ``target`` once, on a connection of its own."""
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.default_authority", "localhost")]
        if target.startswith("unix:") or proof is None:
            channel = grpc.aio.insecure_channel(target, options=options)
        else:
            channel = grpc.aio.secure_channel(target, proof, options=options[:1])
        async with channel:
            return await call(channel, "Unary", "x", metadata=[("authorization", f"Bearer {token}")])

    def renewing(self, server: Server, credentials: Credentials | None = None) -> RenewingChannel:
        """A channel as query has it."""
        address = f"localhost:{server.port}"
        channel = open_channel(address, tls=open_tls(self.tls, "query"), credentials=credentials)
        assert isinstance(channel, RenewingChannel)
        self.channels.append(channel)
        return channel

    def mesh_token(self, actor: str) -> str:
        secret = (self.folder / "data" / "keys" / "mesh.key").read_bytes()
        return MeshTokens(secret, actor).for_subject(tenant="acme", subject="alice", roles=["admin"])


def user_token() -> str:
    minter = TokenMinter(SECRET.encode(), issuer=ISSUER.name, audience=ISSUER.audiences[0])
    return minter.mint(tenant="acme", subject="alice", groups=(), roles=("admin",), lifetime=600)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    tls = tls_options(tmp_path / "certs")
    settings = Settings(data_dir=tmp_path / "data", tls=tls, authentication=AuthenticationOptions(issuers=(ISSUER,)))
    authentication = await TokenAuthentication.start(settings)
    world = World(tmp_path, tls, authentication)
    yield world
    for channel in world.channels:
        await channel.close()
    for server in world.servers:
        await server.drain(delay=0, grace=0)
    await authentication.close()


# --- who gets in ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("presented", "actor", "code"),
    [
        ("query", "query", OK),
        ("query", "ingestion", UNAUTHENTICATED),
        ("client", "client", UNAUTHENTICATED),
        ("client", "query", UNAUTHENTICATED),
        (None, "query", UNAVAILABLE),
    ],
)
async def test_a_service_is_who_its_certificate_says(
    world: World, presented: str | None, actor: str, code: grpc.StatusCode
) -> None:
    server = await world.serve()
    proof = credentials(world.folder / "certs", presented)
    outcome = await world.call(f"localhost:{server.port}", proof, world.mesh_token(actor))
    assert outcome.code is code
    if code is UNAUTHENTICATED:
        nonsense = await world.call(f"localhost:{server.port}", proof, "nonsense")
        assert (outcome.details, outcome.reason) == (nonsense.details, nonsense.reason)


async def test_only_peers_of_the_list_are_services(world: World) -> None:
    world.tls = world.tls.model_copy(update={"allowed_peers": ("spiffe://mesh.example/ingestion",)})
    narrow = await TokenAuthentication.start(world.settings())
    world.authentication, wide = narrow, world.authentication
    server = await world.serve()
    for service, code in (("query", UNAUTHENTICATED), ("ingestion", OK)):
        proof = credentials(world.folder / "certs", service)
        outcome = await world.call(f"localhost:{server.port}", proof, world.mesh_token(service))
        assert outcome.code is code
    await narrow.close()
    world.authentication = wide


async def test_a_callers_own_token_needs_no_place_on_the_list(world: World) -> None:
    server = await world.serve()
    proof = credentials(world.folder / "certs", "client")
    assert (await world.call(f"localhost:{server.port}", proof, user_token())).code is OK


async def test_a_foreign_authority_is_refused_on_both_sides(world: World) -> None:
    tls_options(world.folder / "foreign")
    server = await world.serve()
    target = f"localhost:{server.port}"
    certs, foreign = world.folder / "certs", world.folder / "foreign"
    for proof in (credentials(foreign, "query", trust=certs), credentials(foreign, "query")):
        assert (await world.call(target, proof, world.mesh_token("query"))).code is UNAVAILABLE
    assert (await world.call(target, credentials(certs, "query"), world.mesh_token("query"))).code is OK


async def test_an_expired_certificate_is_refused(world: World) -> None:
    server = await world.serve()
    tls_options(world.folder / "certs", now=datetime.now(UTC) - timedelta(days=31))
    proof = credentials(world.folder / "certs", "query")
    assert (await world.call(f"localhost:{server.port}", proof, world.mesh_token("query"))).code is UNAVAILABLE


async def test_the_front_takes_clients_without_certificates_and_no_service_without(world: World) -> None:
    server = await world.serve("query")
    proof = credentials(world.folder / "certs", None)
    target = f"localhost:{server.port}"
    assert (await world.call(target, proof, user_token())).code is OK
    assert (await world.call(target, proof, world.mesh_token("retrieval"))).code is UNAUTHENTICATED
    strict = await world.serve("ingestion", client_certificates="all")
    assert (await world.call(f"localhost:{strict.port}", proof, user_token())).code is UNAVAILABLE


@pytest.mark.parametrize(("host", "code"), [("127.0.0.1", OK), ("localhost", OK), ("127.0.0.2", UNAVAILABLE)])
async def test_the_name_that_was_dialled_is_verified(world: World, host: str, code: grpc.StatusCode) -> None:
    server = await world.serve(address="0.0.0.0:0")
    proof = credentials(world.folder / "certs", "query")
    assert (await world.call(f"{host}:{server.port}", proof, world.mesh_token("query"))).code is code


async def test_whoever_listens_everywhere_is_called_on_loopback(world: World) -> None:
    server = await world.serve(address="0.0.0.0:0")
    channel = open_channel(f"0.0.0.0:{server.port}", tls=open_tls(world.tls, "query"))
    metadata = [("authorization", f"Bearer {world.mesh_token('query')}")]
    assert (await call(channel, "Unary", "x", metadata=metadata)).code is OK
    await channel.close()


async def test_plaintext_is_refused(world: World) -> None:
    server = await world.serve()
    outcome = await world.call(f"localhost:{server.port}", None, user_token())
    assert outcome.code is UNAVAILABLE


async def test_nothing_older_than_tls_1_2_is_spoken(world: World) -> None:
    server = await world.serve("query")

    async def version(wanted: ssl.TLSVersion) -> str:
        context = ssl.create_default_context(cafile=world.folder / "certs" / "ca.pem")
        context.set_ciphers("ALL:@SECLEVEL=0")  # without this it is Python that refuses
        context.minimum_version = context.maximum_version = wanted
        _, writer = await asyncio.open_connection("localhost", server.port, ssl=context)
        spoken: ssl.SSLObject = writer.get_extra_info("ssl_object")
        writer.close()
        return spoken.version() or ""

    assert await version(ssl.TLSVersion.TLSv1_2) == "TLSv1.2"
    assert await version(ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
    # The server hangs up; an SSLError of another kind would be Python's own refusal.
    hung_up = (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)
    with pytest.warns(DeprecationWarning, match="TLSv1_1"), pytest.raises(hung_up):
        await version(ssl.TLSVersion.TLSv1_1)


async def test_a_unix_socket_needs_no_certificate(world: World) -> None:
    address = f"unix:{world.folder}/s"
    await world.serve(address=address)
    outcome = await world.call(address, None, world.mesh_token("query"))
    assert outcome.code is OK
    channel = open_channel(address, tls=open_tls(world.tls, "query"))
    metadata = [("authorization", f"Bearer {world.mesh_token('query')}")]
    assert (await call(channel, "Unary", "x", metadata=metadata)).code is OK
    await channel.close()


# --- renewed certificates ---------------------------------------------------------------------------------------------


async def test_a_server_shows_its_new_certificate_and_keeps_the_old_one_until_then(world: World) -> None:
    server = await world.serve()
    certs = world.folder / "certs"

    async def served() -> int:
        return await asyncio.to_thread(serial_served, server.port, certs)

    first = serial_in(certificate(certs, "retrieval"))
    assert await served() == first
    with capture_logs() as logs:
        (certs / "retrieval.pem").write_text("not a certificate")
        assert [await served() for _ in range(3)] == [first] * 3
    assert [entry["event"] for entry in logs if entry["log_level"] == "warning"] == ["certificate not renewed"]
    tls_options(certs)
    assert await served() == serial_in(certificate(certs, "retrieval")) != first


async def test_a_new_authority_is_trusted_without_a_restart(world: World) -> None:
    server = await world.serve()
    certs, foreign = world.folder / "certs", world.folder / "foreign"
    tls_options(foreign)
    proof = credentials(foreign, "query", trust=certs)
    assert (await world.call(f"localhost:{server.port}", proof, world.mesh_token("query"))).code is UNAVAILABLE
    with (certs / "ca.pem").open("ab") as bundle:
        bundle.write((foreign / "ca.pem").read_bytes())
    assert (await world.call(f"localhost:{server.port}", proof, world.mesh_token("query"))).code is OK


async def test_a_stream_survives_new_certificates_on_both_sides(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.runtime.renewing_channel._INTERVAL", 0.0)
    server = await world.serve()
    certs = world.folder / "certs"
    channel = world.renewing(server)
    metadata = [("authorization", f"Bearer {world.mesh_token('query')}")]
    first = serial_in(certificate(certs, "query"))
    going_on = asyncio.Event()

    async def requests() -> AsyncIterator[Any]:
        yield Text(value="a")
        await going_on.wait()
        yield Text(value="b")

    bidi = channel.stream_stream(path("BidiStream"), Text.SerializeToString, Text.FromString)
    stream = bidi(requests(), metadata=metadata)
    _, serial, connection = (await stream.read()).value.split()
    assert int(serial) == first

    tls_options(certs)
    _, serial, other = (await ended(begin(channel, "Unary", "x", metadata=metadata))).responses[0].split()
    assert int(serial) == serial_in(certificate(certs, "query")) != first
    assert other != connection
    assert await asyncio.to_thread(serial_served, server.port, certs) == serial_in(certificate(certs, "retrieval"))

    going_on.set()
    _, serial, same = (await stream.read()).value.split()
    assert (int(serial), same) == (first, connection)
    assert await stream.read() is grpc.aio.EOF
    assert await stream.code() is OK
    await until(lambda: not channel._retired and not channel._closing)


async def test_a_call_that_begins_while_certificates_are_renewed_is_not_lost(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.runtime.renewing_channel._INTERVAL", 0.0)
    server = await world.serve()

    async def credentials() -> list[tuple[str, str]]:
        for _ in range(20):
            await asyncio.sleep(0)
        return [("authorization", f"Bearer {world.mesh_token('query')}")]

    channel = world.renewing(server, credentials)
    for _ in range(5):
        # Their interceptors are still busy when the channel is replaced.
        calls = [begin(channel, "Unary", "x") for _ in range(4)]
        tls_options(world.folder / "certs")
        calls.append(begin(channel, "Unary", "x"))
        assert {outcome.code for outcome in await asyncio.gather(*map(ended, calls))} == {OK}


async def test_a_channel_keeps_its_certificate_while_the_new_one_cannot_be_used(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.runtime.renewing_channel._INTERVAL", 0.0)
    server = await world.serve()
    channel = world.renewing(server)
    metadata = [("authorization", f"Bearer {world.mesh_token('query')}")]
    before = (await call(channel, "Unary", "x", metadata=metadata)).responses
    (world.folder / "certs" / "query.pem").write_text("not a certificate")
    assert (await call(channel, "Unary", "x", metadata=metadata)).responses == before


# --- what a person is told --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("client", "said"),
    [
        ("nothing", "it may use TLS"),
        ("no certificate", "want a certificate"),
        ("foreign", "its certificate is not of tls.authorities"),
        ("no file", "tls.certificate: "),
    ],
)
async def test_a_command_says_what_is_wrong_with_tls(world: World, client: str, said: str) -> None:
    server = await world.serve()
    tls = {
        "nothing": TlsOptions(),
        "no certificate": TlsOptions(authorities=world.tls.authorities),
        "foreign": tls_options(world.folder / "foreign"),
        "no file": world.tls.model_copy(update={"certificate": world.folder / "missing.pem"}),
    }[client]
    with pytest.raises(CliError, match=said):
        async with connect("retrieval", f"localhost:{server.port}", tls) as channel:
            await begin(channel, "Unary", "x")


async def test_a_command_says_that_a_service_has_no_tls(world: World) -> None:
    server = await world.serve(certificate=None, private_key=None, authorities=None)
    with pytest.raises(CliError, match="it does not use TLS"):
        async with connect("retrieval", f"localhost:{server.port}", world.tls) as channel:
            await begin(channel, "Unary", "x")


async def test_a_command_calls_as_the_client(world: World) -> None:
    server = await world.serve()
    async with connect("retrieval", f"localhost:{server.port}", world.tls) as channel:
        outcome = await call(channel, "Unary", "x", metadata=[("authorization", f"Bearer {user_token()}")])
    assert outcome.responses[0].split()[1] == str(serial_in(certificate(world.folder / "certs", "client")))
