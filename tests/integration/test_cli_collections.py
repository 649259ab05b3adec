"""``groundwire collections`` against the real services, and what commands say of a collection that is not there."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from groundwire.ingestion.v1 import ingestion_service_pb2 as pb
from tests.support.clients import clients
from tests.support.documents import blocks, prompted
from tests.support.mesh import GROUP, Mesh, open_mesh
from tests.support.processes import PATIENCE, ROOT

GUIDE = ROOT / "docs" / "operations.md"
_NAMES = ("store", "witness", "audit", "ingestion", "retrieval", "generation", "query")
_CATALOG = ("store", "witness", "audit", "ingestion")


@dataclass(frozen=True)
class Terminal:
    """Runs commands against ``mesh``, with pipes."""

    mesh: Mesh

    async def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        addresses = {f"GROUNDWIRE_ADDRESSES__{name.upper()}": at for name, at in self.mesh.addresses.items()}
        environment = {
            **os.environ,
            **addresses,
            "GROUNDWIRE_DATA_DIR": str(self.mesh.directory),
            "COLUMNS": "80",
            **environment,
        }
        done = await asyncio.to_thread(clients().run, arguments, environment, timeout=PATIENCE)
        return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.fixture
async def terminal() -> AsyncIterator[Terminal]:
    async with open_mesh(names=_NAMES) as mesh:
        yield Terminal(mesh)


@pytest.fixture
async def catalog() -> AsyncIterator[Terminal]:
    async with open_mesh(names=_CATALOG) as mesh:
        yield Terminal(mesh)


async def test_a_collection_is_made_listed_changed_and_shown(catalog: Terminal) -> None:
    made = await catalog.run("collections", "create", "hr", "--readers", "group:hr, user:ann", "--retention", "30")
    assert (made.returncode, made.stderr.count("\n")) == (0, 1)
    assert "nothing deletes documents by itself yet" in made.stderr
    lines = made.stdout.splitlines()
    assert lines[:4] == ["name: hr", "documents: 0", "default readers: group:hr,user:ann", "retention: 30 days"]
    listed = await catalog.run("collections", "list")
    assert [line.split("\t")[:4] for line in listed.stdout.splitlines()] == [
        ["default", "0", "owner alone", "no limit"],
        ["hr", "0", "group:hr,user:ann", "30 days"],
    ]
    changed = await catalog.run("collections", "update", "hr", "--retention", "0", "--output", "json")
    document = json.loads(changed.stdout)
    assert document["default_access"] == {"readers": ["group:hr", "user:ann"]}
    assert (document["name"], document["retention"], document["document_count"]) == ("hr", None, 0)
    shown = await catalog.run("collections", "show", "hr", "--output", "json")
    assert json.loads(shown.stdout) == document
    default = await catalog.run("collections", "show", "--output", "json")
    assert json.loads(default.stdout)["name"] == "default"
    everything = json.loads((await catalog.run("collections", "list", "--output", "json")).stdout)
    assert [one["name"] for one in everything] == ["default", "hr"]


async def test_every_collection_is_listed_over_pages(catalog: Terminal) -> None:
    names = [f"c{n:03}" for n in range(230)]
    for name in names:
        await catalog.mesh.ingestion.CreateCollection(pb.CreateCollectionRequest(name=name))
    listed = await catalog.run("collections", "list")
    assert [line.split("\t")[0] for line in listed.stdout.splitlines()] == [*names, "default"]
    table = (await catalog.run("collections", "list", "--output", "table")).stdout.splitlines()
    assert len(table) == 232
    assert max(map(len, table)) <= 80
    told = await catalog.run("collections", "show", "nowhere")
    assert "there are c000, c001, c002, c003, c004, c005, c006, c007, … (`groundwire collections list`)." in told.stderr


async def test_a_table_fits_whatever_it_has_to_show(catalog: Terminal) -> None:
    readers = ",".join(f"user:someone.with.a.long.name.{n}@example.org" for n in range(5))
    name = "legal-and-compliance-" * 6
    await catalog.run("collections", "create", name[:128].rstrip("-"), "--readers", readers)
    for columns in (80, 120):
        for command in (("list",), ("show", name[:128].rstrip("-"))):
            shown = await catalog.run("collections", *command, "--output", "table", COLUMNS=str(columns))
            assert max(map(len, shown.stdout.splitlines())) <= columns
    assert "someone.with.a.long.name.4@example.org" in shown.stdout


async def test_an_unknown_collection_is_answered_with_those_that_there_are(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("The harbour fee is 20 euros.")
    await terminal.run("collections", "create", "harbour")
    said = (
        "error: there is no collection {}; there are default, harbour. {}`groundwire collections create {}` makes it\n"
    )
    for command in (
        ("collections", "show", "legal"),
        ("collections", "update", "legal", "--retention", "9"),
        ("ingest", str(tmp_path / "a.md"), "--readers", "tenant:*", "--collection", "legal"),
        ("ask", "What is the fee?", "--collection", "legal"),
        ("ask", "What is the fee?", "--collection", "default", "--collection", "legal", "--no-stream"),
        ("search", "fee", "--collection", "legal"),
    ):
        told = await terminal.run(*command)
        assert (told.returncode, told.stdout, told.stderr) == (4, "", said.format("legal", "", "legal")), command
    told = await terminal.run("ask", "What is the fee?", "--collection", "harbor")
    assert told.stderr == said.format("harbor", "Did you mean harbour? Otherwise ", "harbor")
    # An --address may be that of another mesh, whose collections are not those of the settings.
    told = await terminal.run("search", "fee", "-c", "legal", "--address", terminal.mesh.addresses["retrieval"])
    assert told.stderr == (
        "error: there is no collection legal; `groundwire collections list` shows those that there are, "
        "`groundwire collections create legal` makes it\n"
    )


async def test_what_the_ingestion_service_does_not_tell_is_left_out(terminal: Terminal) -> None:
    await terminal.mesh.stop("ingestion")
    told = await terminal.run("search", "fee", "--collection", "legal")
    assert told.returncode == 4
    assert told.stderr.startswith("error: there is no collection legal; `groundwire collections list` shows")


async def test_what_is_wrong_is_said(catalog: Terminal) -> None:
    await catalog.run("collections", "list")  # which makes the one that always exists
    for arguments, code, told in (
        (["create", "default"], 4, "`groundwire collections show default` shows it"),
        (["create", "../etc"], 4, "name: must be 1 to 128 letters"),
        (["create", "hr", "--readers", "everybody"], 2, "reader 'everybody': must be 'user:NAME'"),
        (["create", "hr", "--retention", "36501"], 2, "--retention"),
        (["update", "default"], 2, "say what to change: --readers LIST, --retention DAYS, or both"),
        (["delete", "default"], 2, "No such command 'delete'"),
    ):
        ended = await catalog.run("collections", *arguments)
        assert (ended.returncode, ended.stdout) == (code, ""), arguments
        assert told in ended.stderr


async def test_the_commands_of_the_guide_work(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "leave.md").write_text("Parental leave lasts 14 months.")
    block = next(block for block in blocks(GUIDE, "console") if "groundwire collections create" in block.body)
    told = ""
    token: dict[str, str] = {}
    for command in prompted(block):
        exported = re.fullmatch(r"export GROUNDWIRE_TOKEN=\$\((.*)\)", command)
        # Here every caller is one user of one group, whatever their token says.
        line = (
            exported[1] if exported else command.replace(" DIR", f" {tmp_path}").replace("group:hr", f"group:{GROUP}")
        )
        ended = await terminal.run(*shlex.split(line)[1:], **token)
        assert (ended.returncode, "error" in ended.stderr) == (0, False), command
        told += ended.stderr
        if exported:
            token = {"GROUNDWIRE_TOKEN": ended.stdout.strip()}
    assert "Parental leave lasts 14 months." in ended.stdout
    assert (
        f"the default readers of the collection hr may read them, which are group:{GROUP}, user:ann; you are none of "
        "them and will not find them; --readers tenant:* lets everybody\n"
    ) in told


async def test_ingest_says_who_will_read_what_comes_without_readers(catalog: Terminal, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("The lift holds eight people.")
    note = "note: no readers given for 1 document: the "
    await catalog.run("collections", "create", "lifts", "--readers", "user:b,user:c,user:d,user:e")
    await catalog.run("collections", "create", "own", "--readers", "user:developer")
    await catalog.run("collections", "create", "open", "--readers", "tenant:*")
    dora = (await catalog.run("token", "-s", "dora", "-r", "writer")).stdout.strip()
    stranger = f"{dora.partition('.')[0]}.e30.x"
    for collection, token, told in (
        ("default", "", "collection default has no default readers, so you alone may read them"),
        ("own", "", "default readers of the collection own may read them, which are user:developer"),
        ("open", dora, "default readers of the collection open may read them, which are tenant:*"),
        ("lifts", dora, "which are user:b, user:c, user:d and 1 more; you are none of them and will not find them"),
        ("lifts", stranger, "which are user:b, user:c, user:d and 1 more; you may be none of them"),
    ):
        ended = await catalog.run(
            "ingest",
            str(tmp_path / "a.txt"),
            "--collection",
            collection,
            **({"GROUNDWIRE_TOKEN": token} if token else {}),
        )
        (said,) = [line for line in ended.stderr.splitlines() if line.startswith("note: no readers")]
        assert said.startswith(note)
        assert told in said
        assert said.endswith("; --readers tenant:* lets everybody")
        assert ("you" in said.replace(told, "")) is False
