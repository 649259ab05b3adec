"""One scenario, the same answers however the mesh is run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import NAMES, Mesh, chroma_server, health, mesh_served, mesh_up

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

QUESTIONS = {
    "How much is the referral bonus for recommending a candidate who is hired?": ("€2,000", "benefits-guide"),
    "What is the hotel limit per night in Tier A cities under the 2025 travel policy?": ("€210", "travel-policy-2025"),
    "How much is the home-office budget in the 2024 remote work policy, and for what period does it apply?": (
        "36 months",
        "remote-work-policy-2024",
    ),
    "What is the standard monthly limit of a company card?": ("€2,500", "expense-faq"),
}
UNANSWERABLE = "How many parking spaces does the Lisbon office have?"
RESTRICTED = "What is the 2025 salary band for level L4 in Rotterdam?"


@contextmanager
def _served_with_chroma(data_dir: Path) -> Iterator[Mesh]:
    with (
        chroma_server(data_dir / "chroma-server") as server,
        mesh_served(data_dir, environment={"GROUNDWIRE_STORE__VECTORS_URL": f"chroma+http://{server}"}) as mesh,
    ):
        yield mesh


def _up(data_dir: Path) -> AbstractContextManager[Mesh]:
    return mesh_up(data_dir)


def _up_processes(data_dir: Path) -> AbstractContextManager[Mesh]:
    return mesh_up(data_dir, "--processes")


# What the first topology answered; the others must answer the same.
_ANSWERS: dict[str, Any] = {}


@pytest.mark.parametrize("start", [_up, _up_processes, _served_with_chroma], ids=["up", "up-processes", "serve-chroma"])
def test_the_same_answers_in_every_topology(
    start: Callable[[Path], AbstractContextManager[Mesh]], tmp_path: Path, corpus_subset: Path
) -> None:
    with start(tmp_path) as mesh:
        for name in NAMES:
            for service in ("", "readiness"):
                assert health(mesh.addresses[name], service) == "SERVING"
        taken = json.loads(mesh.groundwire("ingest", str(corpus_subset), "--output", "json").stdout)
        assert (taken["processed"], taken["failed"]) == (6, 0)
        answers = {question: _essence(mesh.ask(question)) for question in (*QUESTIONS, UNANSWERABLE, RESTRICTED)}
    for question, (expected, document) in QUESTIONS.items():
        assert expected in answers[question]["answer"]
        assert answers[question]["cited"][0]["document_id"] == document
    assert answers[UNANSWERABLE]["abstained"]
    assert answers[RESTRICTED]["abstained"]
    assert "salary-bands-2025" not in json.dumps(answers)
    assert answers == (_ANSWERS or answers)
    _ANSWERS.update(answers)


def _essence(answer: dict[str, Any]) -> dict[str, Any]:
    """What must not depend on the topology: not times and ids, nor scores to the last digit."""
    cited = [source for source in answer.get("sources", []) if source.get("cited")]
    keys = ("document_id", "snippet", "start_offset", "end_offset", "marker")
    return {
        "answer": answer["answer"],
        "abstained": answer.get("abstained", False),
        "cited": [{key: source.get(key) for key in keys} for source in cited],
    }
