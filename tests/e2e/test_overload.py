"""A retrieval service under five times its capacity: it goes on answering, and comes back when it is over."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from groundwire.retrieval.v1 import retrieval_service_pb2 as pb
from tests.support.processes import ROOT, Mesh, mesh_up

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]

FACTOR = 5.0
# In durations of a call at the peak: long against an answer, short against a queue that does not move.
PATIENCE = 4.0
# The neighbours of this test may take more of the machine in one measurement than in the next; what counts is one
# that they left alone.
ATTEMPTS = 3
# An answer, "come back later" (also of an audit log whose disk is too busy), and the deadline that was set.
CLEAR = {"OK", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "DEADLINE_EXCEEDED"}
# Three passages, which the cross-encoder reads for each call: that is what a call costs.
TOPICS = ("Parental leave", "Annual leave", "Leave for moving house")
SENTENCE = "is approved by the head of the department when the employee asks for it four weeks before it begins. "
QUESTION = pb.RetrieveRequest(
    query="Who approves leave, and how many weeks before?",
    mode=pb.RETRIEVAL_MODE_LEXICAL,
    rerank=pb.RERANK_MODE_ON,
    top_k=5,
)


@dataclass
class Probe:
    """Asks for health twenty times a second, from a thread of its own, and keeps when and how long it took."""

    address: str
    answers: list[tuple[float, float]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._over = threading.Event()

    def between(self, began: float, ended: float) -> list[float]:
        """The durations of what was asked meanwhile, in order of length."""
        return sorted(seconds for at, seconds in self.answers if began <= at <= ended)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Ask until the context ends."""
        thread = threading.Thread(target=self._ask, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def _ask(self) -> None:
        request = health_pb2.HealthCheckRequest(service="readiness")
        with grpc.insecure_channel(self.address) as channel:
            check = health_pb2_grpc.HealthStub(channel).Check
            while not self._over.wait(0.05):
                began = time.monotonic()
                try:
                    status = check(request, timeout=10).status
                except grpc.RpcError as error:
                    self.failures.append(str(error))
                    continue
                self.answers.append((began, time.monotonic() - began))
                if status != health_pb2.HealthCheckResponse.SERVING:
                    self.failures.append(f"status {status}")


def measure(mesh: Mesh, seconds: float) -> tuple[dict[str, Any], Probe]:
    """Put the load on, and watch over health meanwhile."""
    ((_, authorization),) = mesh.authorization()
    plan = {
        "address": mesh.addresses["retrieval"],
        "method": "/groundwire.retrieval.v1.RetrievalService/Retrieve",
        "request": QUESTION.SerializeToString().hex(),
        "authorization": authorization,
        "patience": PATIENCE,
        "callers": (2, 4),
        "peak_seconds": min(4.0, seconds / 3),
        "factor": FACTOR,
        "overload_seconds": seconds,
    }
    probe = Probe(mesh.addresses["retrieval"])
    with probe.running():
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks._load", json.dumps(plan)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'generated'}"},
            capture_output=True,
            text=True,
            check=True,
        )
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured, probe


@contextmanager
def loaded_mesh(tmp_path: Path, *, brownout: bool) -> Iterator[Mesh]:
    """A mesh with three passages that every call has read again."""
    environment = {"GROUNDWIRE_ADMISSION__BROWNOUT": str(brownout).lower(), "GROUNDWIRE_ADMISSION__MAX_WAIT": "5"}
    folder = tmp_path / "documents"
    folder.mkdir()
    for topic in TOPICS:
        (folder / f"{topic.lower().replace(' ', '-')}.txt").write_text(f"{topic} {SENTENCE}" + f"{topic}. " * 20)
    with mesh_up(tmp_path / "data", environment=environment) as mesh:
        mesh.groundwire("ingest", str(folder))
        yield mesh


@pytest.mark.long
def test_an_overload_is_refused_clearly_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with loaded_mesh(tmp_path, brownout=False) as mesh:
        measured, probe = measure(mesh, 5.0)
    overload, after = measured["overload"], measured["after"]
    assert set(overload["codes"]) <= CLEAR, measured
    assert overload["codes"]["RESOURCE_EXHAUSTED"]
    assert overload["good"] > 0
    assert set(after["codes"]) <= CLEAR, measured
    assert after["good"] > 0
    assert not probe.failures


@pytest.mark.long
@pytest.mark.parametrize("brownout", [True, False], ids=["brownout", "no brownout"])
def test_five_times_the_capacity(tmp_path: Path, brownout: bool, capsys: pytest.CaptureFixture[str]) -> None:
    with loaded_mesh(tmp_path, brownout=brownout) as mesh:
        for attempt in range(ATTEMPTS):
            measured, probe = measure(mesh, 60.0)
            overload, after = measured["overload"], measured["after"]
            health = probe.between(overload["began"], overload["ended"])
            p99 = health[int(len(health) * 0.99)]
            report = {"brownout": brownout, "health_p99": p99, "health_worst": health[-1], **measured}
            with capsys.disabled():
                print("\noverload:", json.dumps(report))  # noqa: T201 - figures for whoever runs it
            enough = overload["goodput"] >= 0.8 * measured["peak"] and p99 <= 0.2
            if enough and after["codes"] == {"OK": after["sent"]}:
                break
            assert attempt + 1 < ATTEMPTS, report
    assert set(overload["codes"]) <= CLEAR
    # Those who would be refused are served more cheaply where that is allowed, and told so.
    assert bool(overload["economised"]) == brownout
    assert brownout or overload["codes"]["RESOURCE_EXHAUSTED"]
    assert not probe.failures
    assert not after["late"]
    assert not after["economised"]
