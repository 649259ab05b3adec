"""A mesh with TLS on every port, run by the commands of its guide."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from cli.services import MESH
from tests.support.documents import blocks, prompted
from tests.support.processes import GROUNDWIRE, ROOT, Mesh, free_ports, health, mesh_up, running, until
from tests.support.tls import ISSUER, SECRET, certificate, credentials, serial_in, serial_served, tls_options

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

GUIDE = ROOT / "docs" / "tls.md"
ISSUERS = json.dumps([{"name": ISSUER.name, "algorithm": "HS256", "secret": SECRET}])
UP = "groundwire --config groundwire.toml up"


@dataclass(frozen=True)
class Secured:
    """The mesh, all of its addresses (the store's, too), and the folder in which the guide's commands are run."""

    mesh: Mesh
    addresses: dict[str, str]
    folder: Path

    @property
    def certs(self) -> Path:
        return self.folder / "certs"

    def run(self, command: str) -> str:
        """Run a command of the guide; returns what it prints on stdout."""
        return shell(command, self.folder, self.mesh)


def shell(command: str, folder: Path, mesh: Mesh | None = None) -> str:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": PATH}
    if mesh is not None:
        environment |= mesh.environment
        for port, name in enumerate(MESH, start=50050):
            command = command.replace(f"localhost:{port}", mesh.addresses[name].replace("127.0.0.1", "localhost"))
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


PATH = os.pathsep.join([str(ROOT), str(ROOT / "generated")])
COMMANDS = [command for block in blocks(GUIDE, "console") for command in prompted(block)]


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """Every service in a process of its own, on TCP, with an issuer; callers are in the role of an admin."""
    folder = tmp_path_factory.mktemp("secured")
    first, second, *_ = COMMANDS
    assert second == UP
    shell(first, folder)
    store = f"127.0.0.1:{free_ports(1)[0]}"
    environment = {
        "GROUNDWIRE_CONFIG": str(folder / "groundwire.toml"),
        "GROUNDWIRE_ADDRESSES__STORE": store,
        "GROUNDWIRE_AUTHENTICATION__ISSUERS": ISSUERS,
        "GROUNDWIRE_LOG__LEVEL": "info",
    }
    proof = credentials(folder / "certs", "client")
    with mesh_up(folder / "data", "--processes", environment=environment, tls=proof) as started:
        token = started.groundwire("token", "-s", "alice", "-r", "admin").stdout.strip()
        mesh = replace(started, environment={**started.environment, "GROUNDWIRE_TOKEN": token})
        (folder / "backups.txt").write_text("Backups are kept for 35 days.")
        mesh.groundwire("ingest", str(folder / "backups.txt"), "--readers", "tenant:*")
        yield Secured(mesh, {**mesh.addresses, "store": store}, folder)


def test_the_commands_of_the_guide_work(secured: Secured) -> None:
    run = [command for command in COMMANDS[2:] if command != COMMANDS[0]]
    assert len(run) == 4
    # A busy machine may take longer to answer than somebody wants to wait for a status.
    patient = [f"{command} --timeout 60" if command.endswith(" status") else command for command in run]
    assert patient != run
    printed = "".join(map(secured.run, patient))
    assert "35 days" in printed
    assert "groundwire.query.v1.QueryService" in printed
    assert '"status": "SERVING"' in printed


@pytest.mark.parametrize("name", [*MESH, "store"])
def test_every_port_refuses_plaintext_and_foreign_authorities(
    secured: Secured, name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    foreign = tmp_path_factory.mktemp("foreign")
    tls_options(foreign)
    address = secured.addresses[name]
    assert health(address, tls=credentials(secured.certs, "client")) == "SERVING"
    assert health(address) == ""
    assert health(address, tls=credentials(foreign, "client")) == ""
    nobody = health(address, tls=credentials(secured.certs, None))
    stranger = health(address, tls=credentials(foreign, "client", trust=secured.certs))
    # The front asks for no certificates, and so looks at none.
    assert (nobody, stranger) == (("SERVING", "SERVING") if name in {"query", "ingestion"} else ("", ""))


def test_new_certificates_are_taken_up_without_a_restart(secured: Secured) -> None:
    def served() -> dict[str, int]:
        ports = {name: int(address.rpartition(":")[2]) for name, address in secured.addresses.items()}
        return {name: serial_served(port, secured.certs) for name, port in ports.items()}

    before = served()
    assert COMMANDS.count(COMMANDS[0]) == 2  # the guide says: repeat it
    secured.run(COMMANDS[0])
    after = served()
    for name, serial in after.items():
        assert serial == serial_in(certificate(secured.certs, name)) != before[name]
    assert "35 days" in secured.mesh.ask("How long are backups kept?")["answer"]
    # Services call with theirs, too: query reads the file of its own for its server and for its channels.
    supervisor = secured.mesh.processes["up"]
    until(lambda: supervisor.text().count('"query", "event": "certificate renewed"') >= 2, "renewal", supervisor)
    assert "PRIVATE KEY" not in supervisor.text()


# --- addresses that others can reach -----------------------------------------------------------------------------------


def serve(tmp_path: Path, *arguments: str, port: int, **environment: str) -> Any:
    """`groundwire serve audit` on all of this machine's addresses."""
    variables = {"GROUNDWIRE_DATA_DIR": str(tmp_path), **environment}
    return running(*GROUNDWIRE, "serve", "audit", "--listen", f"0.0.0.0:{port}", *arguments, environment=variables)


def test_other_addresses_need_tls(tmp_path: Path) -> None:
    with serve(tmp_path, port=free_ports(1)[0], GROUNDWIRE_AUTHENTICATION__ISSUERS=ISSUERS) as server:
        assert server.wait() == 2
    assert "audit: will not listen on 0.0.0.0:" in server.text()
    assert "without TLS" in server.text()


def test_or_somebody_who_says_that_they_do_not(tmp_path: Path) -> None:
    port = free_ports(1)[0]
    with serve(tmp_path, "--insecure", port=port, GROUNDWIRE_AUTHENTICATION__ISSUERS=ISSUERS) as server:
        until(lambda: health(f"127.0.0.1:{port}") == "SERVING", "audit", server)
        until(lambda: "INSECURE" in server.text(), "warning", server)


def test_the_development_identity_never_listens_there(tmp_path: Path) -> None:
    with serve(tmp_path, "--insecure", port=free_ports(1)[0]) as server:
        assert server.wait() == 2
    assert "development" in server.text()


def test_up_says_so_before_it_starts_anything(tmp_path: Path) -> None:
    environment = {"GROUNDWIRE_DATA_DIR": str(tmp_path / "data"), "GROUNDWIRE_ADDRESSES__QUERY": "0.0.0.0:50050"}
    with running(*GROUNDWIRE, "up", environment=environment) as supervisor:
        assert supervisor.wait() == 2
    assert supervisor.text().startswith("error: query: will not listen on 0.0.0.0:50050")
    assert len(supervisor.text().splitlines()) == 1
    assert not (tmp_path / "data").exists()
