"""Keys of a mesh that runs: swapped values are refused, the guide's commands work, and a shredded tenant is gone."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.documents import blocks
from tests.support.processes import ROOT, Mesh, mesh_up, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

FACTS = {
    "default": {
        "bus": "The shuttle bus leaves the harbour at 17:05 sharp.",
        "soup": "Lentil soup is served in the canteen on Wednesdays only.",
        "keys": "The spare keys of the archive hang behind the boiler.",
    },
    "acme": {"moon": "The lunar gantry was painted green in March."},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the mesh has its data, and its documents come from."""
    return tmp_path_factory.mktemp("keys")


@pytest.fixture(scope="module")
def mesh(place: Path) -> Iterator[Mesh]:
    """A mesh with documents of two tenants; the last test destroys one of them."""
    with mesh_up(place / "data") as started:
        for tenant, documents in FACTS.items():
            for name, text in documents.items():
                file = place / f"{name}.txt"
                file.write_text(text)
                of(started, tenant).groundwire("ingest", str(file), "--readers", "tenant:*")
        yield started


def of(mesh: Mesh, tenant: str) -> Mesh:
    """The same mesh, called by somebody of ``tenant``."""
    token = mesh.groundwire("token", "-s", "alice", "-r", "admin", "--tenant", tenant).stdout.strip()
    return replace(mesh, environment={**mesh.environment, "GROUNDWIRE_TOKEN": token})


def swap(database: Path, table: str, column: str, where: tuple[str, str]) -> None:
    """Exchange a column's values of two rows."""
    with closing(sqlite3.connect(database, timeout=30)) as connection, connection:
        first, second = (
            connection.execute(f"SELECT rowid, {column} FROM {table} WHERE {condition}").fetchone()
            for condition in where
        )
        for row, value in ((first[0], second[1]), (second[0], first[1])):
            connection.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (value, row))


def content_of(tenant: str, prefix: str) -> str:
    """The condition of one document's only chunk among the contents of a store."""
    chunk = "SELECT chunks.id FROM chunks JOIN partitions ON partitions.id = chunks.partition"
    words = {"bus": 0, "soup": 1, "keys": 2, "moon": 0}
    return f"id = ({chunk} WHERE tenant = '{tenant}' ORDER BY chunks.id LIMIT 1 OFFSET {words[prefix]})"


def answer(mesh: Mesh, question: str) -> str:
    """What is answered, with its sources, as JSON."""
    return json.dumps(mesh.ask(question))


def refusals(mesh: Mesh) -> list[dict[str, object]]:
    """What was logged about sealed values that were refused."""
    lines = "".join(process.text() for process in mesh.processes.values()).splitlines()
    return [json.loads(line) for line in lines if "sealed value refused" in line]


def told_of_both(mesh: Mesh) -> list[dict[str, object]]:
    """The reports, once there are three and both tenants have one: processes' output is read as it comes."""
    told = refusals(mesh)
    return told if len(told) >= 3 and {entry["tenant"] for entry in told} == {"default", "acme"} else []


def refusals_on_record(*callers: Mesh) -> list[dict[str, object]]:
    """What the audit log says about them to these callers, once it has all that are looked for."""
    found = [
        entry
        for caller in callers
        for entry in json.loads(caller.groundwire("audit", "list", "--denied", "--output", "json").stdout)
        if entry["reason"].startswith("SEALED_VALUE_REFUSED")
    ]
    return found if len(found) >= 3 and len({entry["tenant"] for entry in found}) >= len(callers) else []


def test_values_that_were_swapped_are_refused_and_reported(mesh: Mesh, place: Path) -> None:
    data = place / "data"
    default, acme = of(mesh, "default"), of(mesh, "acme")
    assert "17:05" in answer(default, "When does the shuttle bus leave the harbour?")
    assert "green" in answer(acme, "Which colour does the lunar gantry have?")
    # Across two tenants, in the store.
    chunks, payloads = data / "store" / "chunks.sqlite3", (content_of("default", "bus"), content_of("acme", "moon"))
    swap(chunks, "contents", "payload", payloads)
    said = answer(default, "When does the shuttle bus leave the harbour?")
    assert "17:05" not in said
    assert "gantry" not in said
    assert "bus" not in answer(acme, "Which colour does the lunar gantry have?")
    # Within one tenant, in the catalog: titles, URIs and metadata.
    before = json.loads(default.groundwire("search", "lentil soup", "--output", "json").stdout)
    assert before["chunks"]
    row = "tenant = 'default' AND document_id = '{}'"
    ids = [chunk["chunk"]["document_id"] for chunk in before["chunks"]][:2]
    details = (row.format(ids[0]), row.format(ids[1]))
    swap(data / "catalog.sqlite3", "documents", "details", details)
    shown = default.groundwire("search", "lentil soup spare keys", "--output", "json", check=False).stdout
    assert "keys.txt" not in shown
    told = until(lambda: told_of_both(mesh), "reports of refusals")
    # Where they belong again, they are read again.
    swap(data / "catalog.sqlite3", "documents", "details", details)
    swap(chunks, "contents", "payload", payloads)
    assert "17:05" in answer(default, "When does the shuttle bus leave the harbour?")
    assert {entry["tenant"] for entry in told} == {"default", "acme"}
    assert all(entry["level"] == "error" for entry in told)
    on_record = until(lambda: refusals_on_record(default, acme), "records of the refusals of both tenants")
    assert {entry["tenant"] for entry in on_record} == {"default", "acme"}
    everything = json.dumps(told)
    assert not any(word in everything for word in ("harbour", "gantry", "Lentil", "archive"))


@pytest.mark.last
def test_the_guides_commands_work_and_a_shredded_tenant_is_gone(mesh: Mesh, place: Path) -> None:
    data, backup = place / "data", place / "backup"
    shutil.copytree(data, backup, ignore=shutil.ignore_patterns("keys", "*.sock"))
    (block,) = blocks(ROOT / "docs" / "encryption.md", "sh")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, **mesh.environment, "PATH": path}
    command = ["bash", "-euo", "pipefail", "-c", block.body]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (place / "another-master.key").stat().st_mode & 0o777 == 0o600
    acme, default = of(mesh, "acme"), of(mesh, "default")
    until(lambda: acme.ask("Which colour does the lunar gantry have?")["abstained"], "the end of acme's data")
    refused = acme.groundwire("ingest", str(place / "moon.txt"), check=False)
    assert refused.returncode != 0
    assert "keys of this tenant were destroyed" in refused.stdout + refused.stderr
    assert "17:05" in answer(default, "When does the shuttle bus leave the harbour?")
    # A backup of the data from before, with today's keys.
    shutil.copytree(data / "keys", backup / "keys")
    with mesh_up(backup) as restored:
        assert of(restored, "acme").ask("Which colour does the lunar gantry have?")["abstained"]
        assert "17:05" in answer(of(restored, "default"), "When does the shuttle bus leave the harbour?")
