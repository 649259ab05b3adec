"""Every command that the README shows works."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from cli.services import MESH
from tests.support.documents import blocks, prompted
from tests.support.processes import ROOT, Mesh, mesh_up

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

README = ROOT / "README.md"
# Of many company networks; nothing answers there, and no command of the README may ask it for this machine.
_PROXIES = dict.fromkeys(("http_proxy", "https_proxy", "grpc_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")


def test_every_command_of_the_readme_works(tmp_path: Path) -> None:
    commands = [command for block in blocks(README, "console") for command in prompted(block)]
    assert {"make demo", "make test", "groundwire up"} <= set(commands)
    run = [command for command in commands if not command.startswith("make ") and command != "groundwire up"]
    assert len(run) >= 9
    (snippet,) = blocks(README, "python")
    with mesh_up(tmp_path) as mesh:
        # What a command exports counts for those that follow, as in a terminal.
        exports = "\n".join(command for command in run if command.startswith("export "))
        exported = dict(line.split("=", 1) for line in _run(f"{exports}\nenv", mesh, {}).splitlines() if "=" in line)
        printed = {command: _run(command, mesh, exported) for command in run if not command.startswith("export ")}
        example = _run(shlex.join(["python", "-c", f"import grpc, os\n{snippet.body}"]), mesh, exported)
    assert "€210 per night" in next(text for command, text in printed.items() if "hotel limit per night" in command)
    assert '"abstained": true' in next(text for command, text in printed.items() if "parking" in command)
    assert "four hours" in next(text for command, text in printed.items() if "recovery time" in command)
    assert "backup" in example
    assert "N7 leaves the north gate" in printed["python examples/client.py"]


def _run(command: str, mesh: Mesh, exported: Mapping[str, str]) -> str:
    if command == "groundwire status":
        # A busy machine may take longer to answer than somebody wants to wait for.
        command += " --timeout 60"
    for port, name in enumerate(MESH, start=50050):
        command = command.replace(f"localhost:{port}", mesh.addresses[name])
    environment = {
        **os.environ,
        **mesh.environment,
        **exported,
        **_PROXIES,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "QUERY_PORT": mesh.addresses["query"].rpartition(":")[2],
        "INGESTION_PORT": mesh.addresses["ingestion"].rpartition(":")[2],
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command.replace("examples/client.py", "examples/client.py 127.0.0.1")],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    # `doctor` finds the ports of the mesh taken by the mesh; that is its finding, and no failure.
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout
