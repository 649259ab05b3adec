"""Which rows a statement is about."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Select, select

from services.catalog.schema import documents, reader_set_members, version_counters
from services.corpus.document import DocumentState


def document_key(tenant: str, collection: str, document_id: str) -> tuple[Any, Any, Any]:
    """The row of one document."""
    return (
        documents.c.tenant == tenant,
        documents.c.collection == collection,
        documents.c.document_id == document_id,
    )


def counter_key(tenant: str, collection: str, document_id: str) -> tuple[Any, Any, Any]:
    """The row of one document's version counter."""
    counter = version_counters.c
    return counter.tenant == tenant, counter.collection == collection, counter.document_id == document_id


def admitting(tenant: str, principals: frozenset[str]) -> Select[Any]:
    """The numbers of the reader sets that admit ``principals``."""
    members = reader_set_members.c
    return select(members.number).where(members.tenant == tenant, members.principal.in_(sorted(principals))).distinct()


def readable(tenant: str, collection: str, principals: frozenset[str]) -> Select[Any]:
    """The active documents of a collection that ``principals`` may read."""
    return select(documents).where(
        documents.c.tenant == tenant,
        documents.c.collection == collection,
        documents.c.state == DocumentState.ACTIVE.value,
        documents.c.reader_set.in_(admitting(tenant, principals)),
    )
