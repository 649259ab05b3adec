"""A catalog whose changes are announced before they are made, and confirmed after.

Whatever changes what exists, or who may read it, passes here: what the audit log says of changes is said of these.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar, cast

from services.catalog.ports import Catalog
from services.corpus.document import Collection, Document
from services.corpus.erasure import Erasure
from services.corpus.principal import Access

_T = TypeVar("_T")
# These tell, reserve what only an activation will show, or write down how far an erasure that was recorded has come.
UNRECORDED = frozenset(
    {
        *("get_collection", "list_collections", "get_document", "find_owner", "find_readable", "list_readable"),
        *("count_readable", "reader_sets", "plan_version", "check", "close"),
        *("find_erasure", "last_erasure", "unfinished_erasures", "record_erasure"),
    }
)


class Effects(Protocol):
    """Runs a change between its announcement and its confirmation."""

    async def perform(
        self,
        tenant: str,
        resource: str,
        work: Callable[[], Awaitable[_T]],
        *,
        document_ids: Sequence[str] = (),
        happened: Callable[[_T], bool] = ...,
    ) -> _T:
        """The result of ``work``, from which ``happened`` tells whether anything was changed.

        Raises Unavailable, and does nothing, when it cannot be announced.
        """


def recorded(catalog: Catalog, effects: Effects) -> Catalog:
    """``catalog`` with every change recorded. Besides what the port names, changes raise what ``effects`` does."""
    return cast("Catalog", RecordedCatalog(catalog, effects))


class RecordedCatalog:
    """Only what changes something is here; the rest is the catalog's own."""

    def __init__(self, catalog: Catalog, effects: Effects) -> None:
        self._catalog = catalog
        self._effects = effects

    def __getattr__(self, name: str) -> Any:
        """What changes nothing; AttributeError for a change that nobody has thought of yet."""
        if name not in UNRECORDED:
            raise AttributeError(name)
        return getattr(self._catalog, name)

    async def create_collection(self, collection: Collection) -> Collection:
        """See the port."""
        return await self._effects.perform(
            collection.tenant, _collection(collection.name), lambda: self._catalog.create_collection(collection)
        )

    async def update_collection(self, collection: Collection) -> None:
        """See the port."""
        await self._effects.perform(
            collection.tenant, _collection(collection.name), lambda: self._catalog.update_collection(collection)
        )

    async def delete_collection(self, tenant: str, name: str) -> int:
        """See the port."""
        return await self._effects.perform(
            tenant, _collection(name), lambda: self._catalog.delete_collection(tenant, name)
        )

    async def activate_version(self, document: Document) -> bool:
        """See the port."""
        return await self._effects.perform(
            document.tenant,
            _document(document.collection, document.document_id),
            lambda: self._catalog.activate_version(document),
            document_ids=[document.document_id],
            happened=bool,
        )

    async def set_access(
        self, tenant: str, collection: str, document_id: str, access: Access, *, owner: str | None = None
    ) -> int:
        """See the port."""
        return await self._effects.perform(
            tenant,
            f"{_document(collection, document_id)}/access",
            lambda: self._catalog.set_access(tenant, collection, document_id, access, owner=owner),
            document_ids=[document_id],
        )

    async def mark_deleted(
        self,
        tenant: str,
        collection: str,
        document_id: str,
        *,
        owner: str | None = None,
        stores: Sequence[str] = (),
    ) -> Erasure | None:
        """See the port."""
        return await self._effects.perform(
            tenant,
            _document(collection, document_id),
            lambda: self._catalog.mark_deleted(tenant, collection, document_id, owner=owner, stores=stores),
            document_ids=[document_id],
            happened=lambda erasure: erasure is not None,
        )


def _collection(name: str) -> str:
    return f"collections/{name}"


def _document(collection: str, document_id: str) -> str:
    return f"collections/{collection}/documents/{document_id}"
