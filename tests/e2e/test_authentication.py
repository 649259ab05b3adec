"""With an issuer configured nobody gets in without a token, and everybody sees what they may read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from services.runtime.settings import socket_path
from services.security.minting import TokenMinter
from tests.support.documents import blocks
from tests.support.processes import NAMES, ROOT, Mesh, grpcurl, mesh_up, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

SECRET = "correct-horse-battery-staple-0123456789"
ISSUERS = json.dumps([{"name": "https://login.example", "algorithm": "HS256", "secret": SECRET}])
CALLS = {
    "query": ("groundwire.query.v1.QueryService/Query", {"query": "x"}),
    "ingestion": ("groundwire.ingestion.v1.IngestionService/ListDocuments", {}),
    "retrieval": ("groundwire.retrieval.v1.RetrievalService/Retrieve", {"query": "x"}),
    "generation": ("groundwire.generation.v1.GenerationService/Generate", {"query": "x"}),
    "audit": ("groundwire.audit.v1.AuditService/ListEvents", {}),
    "monitoring": ("groundwire.monitoring.v1.MonitoringService/GetTopology", {}),
}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A mesh in processes of their own, which accept an issuer's tokens."""
    folder = tmp_path_factory.mktemp("guarded")
    with mesh_up(folder / "data", "--processes", environment={"GROUNDWIRE_AUTHENTICATION__ISSUERS": ISSUERS}) as mesh:
        alice = as_caller(mesh, "alice", "writer", "hr")
        for name, readers, text in (
            ("wages", "group:hr", "The janitor earns 41,300 euros a year."),
            ("bus", "tenant:*", "The shuttle bus leaves at 17:05."),
            ("parking", "group:Human%20Resources", "The parking permit costs 38 euros a month."),
        ):
            (folder / f"{name}.txt").write_text(text)
            alice.groundwire("ingest", str(folder / f"{name}.txt"), "--readers", readers)
        yield mesh


def as_caller(mesh: Mesh, subject: str, role: str, *groups: str, tenant: str = "default") -> Mesh:
    """The same mesh, called with a token of ``subject``'s."""
    arguments = [part for group in groups for part in ("--group", group)]
    minted = mesh.groundwire("token", "-s", subject, "-r", role, "--tenant", tenant, *arguments).stdout.strip()
    return replace(mesh, environment={**mesh.environment, "GROUNDWIRE_TOKEN": minted})


@pytest.mark.parametrize("name", NAMES)
def test_no_token_and_a_bad_token_get_one_answer(guarded: Mesh, name: str) -> None:
    method, request = CALLS[name]
    said = set()
    for header in ((), ("-H", "authorization: Bearer nonsense"), ("-H", "authorization: Basic YTpi")):
        refused = grpcurl("-plaintext", *header, "-d", json.dumps(request), guarded.addresses[name], method)
        assert refused.returncode != 0
        assert "Code: Unauthenticated" in refused.stderr
        said.add(refused.stderr)
    assert len(said) == 1


def test_a_token_lets_its_caller_see_what_they_may_read(guarded: Mesh) -> None:
    in_hr, outside = as_caller(guarded, "bob", "reader", "hr"), as_caller(guarded, "carol", "reader")
    assert "41,300" in in_hr.ask("How much does the janitor earn a year?")["answer"]
    answer = outside.ask("How much does the janitor earn a year?")
    assert answer["abstained"]
    assert "wages" not in json.dumps(answer)
    assert "17:05" in outside.ask("When does the shuttle bus leave?")["answer"]


def test_readers_may_be_of_any_name(guarded: Mesh, tmp_path: Path) -> None:
    question = "How much does the parking permit cost a month?"
    inside, outside = (
        as_caller(guarded, "auth0|5f7c", "writer", "Human Resources"),
        as_caller(guarded, "auth0%7C5f7c", "writer", "Human%20Resources"),
    )
    assert "38" in inside.ask(question)["answer"]
    assert outside.ask(question)["abstained"]
    # A document without readers is its owner's, who may share it.
    (tmp_path / "locker.txt").write_text("The locker code of the third floor is 4471.")
    inside.groundwire("ingest", str(tmp_path / "locker.txt"))
    question = "What is the locker code of the third floor?"
    assert "4471" in inside.ask(question)["answer"]
    assert outside.ask(question)["abstained"]
    request = {
        "collection": "default",
        "document_id": "locker.txt",
        "access": {"readers": ["user:auth0%257C5f7c", "user:auth0%7C5f7c"]},
    }
    method = "groundwire.ingestion.v1.IngestionService/UpdateDocumentAccess"
    header = f"authorization: Bearer {inside.environment['GROUNDWIRE_TOKEN']}"
    target = guarded.addresses["ingestion"]
    shared = grpcurl("-plaintext", "-H", header, "-d", json.dumps(request), target, method)
    assert shared.returncode == 0, shared.stderr
    assert "4471" in outside.ask(question)["answer"]
    request["access"] = {"readers": ["group:/hr"]}
    wrong = grpcurl("-plaintext", "-H", header, "-d", json.dumps(request), target, method)
    assert "Code: InvalidArgument" in wrong.stderr
    assert "group:%2Fhr" in wrong.stderr


