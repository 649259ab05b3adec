"""The Catalog port.

The catalog decides what exists and who may read it; stores only hold chunks. A document's version becomes visible
in one transaction (:meth:`Catalog.activate_version`), after its chunks are stored, so a reader sees the old version
or the new one and never half of one.
"""

from __future__ import annotations

from collections.abc import Collection as Some
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from services.corpus.document import Collection, Document
from services.corpus.erasure import Erasure
from services.corpus.filter import Filter
from services.corpus.principal import Access


@dataclass(frozen=True, slots=True)
class VersionPlan:
    """What a new version will be called, and the number of its reader set."""

    version: int
    reader_set: int


class FieldCipher(Protocol):
    """Encrypts what a catalog keeps, bound to its place; blocking, called from worker threads."""

    def seal(self, tenant: str, document_id: str, version: int, field: str, plaintext: bytes) -> bytes:
        """The bytes to keep."""

    def open(self, tenant: str, document_id: str, version: int, field: str, token: bytes) -> bytes:
        """The plaintext; DataLoss unless ``token`` was sealed for exactly this place, KeysDestroyed."""


class ClearFields:
    """A FieldCipher that encrypts nothing."""

    def seal(self, tenant: str, document_id: str, version: int, field: str, plaintext: bytes) -> bytes:
        """See the port."""
        del tenant, document_id, version, field
        return plaintext

    def open(self, tenant: str, document_id: str, version: int, field: str, token: bytes) -> bytes:
        """See the port."""
        del tenant, document_id, version, field
        return token


class Catalog(Protocol):
    """Collections, documents and access. Methods may raise Unavailable when the database does not answer.

    Every method is about one tenant, but for :meth:`unfinished_erasures`; nothing of another one is ever returned or
    changed. What a catalog keeps sealed and cannot open is left out of what is found or listed, and one that is asked
    for by its name raises DataLoss. Of a tenant whose keys were destroyed nothing is found; by its name, a document
    raises KeysDestroyed.
    """

    async def create_collection(self, collection: Collection) -> Collection:
        """Make a collection; AlreadyExists if its name is taken in the tenant."""

    async def get_collection(self, tenant: str, name: str) -> Collection | None:
        """The collection, or None."""

    async def list_collections(self, tenant: str, *, after: str = "", limit: int = 50) -> list[Collection]:
        """Collections by name, those after ``after``."""

    async def update_collection(self, collection: Collection) -> None:
        """Replace default access and retention of an existing collection (NotFound)."""

    async def delete_collection(self, tenant: str, name: str) -> int:
        """Remove a collection and its documents' entries; return how many active documents it held."""

    async def plan_version(self, tenant: str, collection: str, document_id: str, access: Access) -> VersionPlan:
        """Reserve the next version number of a document and find (or make) the number of a reader set.

        A number is never given out twice, even when a planned version is never activated.
        """

    async def activate_version(self, document: Document) -> bool:
        """Make ``document`` the current version, in one transaction.

        False, and nothing changes, when a version that was planned later is active already, or when the document
        (or its collection) was deleted after this version was planned.
        """

    async def get_document(self, tenant: str, collection: str, document_id: str) -> Document | None:
        """The document, whoever may read it, or None; callers check access themselves."""

    async def find_owner(self, tenant: str, collection: str, document_id: str) -> str | None:
        """Whose an active document is, or None; nothing that is sealed is opened for it."""

    async def find_readable(
        self, tenant: str, collection: str, document_ids: Some[str], principals: frozenset[str]
    ) -> dict[str, Document]:
        """Those of ``document_ids`` that are active and that ``principals`` may read, by id."""

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

    async def count_readable(self, tenant: str, collection: str, principals: frozenset[str]) -> int:
        """How many active documents of a collection ``principals`` may read."""

    async def reader_sets(self, tenant: str, principals: frozenset[str]) -> frozenset[int]:
        """The numbers of all reader sets of the tenant that admit ``principals``."""

    async def set_access(
        self, tenant: str, collection: str, document_id: str, access: Access, *, owner: str | None = None
    ) -> int:
        """Change who may read an active document (NotFound) and return the new reader set's number.

        With an ``owner``, only if the document is still theirs.
        """

    async def mark_deleted(
        self,
        tenant: str,
        collection: str,
        document_id: str,
        *,
        owner: str | None = None,
        stores: Sequence[str] = (),
    ) -> Erasure | None:
        """Forget an active document and begin its erasure from ``stores``, in one transaction; None if there was none.

        No read sees it from then on, no version that was planned before becomes current any more, and nothing of its
        entry stays but the erasure. With an ``owner``, only if the document is still theirs.
        """

    async def find_erasure(self, tenant: str, receipt_id: str) -> Erasure | None:
        """An erasure by its receipt's id, or None."""

    async def last_erasure(
        self, tenant: str, collection: str, document_id: str, *, owner: str | None = None
    ) -> Erasure | None:
        """The last erasure of a document of that name (with an ``owner``: of theirs), or None."""

    async def unfinished_erasures(self, *, after: str = "", limit: int = 100) -> list[Erasure]:
        """The erasures of all tenants that are not complete, by receipt id, those after ``after``."""

    async def record_erasure(self, before: Erasure, after: Erasure) -> bool:
        """Put ``after`` in the place of ``before``; False, and nothing changes, if somebody else did so meanwhile."""

    async def check(self) -> None:
        """Raise Unavailable unless the catalog can be read."""

    async def close(self) -> None:
        """Release connections."""
