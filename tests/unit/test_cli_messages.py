"""What a command says when it asked the wrong place, the wrong way or without a token, and how errors look."""

from __future__ import annotations

import asyncio
import os
import pty
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli import client
from cli import main as cli_main
from cli.doctor import callers
from cli.errors import CliError
from cli.mesh import Plan
from cli.options import Globals
from cli.streams import fitted, on_terminal
from cli.up import commands
from groundwire.query.v1 import query_service_pb2 as query_pb
from groundwire.query.v1 import query_service_pb2_grpc as query_rpc
from groundwire.retrieval.v1 import retrieval_service_pb2 as retrieval_pb
from groundwire.retrieval.v1 import retrieval_service_pb2_grpc as retrieval_rpc
from services.corpus.errors import Unauthenticated
from services.runtime.identity import development_identity
from services.runtime.options import AuthenticationOptions, IssuerOptions
from services.runtime.server import MIB, Server, Service
from services.runtime.settings import Settings
from services.runtime.unbuilt import unbuilt
from tests.support.clients import clients
from tests.support.processes import PATIENCE, ROOT
from tests.support.recording import memory_recorder

_ISSUER = "https://idp.example.org"
_PUBLIC = IssuerOptions(name=_ISSUER, algorithm="RS256", jwks_url=f"{_ISSUER}/keys")
_SHARED = IssuerOptions(name="shared", algorithm="HS256", secret="0" * 32)


class Query(query_rpc.QueryServiceServicer):
    """Refuses every caller as unknown."""

    Query = DeleteSession = GetSession = SubmitFeedback = unbuilt

    async def StreamQuery(self, request: query_pb.QueryRequest, context: Any) -> AsyncIterator[query_pb.QueryEvent]:  # noqa: N802
        if request.query:
            raise Unauthenticated
        yield query_pb.QueryEvent()


class Retrieval(retrieval_rpc.RetrievalServiceServicer):
    """Offers its methods, without any of them."""

    Retrieve = ListStores = CheckSources = unbuilt


