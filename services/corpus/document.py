"""Documents and their versions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from services.corpus.errors import InvalidField
from services.corpus.filter import Metadata
from services.corpus.principal import Access

DEFAULT_COLLECTION = "default"
_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._\-]{0,127}")


def parse_identifier(text: str, path: str) -> str:
    """Return ``text`` if it may name a collection or a document; raise InvalidField otherwise."""
    if not _IDENTIFIER.fullmatch(text):
        raise InvalidField(path, "must be 1 to 128 letters, digits, '.', '_' or '-', starting with a letter or digit")
    return text


class MediaType(Enum):
    """The formats that ingestion can read."""

    TEXT = "text/plain"
    MARKDOWN = "text/markdown"
    HTML = "text/html"
    PDF = "application/pdf"
    DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"


class DocumentState(Enum):
    """Where a document stands."""

    ACTIVE = "active"
    DELETED = "deleted"


@dataclass(frozen=True)
class Document:
    """A document as the catalog knows it; the text itself lives in the stores, in chunks."""

    tenant: str
    collection: str
    document_id: str
    version: int
    title: str
    uri: str
    media_type: MediaType
    metadata: Metadata
    access: Access
    owner: str
    state: DocumentState
    content_sha256: str
    chunk_count: int
    create_time: datetime
    update_time: datetime

    @property
    def name(self) -> str:
        """The resource name, AIP-122 style: ``collections/handbook/documents/travel-policy``."""
        return f"collections/{self.collection}/documents/{self.document_id}"


@dataclass(frozen=True)
class Collection:
    """A named set of documents that share an embedding model, default readers and a retention."""

    tenant: str
    name: str
    embedding_model: str
    dimension: int
    default_access: Access | None
    retention_days: int | None
    create_time: datetime
    document_count: int = 0
