"""The audit log and its witness as `groundwire up` runs them, and every command that docs/audit.md shows."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from groundwire.audit.v1 import audit_service_pb2 as pb
from groundwire.audit.v1 import audit_service_pb2_grpc as rpc
from services.audit.convert import write_event
from services.audit.log import LoggedEvent
from services.runtime.authentication import TokenAuthentication
from services.runtime.settings import Settings
from tests.support.audit_world import event
from tests.support.documents import blocks, prompted
from tests.support.processes import GROUNDWIRE, ROOT, Mesh, mesh_up, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

GUIDE = ROOT / "docs" / "audit.md"


async def as_service(data: Path) -> tuple[tuple[str, str], ...]:
    """Metadata of a service of the mesh in ``data``."""
    authentication = await TokenAuthentication.start(Settings(data_dir=data))
    try:
        return tuple(await authentication.credentials("query")())
    finally:
        await authentication.close()


def test_the_guide_holds(tmp_path: Path) -> None:
    data, work = tmp_path / "data", tmp_path / "work"
    work.mkdir()
    with mesh_up(data) as mesh:
        with grpc.insecure_channel(mesh.addresses["audit"]) as channel:
            stub = rpc.AuditServiceStub(channel)
            events = [write_event(LoggedEvent(0, event(n), b"")).event for n in range(5)]
            stub.AppendEvents(pb.AppendEventsRequest(events=events), metadata=asyncio.run(as_service(data)))
            reader = mesh.authorization()
            until(
                lambda: (
                    stub.GetCheckpoint(pb.GetCheckpointRequest(), metadata=reader).checkpoint.note.count("\n— ") == 2
                    and stub.GetCheckpoint(pb.GetCheckpointRequest(), metadata=reader).checkpoint.tree_size >= 5
                ),
                "cosigned checkpoint",
            )
        reading = next(block for block in blocks(GUIDE, "sh")).body.splitlines()
        for command in (*reading, "groundwire audit verify"):
            if command != "groundwire audit tail":  # which does not end
                _run(command, mesh, work)
        lines = [json.loads(line) for line in (work / "audit.jsonl").read_text().splitlines()]
        assert [line["event_id"] for line in lines] == [f"event-{n}" for n in range(5)]
        assert lines[3]["query_hmac"] == "03" * 32
        listed = mesh.groundwire("audit", "list", "--request-id", "request-2")
        assert listed.stdout.startswith("2\t")
        proved = mesh.groundwire("audit", "prove", "4", "--output", "json")
        assert json.loads(proved.stdout)["holds"] is True
        commands = [command for block in blocks(GUIDE, "console") for command in prompted(block)]
        assert len(commands) == 6
        for command in commands:
            printed = _run(command.replace("DATA", str(data)), mesh, work)
        assert printed.startswith("intact: 5 events")
    copy = work / "copy"
    keys = ("--log-key", str(work / "log.key"), "--witness-key", str(work / "witness.key"))
    segment = next((copy / "events").glob("*.segment"))
    content = bytearray(segment.read_bytes())
    content[150] ^= 1
    segment.write_bytes(content)
    damaged = _groundwire("audit", "verify", str(copy), *keys)
    assert damaged.returncode == 1
    assert "byte 20: frame 0 is damaged" in damaged.stdout
    assert _groundwire("audit", "verify", str(copy)).returncode == 2
    # A log that begins anew with its old key is whole in itself: only the witness knows better.
    shutil.rmtree(data / "audit" / "events")
    shutil.rmtree(data / "audit" / "checkpoints")
    with mesh_up(data, environment={"GROUNDWIRE_AUDIT__WITNESS": "false"}):
        pass
    known = ("--checkpoint", f"{data}/witness/last-checkpoint")
    assert _groundwire("audit", "verify", str(data / "audit"), *keys).returncode == 0
    gone = _groundwire("audit", "verify", str(data / "audit"), *keys, *known)
    assert gone.returncode == 1
    assert "the known checkpoint" in gone.stdout


def _groundwire(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*GROUNDWIRE, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def _run(command: str, mesh: Mesh, work: Path) -> str:
    environment = os.environ | mesh.environment
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    environment["PYTHONPATH"] = f"{ROOT}:{ROOT / 'generated'}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=work, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout
