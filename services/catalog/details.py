"""The sealed details of a tenant's documents as they are kept, for re-encryption. Statements only, no keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, select, tuple_, update

from services.catalog.conditions import document_key
from services.catalog.rows import details_field
from services.catalog.schema import documents


@dataclass(frozen=True, slots=True)
class KeptDetails:
    """What the catalog keeps of one document, whatever its state, and the field that it was sealed for."""

    collection: str
    document_id: str
    version: int
    details: bytes = field(repr=False)

    @property
    def field(self) -> str:
        """See :func:`services.catalog.rows.details_field`."""
        return details_field(self.collection)


def page(connection: Connection, tenant: str, after: tuple[str, str], limit: int) -> list[KeptDetails]:
    """At most ``limit`` by (collection, document id) in the order of their code points, those after ``after``."""
    place = tuple_(documents.c.collection, documents.c.document_id)
    query = (
        select(documents.c.collection, documents.c.document_id, documents.c.version, documents.c.details)
        .where(documents.c.tenant == tenant, place > after)
        .order_by(documents.c.collection, documents.c.document_id)
        .limit(limit)
    )
    return [KeptDetails(*row) for row in connection.execute(query)]


def replace(connection: Connection, tenant: str, changes: Sequence[tuple[KeptDetails, bytes]]) -> int:
    """Put other details in the place of those that are still as they were; how many were."""
    replaced = 0
    for kept, details in changes:
        replaced += connection.execute(
            update(documents)
            .where(
                *document_key(tenant, kept.collection, kept.document_id),
                documents.c.version == kept.version,
                documents.c.details == kept.details,
            )
            .values(details=details)
        ).rowcount
    return replaced
