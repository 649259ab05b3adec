"""Nothing of what a document says can be found in the files that a mesh leaves behind."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.processes import mesh_up

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

DOCUMENT = """# Marzipan protocol

Project Gugelhupf moves to the Schachbrettgasse in Obertupfing. Frau Zwetschgenknoedel signs on the ninth.
"""
MANIFEST = """[[documents]]
path = "secret.md"
document_id = "d1"
title = "Quittenmus plan"
readers = ["group:board"]
[documents.metadata]
codename = "Hefezopf"
"""


def test_no_word_of_a_document_is_in_the_data_directory(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "secret.md").write_text(DOCUMENT)
    (corpus / "manifest.toml").write_text(MANIFEST)
    (corpus / "open.txt").write_text("The Pflaumenkuchen is baked on Fridays in Unterbirnbach.")
    data = tmp_path / "data"
    with mesh_up(data) as mesh:
        mesh.groundwire("ingest", str(corpus / "secret.md"), str(corpus / "open.txt"), "--readers", "tenant:*")
        mesh.groundwire("ingest", str(corpus))
        assert "Fridays" in mesh.ask("When is the Pflaumenkuchen baked?")["answer"]
    words = {word.lower() for word in re.findall(r"[A-Za-z]{6,}", DOCUMENT)}
    words |= {"pflaumenkuchen", "unterbirnbach", "quittenmus", "hefezopf"}
    files = [path for path in data.rglob("*") if path.is_file()]
    assert {"catalog.sqlite3", "chunks.sqlite3"} <= {path.name for path in files}
    for path in files:
        kept = path.read_bytes().lower()
        found = [word for word in words if word.encode() in kept or word.encode("utf-16-le") in kept]
        assert not found, (path.relative_to(data), found)
