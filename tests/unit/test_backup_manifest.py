"""The manifest of a backup, the records of its chunks, and what is whole in what was met of an index."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from services.backup.collecting import Collected
from services.backup.folder import Folder, building, check_files, read_manifest
from services.backup.manifest import (
    AuditEntry,
    CollectionEntry,
    DocumentEntry,
    FileEntry,
    Manifest,
    TenantKeys,
    decode,
    digest,
    encode,
)
from services.backup.parts import Parts, read_part
from services.catalog.contents import KeptDocument
from services.corpus.errors import AlreadyExists, DataLoss, FailedPrecondition, NotFound
from services.vectorstores.ports import Partition
from tests.support.backup_world import PARTITION, chunk

MANIFEST = Manifest(
    backup_id="20260517T123015Z-0a1b2c3d",
    product="0.1.0",
    time="2026-05-17T12:30:15.000+00:00",
    encrypted=True,
    collections=(CollectionEntry("acme", "h\u00e9", "model", 4, 2, 5, ("chunks/000000",)),),
    keys=(TenantKeys("acme", (1, 3), shredded=False), TenantKeys("gone", (), shredded=True)),
    audit=AuditEntry(7, 5, "log+1+k", "a\n5\nr\n\n\u2014 s\n"),
    lacking=(DocumentEntry("acme", "h\u00e9", "d", 2),),
    files={"catalog.sqlite3": FileEntry(3, "0" * 64)},
)


def kept(name: str, version: int, chunks: int) -> KeptDocument:
    return KeptDocument(PARTITION.tenant, PARTITION.collection, name, version, 0, chunks)


def test_a_manifest_is_read_as_it_was_written() -> None:
    assert decode(encode(MANIFEST)) == MANIFEST
    assert (MANIFEST.documents, MANIFEST.chunks, MANIFEST.size) == (2, 5, 3)
    assert digest(encode(MANIFEST)) != digest(encode(MANIFEST) + b" ")


def test_no_byte_of_a_manifest_can_change_unnoticed() -> None:
    data = encode(MANIFEST)
    for place in range(len(data)):
        for bit in (1, 32):
            with pytest.raises(DataLoss):
                decode(data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :])
    for cut in range(len(data)):
        with pytest.raises(DataLoss):
            decode(data[:cut])


def test_another_format_is_refused_by_its_number() -> None:
    with pytest.raises(FailedPrecondition, match="has format 2, this release reads format 1"):
        decode(encode(replace(MANIFEST, format=2)))


def test_a_manifest_names_no_file_outside_of_its_backup(tmp_path: Path) -> None:
    for name in ("../catalog.sqlite3", "/etc/passwd"):
        (tmp_path / "manifest.json").write_bytes(encode(replace(MANIFEST, files={name: FileEntry(1, "0" * 64)})))
        with pytest.raises(DataLoss, match="outside"):
            read_manifest(tmp_path)


def test_a_folder_appears_when_it_is_whole_and_never_over_another(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "backup"

    def fail(folder: Folder) -> None:
        with folder.create("some/file") as file:
            file.write(b"content")
        raise RuntimeError

    with pytest.raises(RuntimeError), building(target) as folder:
        fail(folder)
    assert list(target.parent.iterdir()) == []
    # What a killed process left is removed; while it lives nobody else may build.
    left = target.with_name(".backup.incomplete")
    left.mkdir()
    (left / "half").write_bytes(b"half")
    with building(target) as folder:
        with pytest.raises(FailedPrecondition), building(target):
            raise AssertionError
        with folder.create("some/file") as file:
            file.write(b"con")
            file.write(b"tent")
        assert not target.exists()
    assert [path.name for path in target.parent.iterdir()] == ["backup"]
    assert [path.name for path in target.iterdir()] == ["some"]
    assert {path.stat().st_mode & 0o777 for path in (target, target / "some")} == {0o700}
    assert (target / "some" / "file").stat().st_mode & 0o777 == 0o600
    with pytest.raises(AlreadyExists), building(target):
        raise AssertionError
    assert (target / "some" / "file").read_bytes() == b"content"


def test_damaged_and_missing_files_are_named(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    for name in ("a", "b", "c/d", "e", "f"):
        with folder.create(name) as file:
            file.write(name.encode())
    manifest = replace(MANIFEST, files=folder.files)
    check_files(tmp_path, manifest)
    (tmp_path / "c" / "d").write_bytes(b"x/d")
    (tmp_path / "e").unlink()
    with pytest.raises(DataLoss, match="the backup is damaged: c/d is damaged, e cannot be read"):
        check_files(tmp_path, manifest)
    for path in ("a", "b", "f"):
        (tmp_path / path).write_bytes(b"")
    with pytest.raises(DataLoss, match="and 2 more"):
        check_files(tmp_path, manifest)
    with pytest.raises(NotFound, match="no such backup"):
        read_manifest(tmp_path / "nowhere")
    with pytest.raises(NotFound, match="is not a backup"):
        read_manifest(tmp_path)


def test_chunks_are_read_as_they_were_written_and_cut_files_are_noticed(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    parts = Parts(folder, part_bytes=200)
    chunks = [chunk("d", 1, i, 7) for i in range(20)]
    for i in range(0, 20, 5):
        parts.write(PARTITION, 0, chunks[i : i + 5])
    parts.write(Partition("other", "c"), 0, chunks[:1])
    parts.close()
    assert len(parts.parts) > 3
    read = [one for part in parts.parts for one in read_part(tmp_path / part.name)]
    assert [one.chunk_id for one in read] == [one.chunk_id for one in [*chunks, chunks[0]]]
    assert [(one.payload, one.terms, one.reader_set) for one in read[:20]] == [
        (one.payload, one.terms, one.reader_set) for one in chunks
    ]
    assert all((one.vector == other.vector).all() for one, other in zip(read, chunks, strict=False))
    path = tmp_path / parts.parts[0].name
    data = path.read_bytes()
    for size in (2, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(DataLoss, match="cut"):
            list(read_part(path))


def test_only_what_is_kept_stays_in_the_files(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    parts = Parts(folder)
    parts.write(PARTITION, 0, [chunk("stays", 1, 0, 0), chunk("gone", 1, 0, 0), chunk("changed", 1, 0, 0)])
    parts.write(PARTITION, 1, [chunk("changed", 2, 0, 0), chunk("stays", 1, 0, 0)])
    parts.write(Partition("gone", "c"), 0, [chunk("stays", 1, 0, 0)])
    parts.settle({PARTITION: {("stays", 1): 0, ("changed", 2): 1}})
    found = [one.chunk_id for part in parts.parts for one in read_part(tmp_path / part.name)]
    assert found == ["stays#1.0", "changed#2.0"]
    on_disk = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert on_disk == sorted(folder.files) == sorted(part.name for part in parts.parts)
    assert not any(b"gone" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_what_changed_while_it_was_walked_is_missing_until_it_was_walked_whole() -> None:
    collected = Collected()
    collected.begin()
    collected.met(PARTITION, [chunk("a", 1, i, 0) for i in range(3)])
    collected.met(PARTITION, [chunk("b", 1, 0, 0)])
    before = [kept("a", 1, 3), kept("b", 1, 2)]
    after = [kept("a", 1, 3), kept("b", 2, 2), kept("new", 1, 1), kept("empty", 1, 0)]
    collected.ended(before, after)
    assert collected.missing(after) == [kept("b", 2, 2), kept("new", 1, 1)]
    collected.begin()
    collected.met(PARTITION, [chunk("b", 2, 0, 0), chunk("b", 2, 1, 0), chunk("new", 1, 0, 0)])
    collected.ended([kept("b", 2, 2), kept("new", 1, 1)], after)
    assert collected.missing(after) == collected.lacking(after) == []
    assert collected.keep(after) == {PARTITION: {("a", 1): 0, ("b", 2): 1, ("new", 1): 1}}
    assert collected.count(after) == {PARTITION: 6}


def test_what_did_not_change_and_was_not_met_is_not_in_the_index() -> None:
    collected = Collected()
    collected.begin()
    collected.met(PARTITION, [chunk("a", 1, 0, 0)])
    documents = [kept("a", 1, 3)]
    assert collected.missing(documents) == documents
    collected.ended(documents, documents)
    assert collected.missing(documents) == []
    assert collected.lacking(documents) == documents
    assert collected.keep(documents) == {PARTITION: {("a", 1): 0}}
    # As another version it may be there.
    assert collected.missing([kept("a", 2, 1)]) == [kept("a", 2, 1)]
