"""``groundwire up`` and ``demo`` as real processes: ready, used, broken, stopped, and nothing left behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.spools import leave

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(300)]

_ROOT = Path(__file__).resolve().parents[2]
_EXAMPLES = _ROOT / "examples" / "corpus"


async def _start(*arguments: str, environment: dict[str, str] | None = None) -> asyncio.subprocess.Process:
    path = os.pathsep.join((str(_ROOT), str(_ROOT / "generated")))
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        "cli.main",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": path} | (environment or {}),
    )


async def _run(*arguments: str, environment: dict[str, str] | None = None) -> tuple[int, str, str]:
    process = await _start(*arguments, environment=environment)
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


def _left_in(directory: Path) -> list[Path]:
    """Sockets and a demonstration's own folders: what must never stay."""
    return [*directory.rglob("*.sock"), *directory.glob("groundwire-demo-*")]


@dataclass
class Up:
    """A running ``groundwire up``: its process, where it says that everything is, and its descendants."""

    process: asyncio.subprocess.Process
    addresses: dict[str, str]
    data_dir: Path
    seen: dict[int, psutil.Process]

    @property
    def environment(self) -> dict[str, str]:
        return {
            "GROUNDWIRE_DATA_DIR": str(self.data_dir),
            **{f"GROUNDWIRE_ADDRESSES__{name.upper()}": address for name, address in self.addresses.items()},
        }

    def children(self) -> list[psutil.Process]:
        """Everything that the supervisor started, directly or not; remembered, for the end."""
        found: list[psutil.Process] = psutil.Process(self.process.pid).children(recursive=True)
        self.seen |= {child.pid: child for child in found}
        return found

    def child(self, word: str) -> psutil.Process:
        """The child with ``word`` among its arguments."""
        return next(child for child in self.children() if word in child.cmdline())

    async def stderr_until(self, text: str) -> str:
        """Read the supervisor's and the services' stderr up to the line with ``text``."""
        assert self.process.stderr is not None
        while line := (await self.process.stderr.readline()).decode():
            if text in line:
                return line
        raise AssertionError(f"stderr ended without {text!r}")

    def assert_nothing_left(self) -> None:
        """No process of ours, no socket."""
        _gone, alive = psutil.wait_procs(list(self.seen.values()), timeout=60)
        assert alive == []
        assert list(self.data_dir.rglob("*.sock")) == []
        for address in self.addresses.values():
            if not address.startswith("unix:"):
                host, _, port = address.rpartition(":")
                with socket.socket() as probe:
                    assert probe.connect_ex((host, int(port))) != 0


@asynccontextmanager
async def _up(data_dir: Path, *options: str, environment: dict[str, str] | None = None) -> AsyncIterator[Up]:
    arguments = ("up", "--data-dir", str(data_dir), "--port-base", "0", "--output", "json", *options)
    process = await _start(*arguments, environment=environment)
    try:
        assert process.stdout is not None
        line = await process.stdout.readline()
        if not line:
            assert process.stderr is not None
            raise AssertionError((await process.stderr.read()).decode())
        up = Up(process, json.loads(line)["addresses"], data_dir, {})
        up.children()
        yield up
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


@pytest.mark.parametrize("options", [(), pytest.param(("--processes",), marks=pytest.mark.long)])
async def test_a_mesh_is_filled_asked_looked_at_and_stopped(tmp_path: Path, options: Sequence[str]) -> None:
    async with _up(tmp_path / "data", *options) as up:
        assert len(up.children()) >= (7 if options else 2)
        policies = _EXAMPLES / "policies" / "travel-policy-2025.pdf"
        code, out, err = await _run(
            "ingest", str(policies), "--manifest", str(_EXAMPLES / "manifest.toml"), "-o", "json",
            environment=up.environment,
        )  # fmt: skip
        assert (code, json.loads(out)["processed"]) == (0, 1), err
        up.children()  # the parsers, too
        code, out, err = await _run(
            "ask", "What is the hotel limit per night in Tier A cities?", "-o", "json", environment=up.environment
        )
        answer: dict[str, Any] = json.loads(out)
        assert (code, answer["abstained"]) == (0, False), err
        assert "€210" in answer["answer"]
        assert {source["document_id"] for source in answer["sources"] if source["cited"]} == {"travel-policy-2025"}
        code, out, err = await _run("status", "--timeout", "60", "-o", "json", environment=up.environment)
        assert code == 0, out
        assert {service["state"] for service in json.loads(out)["services"]} == {"healthy"}
        code, out, err = await _run("doctor", "-o", "text", environment=up.environment)
        assert code == 0, out
        up.process.send_signal(signal.SIGINT)
        await up.process.communicate()
        assert up.process.returncode == 130
        up.assert_nothing_left()


async def test_what_dies_is_started_again(tmp_path: Path) -> None:
    async with _up(tmp_path / "data") as up:
        for word, name in (("store", "store"), ("_mesh", "mesh")):
            up.child(word).kill()
            assert "SIGKILL" in await up.stderr_until(f"{name} was ended by")
            await up.stderr_until(f"{name} is ready again")
        up.children()
        code, out, err = await _run("status", "--timeout", "60", environment=up.environment)
        assert code == 0, out + err
        up.process.terminate()
        await up.process.communicate()
        assert up.process.returncode == 0
        up.assert_nothing_left()


