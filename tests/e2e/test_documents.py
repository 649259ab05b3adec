"""Every command and every setting that README and docs show works."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from cli.services import MESH, settings_class
from cli.services import NAMES as SERVICES
from services.runtime.settings import load
from tests.support.documents import blocks, prompted
from tests.support.processes import ROOT, Mesh, mesh_up

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

README = ROOT / "README.md"
OPERATIONS = ROOT / "docs" / "operations.md"


def test_every_command_of_the_readme_works(tmp_path: Path) -> None:
    commands = [command for block in blocks(README, "console") for command in prompted(block)]
    assert {"make demo", "make test", "groundwire up"} <= set(commands)
    run = [command for command in commands if not command.startswith("make ") and command != "groundwire up"]
    assert len(run) >= 9
    (snippet,) = blocks(README, "python")
    with mesh_up(tmp_path) as mesh:
        printed = {command: _run(command, mesh) for command in run}
        example = _run(shlex.join(["python", "-c", f"import grpc\n{snippet.body}"]), mesh)
    assert "€210 per night" in next(text for command, text in printed.items() if "hotel limit per night" in command)
    assert '"abstained": true' in next(text for command, text in printed.items() if "parking" in command)
    assert "four hours" in next(text for command, text in printed.items() if "recovery time" in command)
    assert "backup" in example
    assert "N7 leaves the north gate" in printed["python examples/client.py"]


def _run(command: str, mesh: Mesh) -> str:
    for port, name in enumerate(MESH, start=50050):
        command = command.replace(f"localhost:{port}", mesh.addresses[name])
    environment = {
        **os.environ,
        **mesh.environment,
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


def test_every_make_target_that_documents_name_exists() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for document in (README, OPERATIONS, ROOT / "CONTRIBUTING.md", ROOT / "ARCHITECTURE.md"):
        named = set(re.findall(r"`make ([a-z0-9 -]+)`|^\$ make ([a-z0-9-]+)", document.read_text(), re.MULTILINE))
        for words in named:
            assert set(" ".join(words).split()) <= targets, (document.name, words)


def test_every_file_that_documents_link_to_exists() -> None:
    for document in (README, OPERATIONS, ROOT / "CONTRIBUTING.md", ROOT / "ARCHITECTURE.md", ROOT / "CHANGELOG.md"):
        for link in re.findall(r"\]\((?!https?://)([^)#]+)(?:#[^)]*)?\)", document.read_text()):
            assert (document.parent / link).exists(), (document.name, link)


def test_the_settings_of_the_documents_are_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (block,) = blocks(OPERATIONS, "toml")
    file = tmp_path / "groundwire.toml"
    file.write_text(block.body)
    tomllib.loads(block.body)
    for name in SERVICES:
        load(settings_class(name), file)
    for block in blocks(OPERATIONS, "sh"):
        for line in block.body.splitlines():
            words = shlex.split(line)
            while "=" in words[0]:
                variable, _, value = words.pop(0).partition("=")
                monkeypatch.setenv(variable, value)
            if words[:2] == ["groundwire", "serve"]:
                load(settings_class(words[2]))
            else:
                assert words[0] in ("chroma", "groundwire")
