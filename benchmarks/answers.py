"""Answers over the example corpus: are they right, cited, and declined where the corpus does not say?

Runs a real mesh (`groundwire up`), takes the whole corpus in, and asks every question of examples/questions.toml. An
answerable question counts as right when its answer contains every expected string and cites one of the documents that
hold it; an unanswerable one, or one whose only source the caller may not read, when it is declined.

    python benchmarks/answers.py

Progress goes to stderr; the last line on stdout is one JSON object.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Any

import grpc

from cli.mesh import free_ports
from groundwire.query.v1 import query_service_pb2 as pb
from groundwire.query.v1 import query_service_pb2_grpc as rpc

ROOT = Path(__file__).resolve().parents[1]
GROUNDWIRE = (sys.executable, "-m", "cli.main")
SERVICES = ("query", "ingestion", "retrieval", "generation", "audit", "monitoring")


def judge(question: dict[str, Any], answer: pb.QueryResponse) -> str:
    """One word for what became of a question."""
    if not question["answerable"] or question.get("readers_needed"):
        return "declined" if answer.abstained else "answered_but_should_not"
    if answer.abstained:
        return "declined_but_should_not"
    cited = {source.document_id for source in answer.sources if source.cited}
    if not all(expected in answer.answer for expected in question["expected"]):
        return "wrong"
    return "right" if cited & set(question["sources"]) else "right_but_cites_another"


def main() -> None:
    """Run the mesh, ask, and count."""
    questions = tomllib.loads((ROOT / "examples" / "questions.toml").read_text(encoding="utf-8"))["questions"]
    ports = dict(zip(SERVICES, free_ports(len(SERVICES)), strict=True))
    with tempfile.TemporaryDirectory(prefix="groundwire-bench-") as folder:
        environment = {
            **os.environ,
            **{f"GROUNDWIRE_ADDRESSES__{name.upper()}": f"127.0.0.1:{port}" for name, port in ports.items()},
            "GROUNDWIRE_DATA_DIR": folder,
        }
        with subprocess.Popen([*GROUNDWIRE, "up"], env=environment, stdout=subprocess.DEVNULL) as mesh:
            try:
                print(json.dumps(_run(questions, ports["query"], environment)))
            finally:
                mesh.terminate()


def _run(questions: list[dict[str, Any]], port: int, environment: dict[str, str]) -> dict[str, Any]:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        grpc.channel_ready_future(channel).result(timeout=60)
        corpus = str(ROOT / "examples" / "corpus")
        subprocess.run([*GROUNDWIRE, "ingest", corpus, "--output", "json"], env=environment, check=True,
                       stdout=subprocess.DEVNULL)  # fmt: skip
        stub = rpc.QueryServiceStub(channel)
        minted = subprocess.run([*GROUNDWIRE, "token"], env=environment, check=True, stdout=subprocess.PIPE, text=True)
        metadata = (("authorization", f"Bearer {minted.stdout.strip()}"),)
        counts: dict[str, int] = {}
        seconds = []
        for question in questions:
            started = time.perf_counter()
            answer = stub.Query(pb.QueryRequest(query=question["question"]), timeout=60, metadata=metadata)
            seconds.append(time.perf_counter() - started)
            verdict = judge(question, answer)
            counts[verdict] = counts.get(verdict, 0) + 1
            print(f"{question['id']} {verdict} {answer.confidence:.2f} {question['question']}", file=sys.stderr)
    return {
        "questions": len(questions),
        **counts,
        "share_right": round((counts.get("right", 0) + counts.get("declined", 0)) / len(questions), 3),
        "p50_s": round(statistics.median(seconds), 3),
    }


if __name__ == "__main__":
    main()
