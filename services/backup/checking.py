"""Verifying a backup where it lies: every hash, the catalog's file, every chunk's record, and the audit log. Blocking."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from services.backup.backup import documents_of
from services.backup.folder import Told, check_files, read_manifest
from services.backup.gathering import CATALOG
from services.backup.journals import AUDIT, WITNESS, Log, verify_log
from services.backup.manifest import Manifest, digest
from services.backup.parts import read_part
from services.catalog.contents import Contents, check_integrity, read_contents
from services.corpus.errors import DataLoss
from services.vectorstores.ports import Partition


def check_backup(root: Path, told: Told = lambda _: None) -> tuple[Manifest, str]:
    """The manifest of a backup in which everything holds, and the SHA-256 of it; NotFound, FailedPrecondition, DataLoss."""
    manifest, data = read_manifest(root)
    check_files(root, manifest, told)
    check_integrity(root / CATALOG)
    contents = read_contents(root / CATALOG)
    _check_collections(root, manifest, contents)
    if manifest.audit is not None:
        check_log(Log(root / AUDIT, root / WITNESS), manifest)
    return manifest, digest(data)


def check_log(log: Log, manifest: Manifest) -> None:
    """DataLoss unless ``log`` is intact, continues what its witness remembers, and is what the manifest says it is."""
    audit = manifest.audit
    if audit is None:
        return
    report = verify_log(log, known=(audit.checkpoint,) if audit.checkpoint else ())
    if not report.intact:
        raise DataLoss(f"the backup's audit log does not hold: {report.problems[0]}")
    if report.events != audit.events:
        raise DataLoss(f"the backup's audit log has {report.events:,} events, and not {audit.events:,}")


def _check_collections(root: Path, manifest: Manifest, contents: Contents) -> None:
    """Every current version is whole, but for those that the manifest says are not; and nothing else is there."""
    documents = documents_of(contents)
    expected = {
        (Partition(document.tenant, document.collection), document.document_id, document.version): document.chunks
        for document in contents.documents
    }
    lacking = {
        (Partition(entry.tenant, entry.collection), entry.document_id, entry.version) for entry in manifest.lacking
    }
    found: Counter[tuple[Partition, str, int]] = Counter()
    for entry in manifest.collections:
        partition, before = Partition(entry.tenant, entry.collection), found.total()
        for name in entry.parts:
            found.update((partition, chunk.document_id, chunk.version) for chunk in read_part(root / name))
        if (documents[partition], found.total() - before) != (entry.documents, entry.chunks):
            raise DataLoss(
                f"the backup is damaged: the counts of {entry.tenant}/{entry.collection} are not its manifest's"
            )
    wrong = [key for key, count in expected.items() if found[key] != count and key not in lacking]
    if wrong or found.keys() - expected.keys():
        raise DataLoss("the backup is damaged: its chunks are not those of its catalog")
