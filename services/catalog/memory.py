"""A catalog in dictionaries, for tests and throw-away runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection as Some
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice

from services.catalog.ports import VersionPlan
from services.corpus.document import Collection, Document, DocumentState
from services.corpus.erasure import Erasure, begin, new_receipt_id
from services.corpus.errors import AlreadyExists, NotFound
from services.corpus.filter import Filter, matches
from services.corpus.principal import Access

_DocumentKey = tuple[str, str, str]


class MemoryCatalog:
    """Implements the Catalog port in memory; nothing survives the process.

    No method awaits anything, so each is one transaction to other tasks of the same event loop.
    """

    def __init__(self) -> None:
        self._collections: dict[tuple[str, str], Collection] = {}
        self._documents: dict[_DocumentKey, Document] = {}
        # Both outlive their documents: a version number is never given out twice, and a version that was planned
        # before a deletion must not bring the document back.
        self._planned: Counter[_DocumentKey] = Counter()
        self._fences: dict[_DocumentKey, int] = {}
        self._reader_sets: dict[str, dict[frozenset[str], int]] = {}
        self._erasures: dict[str, Erasure] = {}

    async def create_collection(self, collection: Collection) -> Collection:
        """Make a collection; AlreadyExists if its name is taken in the tenant."""
        key = (collection.tenant, collection.name)
        if key in self._collections:
            raise AlreadyExists(
                f"there is a collection {collection.name!r} already", metadata={"collection": collection.name}
            )
        self._collections[key] = collection
        return collection

    async def get_collection(self, tenant: str, name: str) -> Collection | None:
        """The collection, or None."""
        return self._collections.get((tenant, name))

    async def list_collections(self, tenant: str, *, after: str = "", limit: int = 50) -> list[Collection]:
        """Collections by name, those after ``after``."""
        names = sorted(name for owner, name in self._collections if owner == tenant and name > after)
        return [self._collections[tenant, name] for name in names[:limit]]

    async def update_collection(self, collection: Collection) -> None:
        """Replace default access and retention of an existing collection (NotFound)."""
        key = (collection.tenant, collection.name)
        known = self._collections.get(key)
        if known is None:
            raise _no_collection(collection.name)
        self._collections[key] = replace(
            known, default_access=collection.default_access, retention_days=collection.retention_days
        )

    async def delete_collection(self, tenant: str, name: str) -> int:
        """Remove a collection (NotFound) and its documents' entries; return how many active documents it held."""
        if self._collections.pop((tenant, name), None) is None:
            raise _no_collection(name)
        active = sum(1 for _ in self._active(tenant, name))
        for key in [key for key in self._documents if key[:2] == (tenant, name)]:
            del self._documents[key]
        for key in [key for key in self._planned if key[:2] == (tenant, name)]:
            self._fences[key] = self._planned[key]
        return active

    async def plan_version(self, tenant: str, collection: str, document_id: str, access: Access) -> VersionPlan:
        """Reserve the next version number of a document and find (or make) the number of a reader set."""
        key = (tenant, collection, document_id)
        self._planned[key] += 1
        return VersionPlan(self._planned[key], self._reader_set(tenant, access))

    async def activate_version(self, document: Document) -> bool:
        """Make ``document`` the current version; False if a later one is active, or it was deleted since the plan."""
        key = (document.tenant, document.collection, document.document_id)
        known = self._documents.get(key)
        if document.version <= self._fences.get(key, 0) or (known is not None and known.version >= document.version):
            return False
        self._reader_set(document.tenant, document.access)
        self._planned[key] = max(self._planned[key], document.version)
        self._documents[key] = replace(document, create_time=known.create_time) if known else document
        return True

    async def get_document(self, tenant: str, collection: str, document_id: str) -> Document | None:
        """The document, whoever may read it, or None; callers check access themselves."""
        return self._documents.get((tenant, collection, document_id))

    async def find_owner(self, tenant: str, collection: str, document_id: str) -> str | None:
        """Whose an active document is, or None."""
        document = self._documents.get((tenant, collection, document_id))
        return document.owner if document is not None and document.state is DocumentState.ACTIVE else None

    async def find_readable(
        self, tenant: str, collection: str, document_ids: Some[str], principals: frozenset[str]
    ) -> dict[str, Document]:
        """Those of ``document_ids`` that are active and that ``principals`` may read, by id."""
        found = (self._documents.get((tenant, collection, document_id)) for document_id in document_ids)
        return {
            document.document_id: document
            for document in found
            if document is not None and document.state is DocumentState.ACTIVE and document.access.admits(principals)
        }

    async def list_readable(
        self,
        tenant: str,
        collection: str,
        principals: frozenset[str],
        *,
        filter_: Filter | None = None,
        after: str = "",
        limit: int = 50,
    ) -> list[Document]:
        """Active documents that ``principals`` may read, by id, those after ``after``."""
        readable = sorted(
            (document for document in self._active(tenant, collection) if document.access.admits(principals)),
            key=lambda document: document.document_id,
        )
        matching = (d for d in readable if d.document_id > after and matches(filter_, d.metadata))
        return list(islice(matching, limit))

    async def count_readable(self, tenant: str, collection: str, principals: frozenset[str]) -> int:
        """How many active documents of a collection ``principals`` may read."""
        return sum(document.access.admits(principals) for document in self._active(tenant, collection))

    async def reader_sets(self, tenant: str, principals: frozenset[str]) -> frozenset[int]:
        """The numbers of all reader sets of the tenant that admit ``principals``."""
        numbered = self._reader_sets.get(tenant, {})
        return frozenset(number for readers, number in numbered.items() if not readers.isdisjoint(principals))

    async def set_access(
        self, tenant: str, collection: str, document_id: str, access: Access, *, owner: str | None = None
    ) -> int:
        """Change who may read an active document (NotFound) and return the new reader set's number."""
        key = (tenant, collection, document_id)
        document = self._documents.get(key)
        if (
            document is None
            or document.state is not DocumentState.ACTIVE
            or (owner is not None and document.owner != owner)
        ):
            raise NotFound("there is no such document", metadata={"document_id": document_id})
        self._documents[key] = replace(document, access=access, update_time=datetime.now(UTC))
        return self._reader_set(tenant, access)

    async def mark_deleted(
        self,
        tenant: str,
        collection: str,
        document_id: str,
        *,
        owner: str | None = None,
        stores: Sequence[str] = (),
    ) -> Erasure | None:
        """Forget an active document and begin its erasure from ``stores``; None if there was none."""
        key = (tenant, collection, document_id)
        document = self._documents.get(key)
        if document is None or document.state is not DocumentState.ACTIVE or owner not in {None, document.owner}:
            return None
        erasure = begin(
            receipt_id=new_receipt_id(),
            tenant=tenant,
            collection=collection,
            document_id=document_id,
            owner=document.owner,
            version=document.version,
            last_version=self._planned[key],
            chunks=document.chunk_count,
            stores=stores,
            now=datetime.now(UTC),
        )
        del self._documents[key]
        self._fences[key] = self._planned[key]
        self._erasures[erasure.receipt_id] = erasure
        return erasure

    async def find_erasure(self, tenant: str, receipt_id: str) -> Erasure | None:
        """An erasure by its receipt's id, or None."""
        found = self._erasures.get(receipt_id)
        return found if found is not None and found.tenant == tenant else None

    async def last_erasure(
        self, tenant: str, collection: str, document_id: str, *, owner: str | None = None
    ) -> Erasure | None:
        """The last erasure of a document of that name (with an ``owner``: of theirs), or None."""
        key = (tenant, collection, document_id)
        found = [
            erasure
            for erasure in self._erasures.values()
            if (erasure.tenant, erasure.collection, erasure.document_id) == key and owner in {None, erasure.owner}
        ]
        return found[-1] if found else None

    async def unfinished_erasures(self, *, after: str = "", limit: int = 100) -> list[Erasure]:
        """The erasures of all tenants that are not complete, by receipt id, those after ``after``."""
        found = [erasure for erasure in self._erasures.values() if erasure.complete_time is None]
        ordered = sorted(found, key=lambda erasure: erasure.receipt_id)
        return [erasure for erasure in ordered if erasure.receipt_id > after][:limit]

    async def record_erasure(self, before: Erasure, after: Erasure) -> bool:
        """Put ``after`` in the place of ``before``; False if somebody else did so meanwhile."""
        if self._erasures.get(before.receipt_id) != before:
            return False
        self._erasures[before.receipt_id] = after
        return True

    async def check(self) -> None:
        """Return: memory can always be read."""

    async def close(self) -> None:
        """Return: there is nothing to release."""

    def _active(self, tenant: str, collection: str) -> Iterator[Document]:
        for key, document in self._documents.items():
            if key[:2] == (tenant, collection) and document.state is DocumentState.ACTIVE:
                yield document

    def _reader_set(self, tenant: str, access: Access) -> int:
        numbered = self._reader_sets.setdefault(tenant, {})
        return numbered.setdefault(access.readers, len(numbered) + 1)


def _no_collection(name: str) -> NotFound:
    return NotFound(f"no collection {name}", reason="COLLECTION_NOT_FOUND", metadata={"collection": name})
