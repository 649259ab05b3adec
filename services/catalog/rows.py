"""Rows of the catalog's tables to and from the nouns of the corpus. Pure."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row

from services.catalog.ports import FieldCipher
from services.corpus.document import Collection, Document, DocumentState, MediaType
from services.corpus.errors import DataLoss
from services.corpus.principal import Access


def document_of(row: Row[Any], access: Access, cipher: FieldCipher) -> Document:
    """A row of ``documents``, with the access that its reader set stands for; DataLoss if it does not open."""
    sealed = cipher.open(row.tenant, row.document_id, row.version, details_field(row.collection), row.details)
    try:
        details = json.loads(sealed)
        title, uri, metadata = str(details["title"]), str(details["uri"]), dict(details["metadata"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataLoss("a catalog entry cannot be read") from error
    return Document(
        tenant=row.tenant,
        collection=row.collection,
        document_id=row.document_id,
        version=row.version,
        title=title,
        uri=uri,
        media_type=MediaType(row.media_type),
        metadata={key: tuple(value) if isinstance(value, list) else value for key, value in metadata.items()},
        access=access,
        owner=row.owner,
        state=DocumentState(row.state),
        content_sha256=row.content_sha256,
        chunk_count=row.chunk_count,
        create_time=from_micros(row.create_time),
        update_time=from_micros(row.update_time),
    )


def details_of(document: Document, cipher: FieldCipher) -> bytes:
    """What the column ``details`` keeps of a document."""
    details = {"title": document.title, "uri": document.uri, "metadata": document.metadata}
    return cipher.seal(
        document.tenant,
        document.document_id,
        document.version,
        details_field(document.collection),
        json.dumps(details, ensure_ascii=False).encode("utf-8", "surrogatepass"),
    )


def details_field(collection: str) -> str:
    """The field that a document's details are sealed for."""
    # A collection's name has no colon, so two collections never share a field.
    return f"catalog-details:{collection}"


def collection_of(row: Row[Any]) -> Collection:
    """A row of ``collections``."""
    return Collection(
        tenant=row.tenant,
        name=row.name,
        embedding_model=row.embedding_model,
        dimension=row.dimension,
        default_access=None if row.default_readers is None else Access(frozenset(json.loads(row.default_readers))),
        retention_days=row.retention_days,
        create_time=from_micros(row.create_time),
    )


def dump_access(access: Access | None) -> str | None:
    """Default readers as a column keeps them."""
    return None if access is None else json.dumps(sorted(access.readers))


def to_micros(time: datetime) -> int:
    """Whole microseconds since the epoch."""
    return round(time.timestamp() * 1_000_000)


def from_micros(micros: int) -> datetime:
    """The reverse of :func:`to_micros`, in UTC."""
    return datetime.fromtimestamp(micros / 1_000_000, UTC)