async def test_a_second_ctrl_c_ends_everything_at_once(tmp_path: Path) -> None:
    # The mesh in front waits for the store to take note of its end, too: gRPC gives its clients 20 s for that.
    async with _up(tmp_path / "data", environment={"GROUNDWIRE_DRAIN__GRACE": "5"}) as up:
        # A store that does not react would hold up an orderly end for the whole of its grace.
        up.child("store").suspend()
        mesh = up.child("_mesh")
        up.process.send_signal(signal.SIGINT)
        await asyncio.to_thread(mesh.wait, 60)
        up.process.send_signal(signal.SIGINT)
        _, err = await up.process.communicate()
        assert up.process.returncode == 130
        assert b"did not end within" not in err, "nobody was waited for any longer"
        alive = psutil.wait_procs(list(up.seen.values()), timeout=60)[1]
        assert alive == []


async def test_ctrl_c_during_the_start_leaves_nothing(tmp_path: Path) -> None:
    process = await _start("up", "--data-dir", str(tmp_path / "data"), "--port-base", "0")
    supervisor = psutil.Process(process.pid)
    while not (children := supervisor.children(recursive=True)):
        await asyncio.sleep(0.005)
    process.send_signal(signal.SIGINT)
    out, err = await process.communicate()
    assert (process.returncode, out) == (130, b""), err
    assert b"Traceback" not in err
    assert psutil.wait_procs(children, timeout=60)[1] == []
    assert _left_in(tmp_path) == []


async def test_a_taken_port_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        environment = {"GROUNDWIRE_ADDRESSES__QUERY": address, "GROUNDWIRE_DATA_DIR": str(tmp_path)}
        # What a process that was killed left is nothing that this start has to tell of.
        for slot in ("query", "query.2"):
            await leave(tmp_path / "spool" / slot, b"")
        code, out, err = await _run("serve", "query", environment=environment)
        assert (code, out, len(err.splitlines())) == (2, "", 1)
        assert err.startswith("error: ")
        assert f"cannot listen on {address}" in err
        code, out, err = await _run("up", environment=environment)
        assert (code, out, len(err.splitlines())) == (1, "", 1)
        assert address in err


async def test_a_data_directory_has_one_mesh_and_a_killed_supervisor_leaves_nothing(tmp_path: Path) -> None:
    async with _up(tmp_path / "data") as up:
        code, _, err = await _run("up", "--data-dir", str(up.data_dir), "--port-base", "0")
        assert (code, len(err.splitlines())) == (1, 1)
        assert "another groundwire uses this data directory" in err
        code, _, err = await _run("serve", "store", "--listen", "127.0.0.1:0", environment=up.environment)
        assert code == 2
        assert err == "error: store cannot start: the data directory is in use by another groundwire store\n"
        up.process.kill()
        await up.process.wait()
        up.assert_nothing_left()


async def test_weights_that_are_not_there_end_the_start_with_their_remedy(tmp_path: Path) -> None:
    models = tmp_path / "models" / "bge-small-en-v1.5"
    models.mkdir(parents=True)
    (models / "model.onnx").write_bytes(b"not a model")
    environment = {"GROUNDWIRE_MODELS_DIR": str(tmp_path / "models")}
    code, out, err = await _run("up", "--data-dir", str(tmp_path / "data"), "--port-base", "0", environment=environment)
    assert (code, out) == (1, "")
    assert "does not match its SHA-256 pin; reinstall" in err
    assert "Traceback" not in err
    assert _left_in(tmp_path) == []
    code, out, _ = await _run("doctor", "-o", "json", environment=environment | {"GROUNDWIRE_DATA_DIR": str(tmp_path)})
    assert code == 1
    assert [f["what"] for f in json.loads(out)["findings"] if f["state"] == "FAIL"].count("Model") == 1


async def test_the_demo_shows_what_it_promises(tmp_path: Path) -> None:
    code, out, err = await _run("demo", environment={"TMPDIR": str(tmp_path), "GROUNDWIRE_CONFIG": "/not/read.toml"})
    assert code == 0, out + err
    assert out.count("✓ cites") == 3
    assert out.count("✓ rightly declined") == 1
    assert out.count("hidden from the developer") == 4
    assert _left_in(tmp_path) == []


async def test_the_demo_fails_when_an_answer_is_not_what_it_should_be(tmp_path: Path) -> None:
    corpus = tmp_path / "examples" / "corpus"
    corpus.mkdir(parents=True)
    (corpus / "garden.md").write_text("# Garden\n\nThe roses are watered every morning by the gardener.\n")
    (corpus / "manifest.toml").write_text('[[documents]]\npath = "garden.md"\ndocument_id = "garden"\n')
    (tmp_path / "examples" / "questions.toml").write_text(
        '[[questions]]\nquestion = "Who waters the roses every morning?"\n'
        'answerable = true\nexpected = ["the king"]\nsources = ["garden"]\ndemo = true\n'
    )
    code, out, err = await _run("demo", "--examples", str(tmp_path / "examples"), environment={"TMPDIR": str(tmp_path)})
    assert code == 1, out
    assert "✗" in out
    assert "error: the demo did not show what it should" in err
    assert _left_in(tmp_path) == []