@dataclass
class Served:
    """Where the services are, ``stranger`` refusing every caller, and what tells the commands so."""

    query: str
    retrieval: str
    stranger: str
    environment: dict[str, str]

    async def run(self, *arguments: str, **changes: str) -> tuple[int, str, str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GROUNDWIRE_")}
        environment |= self.environment | changes
        done = await asyncio.to_thread(clients().run, arguments, environment, timeout=PATIENCE)
        return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    """A query service, a retrieval service, and one more, which refuses every caller."""
    settings = Settings(data_dir=tmp_path)
    services: list[tuple[str, Any, Callable[[Any, grpc.aio.Server], None], Any]] = [
        ("query", Query(), query_rpc.add_QueryServiceServicer_to_server, query_pb),
        ("retrieval", Retrieval(), retrieval_rpc.add_RetrievalServiceServicer_to_server, retrieval_pb),
        ("retrieval", Retrieval(), retrieval_rpc.add_RetrievalServiceServicer_to_server, retrieval_pb),
    ]
    identities = [development_identity(settings), development_identity(settings), _refuse]
    servers = []
    for (name, servicer, add, pb), identity in zip(services, identities, strict=True):
        service = Service(
            name=name,
            descriptors=[pb.DESCRIPTOR.services_by_name[f"{name.capitalize()}Service"]],
            register=partial(add, servicer),
            ready=_nothing,
            close=_nothing,
            recorder=memory_recorder(name)[0],
            max_request_bytes=MIB,
        )
        servers.append(Server(service, settings, identity))
        await servers[-1].start("127.0.0.1:0")
    query, retrieval, stranger = (f"127.0.0.1:{server.port}" for server in servers)
    environment = {
        "GROUNDWIRE_DATA_DIR": str(tmp_path),
        "GROUNDWIRE_ADDRESSES__QUERY": query,
        "GROUNDWIRE_ADDRESSES__RETRIEVAL": retrieval,
    }
    yield Served(query, retrieval, stranger, environment)
    for server in servers:
        await server.drain(delay=0, grace=0)


async def _nothing() -> None:
    return None


async def _refuse(*_: Any) -> Any:
    raise Unauthenticated


# --- the wrong place ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "service"),
    [
        (("ask", "x"), "query"),
        (("ask", "x", "--no-stream"), "query"),
        (("ingest", "FILE"), "ingestion"),
        (("delete", "x", "--yes"), "ingestion"),
        (("audit", "list"), "audit"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value,
)
async def test_the_address_of_another_service_is_told(
    command: Sequence[str], service: str, served: Served, tmp_path: Path
) -> None:
    (tmp_path / "note.txt").write_text("x")
    arguments = [part.replace("FILE", str(tmp_path / "note.txt")) for part in command]
    code, out, err = await served.run(*arguments, "--address", served.retrieval)
    known = served.query if service == "query" else str(getattr(Settings().addresses, service))
    assert (code, out) == (4, "")
    assert err.splitlines()[-1] == (
        f"error: {served.retrieval} is the address of the retrieval service, not of the {service} service, "
        f"which the settings say is at {known}"
    )


async def test_on_other_ports_than_the_settings_the_right_service_is_looked_for_beside_the_wrong_one(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The settings have the usual ports, and the mesh that is asked was started with `--port-base`."""
    for name in ("QUERY", "RETRIEVAL"):
        monkeypatch.delenv(f"GROUNDWIRE_ADDRESSES__{name}", raising=False)
    wrong = f"{served.retrieval} is the address of the retrieval service, not of the query service"
    for beside, told in (
        (served.query, f"{wrong}, which is at {served.query}"),
        (served.retrieval, wrong),
        (None, wrong),
    ):
        monkeypatch.setattr(client, "in_a_row", lambda *_, beside=beside: beside)
        with pytest.raises(CliError) as refused:
            async with client.connect("query", served.retrieval) as channel:
                await query_rpc.QueryServiceStub(channel).Query(query_pb.QueryRequest(query="x"), timeout=PATIENCE)
        assert refused.value.message == told


def test_the_ports_of_a_mesh_are_in_a_row() -> None:
    assert client.in_a_row("query", "127.0.0.1:6002", "retrieval") == "127.0.0.1:6000"
    assert client.in_a_row("monitoring", "[::1]:6001", "ingestion") == "[::1]:6005"
    assert client.in_a_row("query", "127.0.0.1:1", "retrieval") is None
    assert client.in_a_row("query", "127.0.0.1:6002", "store") is None
    assert client.in_a_row("query", "unix:/x/retrieval.sock", "retrieval") is None


@pytest.mark.parametrize(
    ("token", "told"),
    [("ab.cd\nef", "a line break at position 6"), ("Bearer ab", "a space at position 7"), ("é", "a character at")],
)
async def test_a_token_that_cannot_be_sent_is_told_before_a_call(token: str, told: str, served: Served) -> None:
    code, out, err = await served.run("ask", "x", GROUNDWIRE_TOKEN=token)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert err.startswith(f"error: GROUNDWIRE_TOKEN is no token: it has {told}")
    assert token not in err


async def test_a_setting_that_names_another_service_is_to_be_corrected(served: Served) -> None:
    _, _, err = await served.run("ask", "x", GROUNDWIRE_ADDRESSES__QUERY=served.retrieval)
    assert err == (
        f"error: {served.retrieval} is the address of the retrieval service, not of the query service; "
        "correct the setting addresses.query\n"
    )


async def test_what_the_right_service_says_stays_what_it_says(served: Served) -> None:
    code, _, err = await served.run("search", "x")
    assert code == 4
    assert "is the address of" not in err


async def test_a_server_that_is_no_service_of_ours_is_told_apart() -> None:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    where = Served("", "", "", {})
    try:
        code, _, err = await where.run("ask", "x", "--address", f"127.0.0.1:{port}")
    finally:
        await server.stop(None)
    assert code == 4
    assert err == (
        f"error: the query service at 127.0.0.1:{port} does not offer this; "
        "check that the address is the query service's\n"
    )


async def test_a_server_without_grpc_is_told_apart() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        code, _, err = await Served("", "", "", {}).run("ask", "x", "--address", f"127.0.0.1:{port}")
    assert code == 3
    assert err == (
        f"error: the query service at 127.0.0.1:{port}: what answers there is no gRPC server: check the address\n"
    )


@pytest.mark.parametrize(
    ("command", "usual"),
    [
        (("ask", "x"), "50050"),
        (("search", "x"), "50052"),
        (("delete", "x", "--yes"), "50051"),
        (("audit", "list"), "50054"),
        (("audit", "verify"), "50054"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value,
)
def test_an_address_that_is_none_says_what_to_write(
    command: Sequence[str], usual: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for address, wanted in (
        ("http://127.0.0.1:6000", "write 127.0.0.1:6000, without http://"),
        ("localhost", f"write localhost:{usual}; the port was missing"),
    ):
        assert cli_main.main([*command, "--address", address]) == 2
        told = capsys.readouterr()
        assert (told.out, told.err) == ("", f"error: {address!r} is not HOST:PORT or unix:/path: {wanted}\n")


# --- without a token ------------------------------------------------------------------------------------------------


def settings_with(*issuers: IssuerOptions) -> Settings:
    return Settings(authentication=AuthenticationOptions(issuers=issuers))


ISSUERS = f'[{{"name": "{_ISSUER}", "algorithm": "RS256", "jwks_url": "{_ISSUER}/keys"}}]'
SHARED = '[{"name": "shared", "algorithm": "HS256", "secret": "01234567890123456789012345678901"}]'


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"GROUNDWIRE_AUTHENTICATION__ISSUERS": ISSUERS},
            f"no token was sent; get one from {_ISSUER} and put it into GROUNDWIRE_TOKEN: only the issuer has the key",
        ),
        (
            {"GROUNDWIRE_AUTHENTICATION__ISSUERS": ISSUERS, "GROUNDWIRE_TOKEN": "x"},
            "it does not accept the token in GROUNDWIRE_TOKEN, which may have expired or be meant for others; get one",
        ),
        (
            {"GROUNDWIRE_AUTHENTICATION__ISSUERS": SHARED},
            "no token was sent; make one with `export GROUNDWIRE_TOKEN=$(groundwire token --subject NAME",
        ),
        ({"GROUNDWIRE_TOKEN": "x"}, "make one with `export GROUNDWIRE_TOKEN=$(groundwire token)`"),
        ({}, "it does not use the secret of the data directory {data}; set GROUNDWIRE_DATA_DIR to the one that it"),
        ({"GROUNDWIRE_AUTHENTICATION__REQUIRED": "false"}, "it wants a token, though the settings here do not"),
    ],
)
async def test_who_is_not_known_is_told_what_to_do(
    changes: dict[str, str], told: str, served: Served, tmp_path: Path
) -> None:
    code, out, err = await served.run("ask", "x", **changes)
    assert (code, out, len(err.splitlines())) == (4, "", 1)
    assert err.startswith(f"error: the query service at {served.query} does not know you: ")
    assert told.replace("{data}", str(tmp_path)) in err


async def test_status_says_why_monitoring_does_not_tell(served: Served) -> None:
    # The query service stands in: it has no topology.
    code, _, err = await served.run("status", "--timeout", "30", GROUNDWIRE_ADDRESSES__MONITORING=served.query)
    assert code == 3
    assert err == "monitoring does not tell: each service was asked, and knows only of itself\n"
    changes = {
        "GROUNDWIRE_ADDRESSES__MONITORING": served.stranger,
        "GROUNDWIRE_AUTHENTICATION__ISSUERS": ISSUERS,
    }
    _, _, err = await served.run("status", "--timeout", "30", **changes)
    assert f"does not know you: no token was sent; get one from {_ISSUER}" in err


def test_no_token_can_be_made_where_only_the_issuer_signs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GROUNDWIRE_AUTHENTICATION__ISSUERS", ISSUERS)
    for more in ([], ["--issuer", "other"]):
        assert cli_main.main(["token", *more]) == 2
        told = capsys.readouterr()
        assert (told.out, len(told.err.splitlines())) == ("", 1)
        assert f"get one from {_ISSUER} and put it into GROUNDWIRE_TOKEN" in told.err
    monkeypatch.setenv("GROUNDWIRE_AUTHENTICATION__ISSUERS", SHARED)
    assert cli_main.main(["token", "--issuer", "other"]) == 2
    assert "no issuer 'other' with a shared secret; there are shared" in capsys.readouterr().err


def test_up_and_doctor_offer_only_tokens_that_can_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GROUNDWIRE_TOKEN", raising=False)
    shown = {
        names: commands(Plan(settings_with(*issuers), {}, None, False, {}), Globals())["a token"]
        for names, issuers in (("public", [_PUBLIC]), ("both", [_PUBLIC, _SHARED]), ("none", []))
    }
    assert shown == {
        "public": f"export GROUNDWIRE_TOKEN=…  # of {_ISSUER}",
        "both": "export GROUNDWIRE_TOKEN=$(groundwire token --subject NAME --role admin)",
        "none": "export GROUNDWIRE_TOKEN=$(groundwire token)",
    }
    assert f"get one from {_ISSUER}" in callers(settings_with(_PUBLIC)).remedy
    monkeypatch.setenv("GROUNDWIRE_TOKEN", "x")
    assert callers(settings_with(_PUBLIC)).remedy == ""


@pytest.mark.parametrize(
    ("arguments", "token", "code", "told"),
    [
        (["--help"], "", 0, "usage: client.py [-h] [host]"),
        ([], "Bearer x\ny", 2, "GROUNDWIRE_TOKEN is not one token: export GROUNDWIRE_TOKEN=$(groundwire token)"),
    ],
)
def test_the_example_of_a_client_says_what_it_takes(arguments: list[str], token: str, code: int, told: str) -> None:
    command = [sys.executable, str(ROOT / "examples" / "client.py"), *arguments]
    environment = {**os.environ, "GROUNDWIRE_TOKEN": token, "INGESTION_PORT": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == code
    assert told in (done.stdout or done.stderr)


async def test_the_example_of_a_client_says_why_it_is_refused(served: Served) -> None:
    command = [sys.executable, str(ROOT / "examples" / "client.py"), "127.0.0.1"]
    port = served.stranger.rpartition(":")[2]
    environment = {**os.environ, "GROUNDWIRE_TOKEN": "x", "INGESTION_PORT": port, "QUERY_PORT": port}
    done = await asyncio.to_thread(
        subprocess.run, command, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 3
    assert done.stderr.startswith("UNAUTHENTICATED: ")
    assert "GROUNDWIRE_TOKEN is not set, or its token is not accepted: export" in done.stderr


# --- how errors look ------------------------------------------------------------------------------------------------


@given(
    st.lists(
        # A command in backticks stays on one line.
        st.text(st.characters(codec="ascii", min_codepoint=33, exclude_characters="`"), min_size=1),
        min_size=1,
    ),
    st.integers(20, 120),
)
def test_lines_are_broken_between_words_alone(words: list[str], width: int) -> None:
    line = "error: " + " ".join(words)
    lines = fitted(line, width).split("\n")
    assert [word for part in lines for word in part.split(" ") if word] == line.split(" ")
    assert all(len(part) <= width or len(part.split()) == 1 for part in lines)
    assert all(part.startswith("  ") for part in lines[1:])


def test_errors_are_broken_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    line = "error: " + "a-path/with-hyphens " * 8
    ours, theirs = pty.openpty()
    monkeypatch.delenv("COLUMNS", raising=False)
    with os.fdopen(theirs, "w") as terminal, Path(os.devnull).open("w") as elsewhere:
        assert on_terminal(elsewhere, [line]) == [line]
        assert max(map(len, on_terminal(terminal, [line]))) <= 80, "a terminal that does not know its size"
        monkeypatch.setenv("COLUMNS", "40")
        assert max(map(len, on_terminal(terminal, [line]))) <= 40
    os.close(ours)


def test_a_file_that_cannot_be_read_or_written_is_no_surprise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GROUNDWIRE_DATA_DIR", str(tmp_path))
    (tmp_path / "keys").write_text("in the way")
    assert cli_main.main(["token"]) == 2
    told = capsys.readouterr().err
    assert told == (
        f"error: {tmp_path}/keys: there is a file of this name already; name another place, or put it right\n"
    )
