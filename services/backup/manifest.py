"""The manifest of a backup: what is in it, and the SHA-256 of each of its files.

``manifest.json`` is one JSON object, ``{"sha256": …, "manifest": {…}}``, whose hash covers the bytes of the inner object
exactly as they stand. Hashes find damage. They do not find somebody who can write the backup and computes them anew:
what tells of that is the event that the backup leaves in the audit log, which names the hash of this file.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field

from pydantic import TypeAdapter, ValidationError

from services.corpus.errors import DataLoss, FailedPrecondition

NAME = "manifest.json"
FORMAT = 1
_FRAME = re.compile(rb'\{"sha256": "([0-9a-f]{64})", "manifest": (.*)\}\n', re.DOTALL)


@dataclass(frozen=True)
class FileEntry:
    """One file: its size in bytes and its SHA-256 in hexadecimal."""

    size: int
    sha256: str


@dataclass(frozen=True)
class CollectionEntry:
    """One collection, and the files that hold its chunks."""

    tenant: str
    collection: str
    embedding_model: str
    dimension: int
    documents: int
    chunks: int
    parts: tuple[str, ...] = ()


@dataclass(frozen=True)
class TenantKeys:
    """The numbers of the data keys that a tenant had; no key. ``shredded`` says that they were destroyed."""

    tenant: str
    data_keys: tuple[int, ...]
    shredded: bool


@dataclass(frozen=True)
class AuditEntry:
    """The audit log as it was copied: how many events, and the last checkpoint, a signed note over ``covered`` of them.

    The keys are verifier keys, which are public. ``witness_checkpoint`` is the last one that the witness had signed.
    """

    events: int
    covered: int
    log_key: str
    checkpoint: str
    witness_key: str = ""
    witness_checkpoint: str = ""


@dataclass(frozen=True)
class DocumentEntry:
    """A document's version."""

    tenant: str
    collection: str
    document_id: str
    version: int


@dataclass(frozen=True)
class Manifest:
    """See the module. ``time`` (RFC 3339, UTC) is when the catalog was copied: the state is that of this moment.

    ``lacking`` are documents that the catalog has, and the index had not, or not whole.
    """

    backup_id: str
    product: str
    time: str
    encrypted: bool
    collections: tuple[CollectionEntry, ...]
    keys: tuple[TenantKeys, ...]
    audit: AuditEntry | None
    lacking: tuple[DocumentEntry, ...]
    files: dict[str, FileEntry] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def documents(self) -> int:
        """How many documents are active."""
        return sum(entry.documents for entry in self.collections)

    @property
    def chunks(self) -> int:
        """How many chunks they have."""
        return sum(entry.chunks for entry in self.collections)

    @property
    def size(self) -> int:
        """Bytes in all files."""
        return sum(entry.size for entry in self.files.values())


_ADAPTER = TypeAdapter(Manifest)


def encode(manifest: Manifest) -> bytes:
    """The bytes of ``manifest.json``."""
    body = _ADAPTER.dump_json(manifest, indent=1)
    return b'{"sha256": "%s", "manifest": %s}\n' % (hashlib.sha256(body).hexdigest().encode(), body)


def decode(data: bytes) -> Manifest:
    """The reverse; DataLoss if a byte is not as it was written, FailedPrecondition for a format of another release."""
    found = _FRAME.fullmatch(data)
    if found is None or hashlib.sha256(found[2]).hexdigest().encode() != found[1]:
        raise DataLoss(f"{NAME} is damaged")
    try:
        stated = json.loads(found[2]).get("format")
        if stated != FORMAT:
            raise FailedPrecondition(f"the backup has format {stated}, this release reads format {FORMAT}")
        return _ADAPTER.validate_json(found[2])
    except (ValueError, AttributeError, ValidationError) as error:
        raise DataLoss(f"{NAME} is damaged") from error


def digest(data: bytes) -> str:
    """What identifies a backup with all of its contents: the SHA-256 of its manifest's file."""
    return hashlib.sha256(data).hexdigest()
