"""What several end-to-end tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.processes import ROOT

CORPUS = ROOT / "examples" / "corpus"
# All five formats, one superseded and one restricted document; few enough to be taken in within seconds.
SUBSET = (
    "handbook/benefits-guide.docx",
    "policies/travel-policy-2025.pdf",
    "policies/remote-work-policy-2022.txt",
    "policies/remote-work-policy-2024.md",
    "policies/expense-faq.html",
    "restricted/salary-bands-2025.docx",
)


@pytest.fixture(scope="session")
def corpus_subset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with six documents of the example corpus and their part of its manifest."""
    folder = tmp_path_factory.mktemp("corpus")
    tables = (CORPUS / "manifest.toml").read_text(encoding="utf-8").split("[[documents]]")
    kept = [table for table in tables if any(f'path = "{name}"' in table for name in SUBSET)]
    assert len(kept) == len(SUBSET)
    (folder / "manifest.toml").write_text("".join(f"[[documents]]{table}" for table in kept), encoding="utf-8")
    for name in SUBSET:
        target = folder / name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes((CORPUS / name).read_bytes())
    return folder
