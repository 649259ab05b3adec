"""The audit log and its witness as `groundwire up` runs them, and every command that docs/audit.md shows."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc
import pytest

from groundwire.audit.v1 import audit_service_pb2 as pb
from groundwire.audit.v1 import audit_service_pb2_grpc as rpc
from services.audit.convert import write_event
from services.audit.event import Decision
from services.audit.log import LoggedEvent
from services.runtime.authentication import TokenAuthentication
from services.runtime.settings import Settings
from tests.support.audit_reader import events_of
from tests.support.audit_world import event
from tests.support.documents import blocks, prompted
from tests.support.processes import GROUNDWIRE, ROOT, Mesh, groundwire, health, mesh_served, mesh_up, running, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

GUIDE = ROOT / "docs" / "audit.md"


async def as_service(data: Path) -> tuple[tuple[str, str], ...]:
    """Metadata of a service of the mesh in ``data``."""
    authentication = await TokenAuthentication.start(Settings(data_dir=data))
    try:
        return tuple(await authentication.credentials("query")())
    finally:
        await authentication.close()


def _is_cosigned(stub: Any, size: int, metadata: tuple[tuple[str, str], ...]) -> bool:
    try:
        newest = stub.GetCheckpoint(pb.GetCheckpointRequest(), metadata=metadata).checkpoint
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.NOT_FOUND:
            return False  # none is signed yet
        raise
    return bool(newest.tree_size >= size and newest.note.count("\n— ") == 2)


def test_the_guide_holds(tmp_path: Path) -> None:
    data, work = tmp_path / "data", tmp_path / "work"
    work.mkdir()
    with mesh_up(data) as mesh:
        with grpc.insecure_channel(mesh.addresses["audit"]) as channel:
            stub = rpc.AuditServiceStub(channel)
            events = [write_event(LoggedEvent(0, event(n), b"")).event for n in range(5)]
            stub.AppendEvents(pb.AppendEventsRequest(events=events), metadata=asyncio.run(as_service(data)))
            reader = mesh.authorization()
            until(lambda: _is_cosigned(stub, 5, reader), "cosigned checkpoint")
        reading = next(block for block in blocks(GUIDE, "sh")).body.splitlines()
        for command in (*reading, "groundwire audit verify"):
            if command != "groundwire audit tail":  # which does not end
                _run(command, mesh, work)
        lines = [json.loads(line) for line in (work / "audit.jsonl").read_text().splitlines()]
        # Behind them is what the mesh itself has recorded since: the commands that read the log.
        assert [line["event_id"] for line in lines[:5]] == [f"event-{n}" for n in range(5)]
        assert lines[3]["query_hmac"] == "03" * 32
        assert {line["method"] for line in lines[5:]} == {"/groundwire.audit.v1.AuditService/ListEvents"}
        listed = mesh.groundwire("audit", "list", "--request-id", "request-2")
        assert listed.stdout.startswith("2\t")
        assert listed.stderr == ""
        cut_off = mesh.groundwire("audit", "list", "-n", "2")
        first, last = (int(line.split("\t")[0]) for line in cut_off.stdout.splitlines())
        assert (last, last > 5) == (first + 1, True), "the newest, and the newest of them last"
        assert "there are older events than these 2" in cut_off.stderr
        proved = mesh.groundwire("audit", "prove", "4", "--output", "json")
        assert json.loads(proved.stdout)["holds"] is True
        commands = [command for block in blocks(GUIDE, "console") for command in prompted(block)]
        assert len(commands) == 6
        for command in commands:
            printed = _run(command.replace("DATA", str(data)), mesh, work)
        assert re.match(r"intact: \d+ events, \d+ checkpoints", printed)
    copy = work / "copy"
    keys = ("--log-key", str(work / "log.key"), "--witness-key", str(work / "witness.key"))
    segment = next((copy / "events").glob("*.segment"))
    content = bytearray(segment.read_bytes())
    content[150] ^= 1
    segment.write_bytes(content)
    damaged = groundwire("audit", "verify", str(copy), *keys)
    assert damaged.returncode == 1
    assert "byte 20: frame 0 is damaged" in damaged.stdout
    assert groundwire("audit", "verify", str(copy)).returncode == 2
    # A log that begins anew with its old key is whole in itself: only the witness knows better.
    shutil.rmtree(data / "audit" / "events")
    shutil.rmtree(data / "audit" / "checkpoints")
    alone = {**mesh.environment, "GROUNDWIRE_AUDIT__WITNESS": "false"}
    with running(*GROUNDWIRE, "serve", "audit", environment=alone) as audit:
        until(lambda: health(mesh.addresses["audit"]) == "SERVING", "audit service", audit)
    known = ("--checkpoint", f"{data}/witness/last-checkpoint")
    assert groundwire("audit", "verify", str(data / "audit"), *keys).returncode == 0
    gone = groundwire("audit", "verify", str(data / "audit"), *keys, *known)
    assert gone.returncode == 1
    assert "the known checkpoint" in gone.stdout


def test_a_question_leaves_a_trail_and_an_outage_of_the_log_leaves_no_gap(tmp_path: Path) -> None:
    data = tmp_path / "data"
    document = tmp_path / "backups.txt"
    document.write_text("Backups are kept for seven years.")
    with mesh_served(data) as mesh, ExitStack() as stack:
        mesh.groundwire("ingest", str(document))
        answer = mesh.ask("How long are backups kept?")
        # The log is away: nobody notices.
        audit = mesh.processes["audit"]
        os.kill(audit.process.pid, signal.SIGKILL)
        audit.wait()
        # Before the answers: a spool keeps its order, so that their trails say that this is on record, too.
        refused = mesh.groundwire("ask", "How long?", check=False, environment={"GROUNDWIRE_TOKEN": "x.y.z"})
        assert refused.returncode != 0
        asked = [mesh.ask("How long are backups kept?")["request_id"] for _ in range(3)]
        assert health(mesh.addresses["query"]) == "SERVING"
        audit = stack.enter_context(running(*GROUNDWIRE, "serve", "audit", environment=mesh.environment))
        until(lambda: health(mesh.addresses["audit"]) == "SERVING", "audit service", audit)

        def trail_of(request_id: str) -> list[dict[str, Any]]:
            found = mesh.groundwire("audit", "list", "--request-id", request_id, "--output", "json")
            return _complete(json.loads(found.stdout))

        trail = until(partial(trail_of, answer["request_id"]), "the trail of an answer")
        for request_id in asked:
            assert len(until(partial(trail_of, request_id), "the trail of an answer")) == len(trail)
        mesh.groundwire("keys", "rotate", "--all-tenants")
        mesh.groundwire("revoke", "--subject", "mallory")
        until(
            lambda: (
                {"groundwire keys rotate", "groundwire revoke"}
                <= {
                    event["method"]
                    for event in json.loads(mesh.groundwire("audit", "list", "-n", "999", "--output", "json").stdout)
                }
            ),
            "the commands' records",
        )
        until(lambda: not list((data / "spool").glob("command-*")), "the end of the commands' spools")
    query, retrieve, generate = (
        next(event for event in trail if event["method"].endswith(name) and event["stage"] == "STAGE_ENDED")
        for name in ("QueryService/StreamQuery", "RetrievalService/Retrieve", "GenerationService/StreamGenerate")
    )
    assert len({event["trace_id"] for event in trail if "trace_id" in event}) <= 1
    assert (query["principal"], query.get("acting_service", "")) == ("user:developer", "")
    assert (retrieve["principal"], retrieve["acting_service"]) == ("user:developer", "query")
    assert query["document_ids"] == retrieve["document_ids"] == ["backups.txt"]
    assert query["query_hmac"] == retrieve["query_hmac"] == generate["query_hmac"]
    assert len(query["query_hmac"]) == 64
    told = sha256(answer["answer"].encode()).hexdigest()
    assert query["answer_sha256"] == generate["answer_sha256"] == told
    assert query["model_endpoint"] == generate["model_endpoint"] == "extractive"
    events = events_of(data)
    assert len({event.event_id for event in events}) == len(events)
    # In the order in which each service ended its calls.
    for method in {found.method for found in events}:
        ended = [found.time + found.duration for found in events if found.method == method and found.duration]
        assert ended == sorted(ended)
    (denied,) = (event for event in events if event.decision is Decision.DENIED)
    assert (denied.principal, denied.tenant, denied.reason) == ("", "", "UNAUTHENTICATED")
    everything = b"".join(path.read_bytes() for path in (data / "audit").rglob("*.segment"))
    assert b"seven years" not in everything
    assert b"x.y.z" not in everything


def _complete(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The events of one question, once all that its services write are there."""
    ended = {event["method"].rpartition("/")[2] for event in events if event["stage"] == "STAGE_ENDED"}
    return events if ended >= {"StreamQuery", "Retrieve", "StreamGenerate"} else []


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
