"""Where this installation keeps sealed values, as re-encryption goes through them: the catalog and each store."""

from __future__ import annotations

from collections.abc import Sequence

from services.catalog.details import KeptDetails
from services.catalog.sql import SqlCatalog
from services.runtime.sealed_store import chunk_field
from services.security.resealing import SealedItem
from services.vectorstores.ports import PayloadChange, PayloadPages

# Neither the name of a collection nor an id has this character, and none sorts before it.
_BETWEEN = "\0"


class CatalogDetails:
    """Titles, URIs and metadata in the catalog. Implements the SealedItems port."""

    name = "catalog"

    def __init__(self, catalog: SqlCatalog) -> None:
        self._catalog = catalog

    async def page(self, tenant: str, *, after: str, limit: int) -> list[SealedItem]:
        """See the port."""
        kept = await self._catalog.list_details(tenant, after=_place(after), limit=limit)
        return [
            SealedItem(
                _key(found.collection, found.document_id), found.document_id, found.version, found.field, found.details
            )
            for found in kept
        ]

    async def replace(self, tenant: str, changes: Sequence[tuple[SealedItem, bytes]]) -> int:
        """See the port."""
        return await self._catalog.replace_details(
            tenant,
            [
                (KeptDetails(_place(item.key)[0], item.document_id, item.version, item.token), token)
                for item, token in changes
            ],
        )


class StoreChunks:
    """The chunks of a store. Implements the SealedItems port; ``name`` is the store's and never changes."""

    def __init__(self, store: PayloadPages, name: str) -> None:
        self._store = store
        self.name = f"store/{name}"

    async def page(self, tenant: str, *, after: str, limit: int) -> list[SealedItem]:
        """See the port."""
        return [
            SealedItem(
                _key(kept.collection, kept.chunk.chunk_id),
                kept.chunk.document_id,
                kept.chunk.version,
                chunk_field(kept.collection, kept.chunk.ordinal),
                kept.chunk.payload,
            )
            for kept in await self._store.list_payloads(tenant, after=_place(after), limit=limit)
        ]

    async def replace(self, tenant: str, changes: Sequence[tuple[SealedItem, bytes]]) -> int:
        """See the port."""
        return await self._store.replace_payloads(
            tenant, [PayloadChange(*_place(item.key), item.token, token) for item, token in changes]
        )


def _key(collection: str, name: str) -> str:
    return f"{collection}{_BETWEEN}{name}"


def _place(key: str) -> tuple[str, str]:
    collection, _, name = key.partition(_BETWEEN)
    return collection, name
