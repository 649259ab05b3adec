"""What is in the collections, as one caller may see and change it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from services.corpus.document import DEFAULT_COLLECTION, Collection, Document
from services.corpus.errors import AlreadyExists, NotFound, PermissionDenied
from services.corpus.filter import Filter
from services.corpus.principal import Access, Caller
from services.embedding.ports import EmbeddingModel
from services.ingestion.ownership import may_manage
from services.ingestion.ports import Catalog, VectorStore
from services.vectorstores.ports import Partition


@dataclass(frozen=True)
class CollectionChanges:
    """What to change about a collection; None leaves a part as it is. ``retention_days`` 0 means without end."""

    default_access: Access | None = None
    retention_days: int | None = None


class Library:
    """Documents and collections. What a caller may not read does not exist for them."""

    def __init__(
        self,
        catalog: Catalog,
        store: VectorStore,
        model: EmbeddingModel,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._catalog = catalog
        self._store = store
        self._model = model
        self._now = now

    # --- collections ---------------------------------------------------------------------------------------------

    async def collection(self, caller: Caller, name: str) -> Collection:
        """A collection by name, with the number of documents that the caller may read; NotFound."""
        found = await self._catalog.get_collection(caller.tenant, name)
        if found is None and name == DEFAULT_COLLECTION:
            found = await self._make_default(caller)
        if found is None:
            raise NotFound(
                f"there is no collection {name}", reason="COLLECTION_NOT_FOUND", metadata={"collection": name}
            )
        return await self._counted(caller, found)

    async def list_collections(self, caller: Caller, *, after: str, limit: int) -> list[Collection]:
        """The tenant's collections by name, those after ``after``."""
        if await self._catalog.get_collection(caller.tenant, DEFAULT_COLLECTION) is None:
            await self._make_default(caller)
        found = await self._catalog.list_collections(caller.tenant, after=after, limit=limit)
        return [await self._counted(caller, collection) for collection in found]

    async def create_collection(
        self, caller: Caller, name: str, default_access: Access | None, retention_days: int | None
    ) -> Collection:
        """Make a collection with this service's embedding model; AlreadyExists."""
        return await self._catalog.create_collection(
            self._new(caller, name, default_access=default_access, retention_days=retention_days or None)
        )

    async def update_collection(self, caller: Caller, name: str, changes: CollectionChanges) -> Collection:
        """Change default readers or retention; NotFound."""
        found = await self.collection(caller, name)
        if changes.default_access is not None:
            found = dataclasses.replace(found, default_access=changes.default_access)
        if changes.retention_days is not None:
            found = dataclasses.replace(found, retention_days=changes.retention_days or None)
        await self._catalog.update_collection(found)
        return found

    # --- documents -----------------------------------------------------------------------------------------------

    async def document(self, caller: Caller, collection: str, document_id: str) -> Document:
        """An active document that the caller may read; NotFound otherwise, whatever the reason."""
        # The catalog's query decides: neither the time nor the error tells what is absent from what is somebody else's.
        found = await self._catalog.find_readable(caller.tenant, collection, [document_id], caller.principals)
        if document_id not in found:
            raise NotFound("no such document", metadata={"document_id": document_id})
        return found[document_id]

    async def list_documents(
        self, caller: Caller, collection: str, *, filter_: Filter | None, after: str, limit: int
    ) -> list[Document]:
        """Active documents of a collection that the caller may read, by id; NotFound for the collection."""
        await self.collection(caller, collection)
        return await self._catalog.list_readable(
            caller.tenant, collection, caller.principals, filter_=filter_, after=after, limit=limit
        )

    async def update_access(self, caller: Caller, collection: str, document_id: str, access: Access) -> Document:
        """Change who may read a document, from the next query on; NotFound as above.

        Its owner may, and an administrator, while they can read it themselves: nobody grants what they lack. A reader
        who is neither gets PermissionDenied, and nobody else learns that the document exists. The catalog changes
        first and decides; the stores' own narrowing follows.
        """
        document = await self.document(caller, collection, document_id)
        if not may_manage(caller, document.owner):
            raise PermissionDenied("only the document's owner or an administrator may change who reads it")
        # Somebody else's by now, if it was deleted and made anew meanwhile: then it is not theirs to share.
        number = await self._catalog.set_access(caller.tenant, collection, document_id, access, owner=document.owner)
        await self._store.assign_readers(Partition(caller.tenant, collection), document_id, number)
        changed = await self._catalog.get_document(caller.tenant, collection, document_id)
        if changed is None:
            raise NotFound("no such document", metadata={"document_id": document_id})
        return changed

    async def _counted(self, caller: Caller, collection: Collection) -> Collection:
        count = await self._catalog.count_readable(caller.tenant, collection.name, caller.principals)
        return dataclasses.replace(collection, document_count=count)

    async def _make_default(self, caller: Caller) -> Collection | None:
        try:
            return await self._catalog.create_collection(self._new(caller, DEFAULT_COLLECTION))
        except AlreadyExists:  # somebody else was faster
            return await self._catalog.get_collection(caller.tenant, DEFAULT_COLLECTION)

    def _new(
        self, caller: Caller, name: str, *, default_access: Access | None = None, retention_days: int | None = None
    ) -> Collection:
        return Collection(
            tenant=caller.tenant,
            name=name,
            embedding_model=self._model.name,
            dimension=self._model.dimension,
            default_access=default_access,
            retention_days=retention_days,
            create_time=self._now(),
        )
