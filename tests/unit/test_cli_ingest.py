"""``groundwire ingest`` that is interrupted, and what it says of files that it does not take in."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cli.documents import find, skipped_by_type
from cli.ingest import ingest_until_interrupted
from cli.ingest_report import Report, exit_code, say_how_to_go_on, show
from cli.main import main
from cli.output import Format, Screen
from cli.progress import Lines
from groundwire.ingestion.v1 import ingestion_service_pb2 as pb
from groundwire.ingestion.v1 import ingestion_service_pb2_grpc as rpc
from services.corpus.errors import ResourceExhausted
from services.runtime.identity import development_identity
from services.runtime.server import Server, Service
from services.runtime.settings import Settings
from services.runtime.unbuilt import unbuilt
from tests.support.processes import PATIENCE
from tests.support.recording import memory_recorder
from tests.support.serving import until

_COUNT = 40


class Held(rpc.IngestionServiceServicer):
    """Takes documents in, each batch only when ``goes_on`` is set; the first ``refused`` batches not at all."""

    CreateIngestionJob = GetIngestionJob = ListIngestionJobs = WatchIngestionJob = CancelIngestionJob = unbuilt
    RetryFailedDocuments = ListDeadLetters = UploadDocument = unbuilt
    GetDocument = ListDocuments = UpdateDocumentAccess = DeleteDocument = GetErasureReceipt = unbuilt
    CreateCollection = GetCollection = ListCollections = UpdateCollection = DeleteCollection = unbuilt

    def __init__(self) -> None:
        self.taken: set[str] = set()
        self.calls = 0
        self.refused = 0
        self.there = asyncio.Semaphore(0)
        self.goes_on = asyncio.Event()

    async def IngestDocuments(self, request: pb.IngestDocumentsRequest, context: Any) -> pb.IngestDocumentsResponse:  # noqa: N802
        self.calls += 1
        self.there.release()
        if self.refused:
            self.refused -= 1
            raise ResourceExhausted("too many documents at once", retry_after=3600.0)
        await self.goes_on.wait()
        results = [
            pb.DocumentResult(document_id=d.document_id, version=1, chunks=1, unchanged=d.document_id in self.taken)
            for d in request.documents
        ]
        self.taken.update(document.document_id for document in request.documents)
        return pb.IngestDocumentsResponse(results=results)

    async def arrived(self, count: int) -> None:
        """Wait for so many calls."""
        for _ in range(count):
            await asyncio.wait_for(self.there.acquire(), PATIENCE)


class Trial:
    """A service that holds what it gets, a folder of documents, and the streams of a command."""

    def __init__(self, held: Held, address: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.held = held
        self._address = address
        self.folder = folder
        self._monkeypatch = monkeypatch

    def begin(self) -> asyncio.Task[Report]:
        """Begin to take the folder in."""
        self.out, self.err = io.StringIO(), io.StringIO()
        self._monkeypatch.setattr(sys, "stdout", self.out)
        self._monkeypatch.setattr(sys, "stderr", self.err)
        self.screen = Screen(Format.TEXT)
        lines = Lines(self.screen.err, "Ingesting", "document", clock=lambda: 0.0)
        found = find([self.folder], None, ["tenant:*"])
        return asyncio.create_task(
            ingest_until_interrupted(self.screen, self._address, "", found, lines, patience=PATIENCE)
        )

    async def ctrl_c(self) -> None:
        """Press it, and wait until it was noticed."""
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(0)

    def ended(self, report: Report) -> tuple[int, str, str]:
        """The exit code, and what was said."""
        show(self.screen, report)
        say_how_to_go_on(self.screen, report)
        return exit_code(report), self.out.getvalue(), self.err.getvalue()


@pytest.fixture
async def trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Trial]:
    folder = tmp_path / "docs"
    folder.mkdir()
    for n in range(_COUNT):
        (folder / f"{n:02}.md").write_text("x")
    monkeypatch.setenv("GROUNDWIRE_DATA_DIR", str(tmp_path / "data"))
    settings = Settings(data_dir=tmp_path / "data")
    held = Held()

    async def nothing() -> None:
        return None

    service = Service(
        name="ingestion",
        descriptors=[pb.DESCRIPTOR.services_by_name["IngestionService"]],
        register=lambda server: rpc.add_IngestionServiceServicer_to_server(held, server),
        ready=nothing,
        close=nothing,
        recorder=memory_recorder("ingestion")[0],
    )
    server = Server(service, settings, development_identity(settings))
    with tempfile.TemporaryDirectory(prefix="gw-") as directory:
        address = f"unix:{directory}/ingestion.sock"
        await server.start(address)
        yield Trial(held, address, folder, monkeypatch)
        held.goes_on.set()
        await server.drain(delay=0, grace=0)


async def test_ctrl_c_waits_for_what_is_on_its_way_and_the_same_command_goes_on(trial: Trial) -> None:
    running = trial.begin()
    await trial.held.arrived(4)
    await trial.ctrl_c()
    await until(lambda: "waiting for" in trial.err.getvalue())
    assert not running.done()
    trial.held.goes_on.set()
    code, out, err = trial.ended(await asyncio.wait_for(running, PATIENCE))
    # 40 documents go in batches of 3, four at a time.
    assert trial.held.calls == 4, "nothing more was sent"
    assert code == 130
    assert "waiting for 12 documents on the way to the service; Ctrl-C once more ends at once\n" in err
    assert "interrupted: 12 documents are taken in, 28 documents were not sent; the same command goes on" in err
    assert out.startswith("12 documents in collection default")
    again = await asyncio.wait_for(trial.begin(), PATIENCE)
    code, out, err = trial.ended(again)
    assert (code, err) == (0, "")
    assert out.startswith("40 documents in collection default (12 unchanged)")


async def test_a_second_ctrl_c_waits_for_nothing(trial: Trial) -> None:
    running = trial.begin()
    await trial.held.arrived(4)
    await trial.ctrl_c()
    await until(lambda: "waiting for" in trial.err.getvalue())
    await trial.ctrl_c()
    report = await asyncio.wait_for(running, PATIENCE)
    assert not trial.held.goes_on.is_set()
    assert (report.results, report.not_sent, report.cut_off) == ([], 28, 12)
    code, _, err = trial.ended(report)
    assert code == 130
    assert "nothing is taken in" in err
    assert "12 documents were cut off on the way and may have been taken in" in err
    document = report.document()
    assert (document["processed"], document["not_sent"], document["cut_off"]) == (0, 28, 12)


async def test_ctrl_c_ends_the_wait_for_a_busy_service(trial: Trial) -> None:
    trial.held.refused = 4
    running = trial.begin()
    await trial.held.arrived(4)
    await trial.ctrl_c()
    report = await asyncio.wait_for(running, PATIENCE)
    assert (trial.held.calls, report.not_sent, report.cut_off) == (4, _COUNT, 0)
    assert trial.ended(report)[0] == 130


async def test_ctrl_c_when_everything_is_on_its_way_interrupts_nothing(trial: Trial) -> None:
    for path in sorted(trial.folder.iterdir())[4:]:
        path.unlink()
    running = trial.begin()
    await trial.held.arrived(4)
    await trial.ctrl_c()
    await until(lambda: "waiting for 4 documents" in trial.err.getvalue())
    trial.held.goes_on.set()
    report = await asyncio.wait_for(running, PATIENCE)
    assert (report.signal, report.not_sent, len(report.results)) == (0, 0, 4)
    code, _, err = trial.ended(report)
    assert (code, "interrupted" in err) == (0, False)


def test_ctrl_c_before_anything_is_sent_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("cli.documents.find", interrupted)
    assert main(["ingest", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "error: interrupted before anything was sent: nothing is taken in\n"


# --- what is skipped ------------------------------------------------------------------------------------------------


def _tree(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    return root


def test_what_is_skipped_is_counted_by_type(tmp_path: Path) -> None:
    names = [f"{n}.png" for n in range(7)] + ["sub/8.PNG", "a.zip", "b.zip", "sub/c.zip", ".hidden"]
    found = find([_tree(tmp_path / "docs", "a.md", *names)], None, None)
    assert [entry.shown for entry in found.entries] == ["a.md"]
    assert skipped_by_type(found.skipped) == "12: 8 .png, 3 .zip, 1 hidden"


def test_every_reason_to_skip_has_a_name(tmp_path: Path) -> None:
    _tree(tmp_path / "docs", "a.md", ".git/x.md", ".venv/y.md", "Makefile", "v1.2 final draft", "x.tar.gz")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "docs" / "linked").symlink_to(tmp_path / "elsewhere")
    found = find([tmp_path / "docs"], None, None)
    assert skipped_by_type(found.skipped) == (
        "6: 2 hidden folders, 2 without a known ending, 1 .gz, 1 link to a folder"
    )


def test_what_a_manifest_lists_is_not_skipped_and_neither_is_the_manifest(tmp_path: Path) -> None:
    _tree(tmp_path, "notes", "a.png")
    (tmp_path / "manifest.toml").write_text('[[documents]]\npath = "notes"\n')
    found = find([tmp_path], None, None)
    assert [entry.shown for entry in found.entries] == ["notes"]
    assert dict(found.skipped) == {".png": 1}


def test_many_types_are_told_in_one_line() -> None:
    told = skipped_by_type({f".{letter}": n for n, letter in enumerate("abcdefghijkl", start=1)})
    assert told == "78: 12 .l, 11 .k, 10 .j, 9 .i, 8 .h, 7 .g, 6 .f, 5 .e, 10 of 4 other types"


def test_a_folder_without_documents_says_what_is_in_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ingest", str(_tree(tmp_path, "a.png", "b.png"))]) == 2
    assert capsys.readouterr().err.splitlines()[1:] == ["  skipped 2: 2 .png"]


def test_json_says_what_was_skipped() -> None:
    report = Report("default", skipped={".png": 2})
    assert json.loads(json.dumps(report.document()))["skipped"] == {".png": 2}
