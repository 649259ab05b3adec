"""Nothing of what a restricted document says can be found in the files of a mesh, while it runs and afterwards."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import tantivy

from tests.support.processes import ROOT, Mesh, mesh_up

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

RESTRICTED = ROOT / "examples" / "corpus" / "restricted"
DOCUMENT = """# Marzipan protocol

Project Gugelhupf moves to the Schachbrettgasse in Obertupfing. Frau Zwetschgenknoedel signs on the ninth.
"""
HTML = (
    "<html><title>Quarkstrudel</title><body><p>The Dampfnudel ledger is audited in Hinterpfuiteufel.</p></body></html>"
)
MANIFEST = """[[documents]]
path = "secret.md"
document_id = "d1"
title = "Quittenmus plan"
readers = ["group:board"]
[documents.metadata]
codename = "Hefezopf"
[[documents]]
path = "page.html"
document_id = "d2"
readers = ["group:board"]
"""
# Readers and media types are structure, which the guide says is in clear.
IN_CLEAR = b"group:board application/vnd.openxmlformats-officedocument.wordprocessingml.document application/pdf"
COINED = {
    *("marzipan", "gugelhupf", "schachbrettgasse", "obertupfing", "zwetschgenknoedel", "quarkstrudel", "dampfnudel"),
    *("hinterpfuiteufel", "quittenmus", "hefezopf", "pflaumenkuchen", "unterbirnbach"),
}
FILES = ("salary-bands-2025.docx", "finance-outlook-2025.pdf", "project-anchorage-memo.txt")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Restricted documents of all five formats, two of them with words that are nowhere else."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "secret.md").write_text(DOCUMENT)
    (folder / "page.html").write_text(HTML)
    manifest = MANIFEST
    for number, name in enumerate(FILES):
        shutil.copy(RESTRICTED / name, folder / name)
        manifest += f'[[documents]]\npath = "{name}"\ndocument_id = "r{number}"\nreaders = ["group:board"]\n'
    (folder / "manifest.toml").write_text(manifest)
    return folder


def words_of(text: str) -> set[str]:
    """Its words of five letters and more."""
    return {word.lower() for word in re.findall(r"[A-Za-z]{5,}", text)}


def kept(data: Path) -> Iterator[tuple[Path, bytes]]:
    """Every file of the data directory, in lower case."""
    for path in data.rglob("*"):
        if path.is_file():
            yield path, path.read_bytes().lower()


def present(words: set[str], content: bytes) -> set[str]:
    """Those of ``words`` that ``content`` holds, in UTF-8 or UTF-16."""
    return {word for word in words if word.encode() in content or word.encode("utf-16-le") in content}


def everything_said(member: Mesh, titles: tuple[str, ...]) -> str:
    """All passages that somebody who may read them finds."""
    texts = {}
    for title in titles:
        found = json.loads(member.groundwire("search", title, "--top-k", "100", "--output", "json").stdout)
        texts.update({chunk["chunk"]["chunk_id"]: json.dumps(chunk) for chunk in found["chunks"]})
    return "\n".join(texts.values())


def test_no_word_of_a_restricted_document_is_in_the_data_directory_or_a_log(tmp_path: Path, corpus: Path) -> None:
    (tmp_path / "open.txt").write_text("The Pflaumenkuchen is baked on Fridays in Unterbirnbach.")
    data = tmp_path / "data"
    with mesh_up(data, "--verbose") as mesh:
        mesh.groundwire("ingest", str(tmp_path / "open.txt"), "--readers", "tenant:*")
        assert "Fridays" in mesh.ask("When is the Pflaumenkuchen baked?")["answer"]
        # What is there anyway, such as the names of tables and fields, says nothing of the documents.
        anyway = b"\n".join([IN_CLEAR, *(content for _, content in kept(data))])
        mesh.groundwire("ingest", str(corpus))
        token = mesh.groundwire("token", "-s", "ann", "-g", "board", "-r", "reader").stdout.strip()
        member = replace(mesh, environment={**mesh.environment, "GROUNDWIRE_TOKEN": token})
        titles = ("Gugelhupf protocol", "Dampfnudel ledger", "salary bands", "finance outlook", "project anchorage")
        said = everything_said(member, titles)
        assert member.ask("Where does Project Gugelhupf move to?")["answer"]
        words = words_of(" ".join(re.findall(r'"(?:text|title|snippet)": "((?:[^"\\]|\\.)*)"', said)))
        words |= words_of(DOCUMENT) | COINED
        words -= present(words, anyway)
        assert len(words) > 200
        running = {path.relative_to(data): present(words, content) for path, content in kept(data)}
        log = "".join(process.text() for process in mesh.processes.values()).lower().encode()
    stopped = {path.relative_to(data): present(words, content) for path, content in kept(data)}
    assert {"catalog.sqlite3", "chunks.sqlite3"} <= {path.name for path in stopped}
    for files in (running, stopped):
        assert not {path: found for path, found in files.items() if found}
    # A log has many common words of its own.
    assert not present(COINED, log)
    # The index's stored fields are compressed, so they are read with its own library.
    indexes = [path.parent for path in data.rglob("meta.json")]
    assert indexes
    for directory in indexes:
        searcher = tantivy.Index.open(str(directory)).searcher()
        hits = searcher.search(tantivy.Query.all_query(), 1000).hits
        assert hits
        for _, address in hits:
            stored = searcher.doc(address).to_dict()
            assert set(stored) == {"chunk_id"}
            assert not present(words, json.dumps(stored).lower().encode())