def test_why_a_token_was_refused_is_in_the_log_by_its_request_id(guarded: Mesh) -> None:
    refused_here = guarded.groundwire("token", "-s", "alice", "--lifetime", "5400", check=False)
    assert (refused_here.returncode, refused_here.stdout) == (2, "")
    minter = TokenMinter(SECRET.encode(), issuer="https://login.example", audience="groundwire")
    token = minter.mint(tenant="default", subject="alice", lifetime=5400)
    method, request = CALLS["query"]
    headers = ("-H", f"authorization: Bearer {token}", "-H", "x-request-id: why-was-it-refused")
    refused = grpcurl("-plaintext", *headers, "-d", json.dumps(request), guarded.addresses["query"], method)
    assert "Code: Unauthenticated" in refused.stderr
    assert "max_lifetime" not in refused.stderr

    def told() -> list[dict[str, str]]:
        lines = "".join(process.text() for process in guarded.processes.values()).splitlines()
        return [json.loads(line) for line in lines if '"why-was-it-refused"' in line]

    until(told, "the refusal in the log")
    (line,) = told()
    assert (line["level"], line["reason"], line["issuer"]) == ("warning", "lifetime", "https://login.example")
    assert line["signature"] == "valid"
    assert "the token lives 5400 s and the issuer's setting `max_lifetime` is 3600" in line["why"]


def test_tenants_share_nothing(guarded: Mesh) -> None:
    stranger = as_caller(guarded, "alice", "reader", "hr", tenant="rival")
    answer = stranger.ask("When does the shuttle bus leave?")
    assert answer["abstained"]
    assert not answer.get("sources")


def test_a_role_that_lacks_the_permission_is_refused(guarded: Mesh, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("something")
    refused = as_caller(guarded, "carol", "reader").groundwire("ingest", str(tmp_path / "x.txt"), check=False)
    assert refused.returncode != 0
    assert "documents:ingest" in refused.stderr + refused.stdout


def test_nobody_reaches_the_store_but_services(guarded: Mesh) -> None:
    token = as_caller(guarded, "root", "admin").environment["GROUNDWIRE_TOKEN"]
    socket = socket_path(Path(guarded.environment["GROUNDWIRE_DATA_DIR"]), "store")
    refused = grpcurl(
        *("-plaintext", "-unix", "-authority", "localhost", "-H", f"authorization: Bearer {token}"),
        *(str(socket), "groundwire.store.v1.StoreService/GetCapabilities"),
    )
    assert "Code: PermissionDenied" in refused.stderr


def test_the_command_of_the_guide_mints_a_token_that_works(guarded: Mesh) -> None:
    block, *_ = blocks(ROOT / "docs" / "access.md", "sh")
    script = f"{block.body}\ngroundwire ask 'How much does the janitor earn a year?' --output json"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, **guarded.environment, "PATH": path}
    command = ["bash", "-euo", "pipefail", "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    assert "41,300" in json.loads(done.stdout)["answer"]


def test_the_commands_of_the_guide_that_take_a_token_back_work(guarded: Mesh) -> None:
    _, block, _ = blocks(ROOT / "docs" / "access.md", "sh")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, **guarded.environment, "PATH": path}
    command = ["bash", "-euo", "pipefail", "-c", block.body.replace("alice", "somebody-else")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.count("revoked: ") == 3


def test_the_command_of_the_guide_deletes_for_the_owner_alone(guarded: Mesh, tmp_path: Path) -> None:
    *_, block = blocks(ROOT / "docs" / "access.md", "sh")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = ["bash", "-euo", "pipefail", "-c", block.body]
    frank, grace = as_caller(guarded, "frank", "writer"), as_caller(guarded, "grace", "writer")
    (tmp_path / "shuttle-bus.txt").write_text("The shuttle to the harbour leaves at 09:55.")
    frank.groundwire("ingest", str(tmp_path), "--readers", "tenant:*")
    assert "09:55" in grace.ask("When does the shuttle to the harbour leave?")["answer"]

    def run(caller: Mesh) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, **caller.environment, "PATH": path}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)

    refused = run(grace)
    assert refused.returncode == 4
    assert "only the document's owner" in refused.stderr
    deleted = run(frank)
    assert deleted.returncode == 0, deleted.stderr
    assert "nothing of it is left" in deleted.stdout
    assert "09:55" not in grace.ask("When does the shuttle to the harbour leave?")["answer"]
    # The receipt is shown again to whoever deleted it, and to nobody else.
    assert run(frank).stdout == deleted.stdout
    assert "no such document" in run(grace).stderr


def test_a_revoked_token_is_refused_by_every_service(guarded: Mesh) -> None:
    dave, erin = as_caller(guarded, "dave", "admin"), as_caller(guarded, "erin", "admin")

    def refused(caller: Mesh, name: str) -> bool:
        method, request = CALLS[name]
        header = f"authorization: Bearer {caller.environment['GROUNDWIRE_TOKEN']}"
        said = grpcurl("-plaintext", "-H", header, "-d", json.dumps(request), guarded.addresses[name], method)
        return "Code: Unauthenticated" in said.stderr

    assert not any(refused(dave, name) for name in NAMES)
    guarded.groundwire("revoke", "--subject", "dave")
    for name in NAMES:
        until(lambda name=name: refused(dave, name), f"refusal by {name}")  # type: ignore[misc] # bound for this turn
    assert not any(refused(erin, name) for name in NAMES)


def test_no_token_is_in_any_log(guarded: Mesh) -> None:
    shown = "".join(process.text() for process in guarded.processes.values())
    assert "eyJ" not in shown
    assert SECRET not in shown
