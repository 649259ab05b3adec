"""The drill of docs/backup.md: a backup while documents come and go, the data directory lost, and everything back."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from groundwire.common.v1 import core_pb2
from groundwire.ingestion.v1 import ingestion_service_pb2 as pb
from groundwire.ingestion.v1 import ingestion_service_pb2_grpc as rpc
from services.backup.checking import check_backup
from services.backup.folder import read_manifest
from services.backup.parts import read_part
from services.catalog.contents import read_contents
from services.corpus.errors import DataLoss
from tests.support.documents import blocks, prompted
from tests.support.processes import GROUNDWIRE, PATIENCE, ROOT, Mesh, mesh_up, running, settings_environment, until

if TYPE_CHECKING:
    from groundwire.ingestion.v1.ingestion_service_pb2_grpc import IngestionServiceStub

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(600)]

QUESTIONS = (
    "What is the hotel limit per night in Tier A cities under the 2025 travel policy?",
    "How many weeks of parental leave does a birth parent get?",
    "Which colour does the lunar gantry have?",
)
PRIVATE = "What is the 2025 salary band for level L4 in Rotterdam?"


@dataclass
class Busy:
    """What somebody did who never stopped while the backup was taken, in the order in which it was answered."""

    deleted_before: set[str] = field(default_factory=set)
    kept: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)
    rounds: int = 0


@dataclass(frozen=True)
class Drill:
    """What was left by the first half of the drill."""

    place: Path
    answers: Mapping[str, str]
    private: str
    busy: Busy

    @property
    def backup(self) -> Path:
        return self.place / "backups" / "monday"

    @property
    def data(self) -> Path:
        return self.place / "data"


def of(mesh: Mesh, tenant: str, subject: str = "alice", role: str = "admin") -> Mesh:
    """The same mesh, called by somebody of ``tenant``."""
    token = mesh.groundwire("token", "-s", subject, "-r", role, "--tenant", tenant).stdout.strip()
    return replace(mesh, environment={**mesh.environment, "GROUNDWIRE_TOKEN": token})


def told(mesh: Mesh, question: str) -> str:
    """What is answered; nothing where nobody knows."""
    answer = mesh.ask(question)
    return "" if answer.get("abstained") else str(answer["answer"])


def all_answers(mesh: Mesh) -> dict[str, str]:
    """The answers of both tenants."""
    return {
        f"{tenant}: {question}": told(of(mesh, tenant), question)
        for question in QUESTIONS
        for tenant in ("default", "acme")
    }


@contextmanager
def ingestion(mesh: Mesh) -> Iterator[tuple[IngestionServiceStub, Any]]:
    """The ingestion service, and how calls to it are made."""
    options = {
        "metadata": mesh.authorization("-s", "alice", "-g", "hr", "-r", "admin"),
        "timeout": PATIENCE,
        "wait_for_ready": True,
    }
    with grpc.insecure_channel(mesh.addresses["ingestion"]) as channel:
        yield rpc.IngestionServiceStub(channel), options


@contextmanager
def busy(mesh: Mesh) -> Iterator[Busy]:
    """Documents that come, are replaced and go, until the body has ended; at least a few."""
    did, ending = Busy(), threading.Event()
    problems: list[BaseException] = []

    def write() -> None:
        with ingestion(mesh) as (stub, options):
            while not (ending.is_set() and did.rounds >= 3):
                number = did.rounds
                stays, goes = f"stays-{number}.txt", f"goes-{number}.txt"
                for text in ("first", "second"):
                    documents = [
                        pb.DocumentInput(document_id=name, content=f"The {text} text of {name}.".encode())
                        for name in (stays, goes, "always.txt")
                    ]
                    assert (
                        stub.IngestDocuments(pb.IngestDocumentsRequest(documents=documents), **options).processed == 3
                    )
                did.kept.add(stays)
                stub.DeleteDocument(pb.DeleteDocumentRequest(document_id=goes), **options)
                did.deleted.add(goes)
                did.rounds += 1

    def run() -> None:
        try:
            write()
        except BaseException as error:
            problems.append(error)
            raise

    writing = threading.Thread(target=run)
    writing.start()
    try:
        until(lambda: did.rounds >= 1 or problems, "documents")
        did.deleted_before = set(did.deleted)
        yield did
    finally:
        ending.set()
        writing.join(PATIENCE)
    assert not problems
    assert not writing.is_alive()


def shell(commands: str, place: Path, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run commands as they stand in the guide."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=place,
        env={**os.environ, **environment, "PATH": path},
        capture_output=True,
        text=True,
        timeout=3 * PATIENCE,
        check=False,
    )


def guide(number: int, place: Path, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run one of the guide's blocks of commands."""
    done = shell(blocks(ROOT / "docs" / "backup.md", "sh")[number].body, place, environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def drill(tmp_path_factory: pytest.TempPathFactory, corpus_subset: Path) -> Drill:
    """A mesh with the corpus, something shared and something deleted, backed up while it is busy; then it stops.

    Afterwards tenant acme was shredded, and the keys were backed up once more.
    """
    place = tmp_path_factory.mktemp("drill")
    (place / "moon.txt").write_text("The lunar gantry was painted green in March.")
    with mesh_up(place / "data") as mesh:
        mine = of(mesh, "default")
        mine.groundwire("ingest", str(corpus_subset), "--readers", "tenant:*")
        of(mesh, "acme").groundwire("ingest", str(place / "moon.txt"), "--readers", "tenant:*")
        mine.groundwire("delete", "expense-faq", "--yes")
        with ingestion(mesh) as (stub, options):
            access = core_pb2.Access(readers=["user:alice", "user:bob"])
            stub.UpdateDocumentAccess(
                pb.UpdateDocumentAccessRequest(document_id="salary-bands-2025", access=access), **options
            )
        answers, private = all_answers(mesh), told(of(mesh, "default", "bob", "reader"), PRIVATE)
        with busy(mesh) as did:
            guide(0, place, mesh.environment)
        mesh.groundwire("keys", "shred", "acme", "--yes", "acme")
        mesh.groundwire("backup", "--keys", str(place / "elsewhere" / "keys-later"))
        shutil.copy(place / "data" / "witness" / "last-checkpoint", place / "last-checkpoint")
    assert "210" in answers[f"default: {QUESTIONS[0]}"]
    assert "72,000" in private
    return Drill(place, answers, private, did)


def test_the_backup_is_of_one_moment_and_holds_nothing_that_was_deleted_before(drill: Drill) -> None:
    manifest, _ = check_backup(drill.backup)
    assert manifest.lacking == ()
    assert {entry.tenant for entry in manifest.collections} == {"default", "acme"}
    documents = {
        (document.tenant, document.document_id)
        for document in read_contents(drill.backup / "catalog.sqlite3").documents
    }
    assert ("default", "salary-bands-2025") in documents
    assert ("default", "always.txt") in documents
    assert drill.busy.deleted_before
    gone = {"expense-faq", *drill.busy.deleted_before}
    assert not {("default", name) for name in gone} & documents
    parts = [read_part(drill.backup / name) for entry in manifest.collections for name in entry.parts]
    in_files = {chunk.document_id for part in parts for chunk in part}
    assert in_files == {document_id for _, document_id in documents}


def test_everything_is_back_after_the_data_directory_is_lost(drill: Drill) -> None:
    data, lost = drill.data, drill.place / "lost"
    manifest, digest = check_backup(drill.backup)
    data.rename(lost)
    environment = settings_environment(data)[1]
    restored = guide(1, drill.place, environment)
    assert "restored and verified" in restored.stdout
    assert f"{manifest.documents} documents" in restored.stdout.replace(",", "")
    with mesh_up(data) as mesh:
        guide(2, drill.place, mesh.environment)
        assert all_answers(mesh) == drill.answers
        assert told(of(mesh, "default", "bob", "reader"), PRIVATE) == drill.private
        assert "72,000" not in told(of(mesh, "default", "carol", "reader"), PRIVATE)
        for block in blocks(ROOT / "docs" / "backup.md", "console"):
            for command in prompted(block):
                if "audit list" in command:
                    told_of = shell(command.replace("TIME", "2020-01-01T00:00:00Z"), drill.place, mesh.environment)
                    assert "expense-faq" in told_of.stdout or "salary-bands-2025" in told_of.stdout, told_of.stderr
        again = mesh.groundwire("delete", "expense-faq", "--yes", "--output", "json")
        assert json.loads(again.stdout)["complete_time"]
    after, _ = check_backup(drill.place / "backups" / "after-the-drill")
    assert (after.documents, after.chunks) == (manifest.documents, manifest.chunks)
    # The log went on from the backup's end, and says that it was put back, and from what.
    assert manifest.audit is not None
    assert after.audit is not None
    assert after.audit.events > manifest.audit.events
    assert after.audit.log_key == manifest.audit.log_key
    events = b"".join(
        file.read_bytes() for file in (drill.place / "backups" / "after-the-drill" / "audit" / "events").iterdir()
    )
    assert b"groundwire restore" in events
    assert digest.encode() in events
    shutil.rmtree(lost)


def test_a_damaged_backup_is_refused_with_one_line(drill: Drill, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(drill.backup, copy)
    manifest, _ = read_manifest(copy)
    names = ["manifest.json", *manifest.files]
    assert len(names) > 10
    for name in names:
        content = bytearray((copy / name).read_bytes())
        content[len(content) // 2] ^= 1
        (copy / name).write_bytes(content)
        with pytest.raises(DataLoss, match="damaged"):
            check_backup(copy)
        (copy / name).unlink()
        with pytest.raises(Exception, match="cannot be read"):
            check_backup(copy)
        content[len(content) // 2] ^= 1
        (copy / name).write_bytes(content)
    check_backup(copy)
    (copy / "chunks" / "000000").unlink(missing_ok=True)
    (copy / next(name for name in names if name.startswith("chunks/"))).unlink(missing_ok=True)
    new = tmp_path / "new"
    refused = subprocess.run(
        [*GROUNDWIRE, "restore", str(copy), "--data-dir", str(new)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert refused.returncode == 1
    (line,) = refused.stderr.splitlines()
    assert line.startswith("error: the backup is damaged: chunks/")
    assert not new.exists()


def test_a_shredded_tenant_stays_unreadable_in_backups_from_before(drill: Drill, tmp_path: Path) -> None:
    data = tmp_path / "data"
    addresses, environment = settings_environment(data)
    del addresses
    restored = subprocess.run(
        [*GROUNDWIRE, "restore", str(drill.backup), "--keys", str(drill.place / "elsewhere" / "keys-later")],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert restored.returncode == 0, restored.stderr
    shutil.copy(drill.place / "third-place.key", data / "keys" / "master.key")
    with mesh_up(data) as mesh:
        question = QUESTIONS[2]
        assert "green" in drill.answers[f"acme: {question}"]
        assert of(mesh, "acme").ask(question)["abstained"]
        assert told(of(mesh, "default"), QUESTIONS[0]) == drill.answers[f"default: {QUESTIONS[0]}"]


def test_a_log_of_which_the_witness_has_seen_more_is_ended_in_the_open(drill: Drill, tmp_path: Path) -> None:
    data = tmp_path / "data"
    environment = settings_environment(data)[1]
    (command,) = [
        command
        for block in blocks(ROOT / "docs" / "backup.md", "console")
        for command in prompted(block)
        if "--new-log" in command
    ]
    refused = shell(command.replace(" --new-log", ""), drill.place, environment)
    assert refused.returncode == 1
    (line,) = refused.stderr.splitlines()
    assert "the witness has seen" in line
    assert not any(data.iterdir())
    done = shell(command, drill.place, environment)
    assert done.returncode == 0, done.stderr
    assert "are lost" in done.stdout
    shutil.copy(drill.place / "third-place.key", data / "keys" / "master.key")
    with mesh_up(data) as mesh:
        assert "intact" in mesh.groundwire("audit", "verify").stdout
        assert told(of(mesh, "default"), QUESTIONS[0]) == drill.answers[f"default: {QUESTIONS[0]}"]
    (ended,) = (data / "audit-ended").iterdir()
    verified = mesh.groundwire(
        "audit",
        "verify",
        str(ended / "audit"),
        "--log-key",
        str(ended / "audit" / "verifier-key"),
        "--witness-key",
        str(ended / "witness" / "verifier-key"),
    )
    assert verified.stdout.startswith("intact")


def test_a_directory_that_is_restored_by_half_does_not_start(tmp_path: Path) -> None:
    (tmp_path / ".restoring").mkdir()
    environment = settings_environment(tmp_path)[1]
    with running(*GROUNDWIRE, "serve", "store", environment=environment) as service:
        assert service.wait() == 2
        until(lambda: "is being restored" in service.text(), "reason")
