"""Deleting documents, and the receipts that say how far that has come."""

from __future__ import annotations

from services.corpus.erasure import Erasure
from services.corpus.errors import NotFound, PermissionDenied
from services.corpus.principal import Caller
from services.ingestion.eraser import Eraser
from services.ingestion.ownership import is_administrator, may_manage, principal_of
from services.ingestion.ports import Catalog

MOST_WAIT = 10.0
"""Seconds that a deletion waits for the stores, at most, before it says how far it has come."""


class Erasures:
    """What callers may delete, and which receipts they may see."""

    def __init__(self, catalog: Catalog, eraser: Eraser) -> None:
        self._catalog = catalog
        self._eraser = eraser

    async def delete(
        self, caller: Caller, collection: str, document_id: str, *, patience: float | None = None
    ) -> Erasure:
        """Delete a document: nobody can read it any more when the catalog has been told, which comes first.

        Its owner may, and an administrator who can read it; a reader who is neither gets PermissionDenied, and nobody
        else learns that the document exists (NotFound). Then it is erased from the stores, as far as that comes within
        ``patience`` seconds. Whoever deletes again what they have deleted gets the same erasure, further on.
        """
        readable = await self._catalog.find_readable(caller.tenant, collection, [document_id], caller.principals)
        begun = None
        if document_id in readable:
            owner = readable[document_id].owner
            if not may_manage(caller, owner):
                raise PermissionDenied("only the document's owner or an administrator may delete it")
            # Somebody else's by now, if it was deleted and made anew meanwhile: then it is not theirs to delete.
            begun = await self._catalog.mark_deleted(
                caller.tenant, collection, document_id, owner=owner, stores=self._eraser.places
            )
        if begun is None:
            begun = await self._last(caller, collection, document_id)
        wait = MOST_WAIT if patience is None else min(patience, MOST_WAIT)
        return await self._eraser.erase(begun, wait)

    async def receipt(self, caller: Caller, receipt_id: str) -> Erasure:
        """An erasure of the caller's own document, or any of the tenant for administrators; NotFound otherwise."""
        found = await self._catalog.find_erasure(caller.tenant, receipt_id)
        if found is None or not may_manage(caller, found.owner):
            raise NotFound("no such receipt", metadata={"receipt_id": receipt_id})
        return found

    async def _last(self, caller: Caller, collection: str, document_id: str) -> Erasure:
        # Whether somebody has taken the same id in since then makes no difference: it would tell of their document.
        owner = None if is_administrator(caller) else principal_of(caller)
        last = await self._catalog.last_erasure(caller.tenant, collection, document_id, owner=owner)
        if last is None:
            raise NotFound("no such document", metadata={"document_id": document_id})
        return last
