"""The gate: nothing that a store found goes on before the catalog has agreed.

It fails closed: an error of the catalog is the query's error. What it admits is decided before scores are normalised,
so that neither a chunk nor a score tells a caller about documents that it may not read. What was admitted is asked
about once more before it leaves (:func:`readable_now`): searching, reading and reranking take time, in which access
may have been withdrawn.
"""

from __future__ import annotations

from collections.abc import Collection as Some
from collections.abc import Mapping

from services.catalog.ports import Catalog
from services.corpus.document import Document
from services.corpus.filter import Filter, matches
from services.corpus.principal import Caller
from services.retrieval.result import ChunkKey, Reference


async def readable_now(
    catalog: Catalog, caller: Caller, references: Some[Reference], filter_: Filter | None = None
) -> frozenset[Reference]:
    """Those of ``references`` that are, at this moment, current versions of documents that the caller may read.

    With a ``filter_``, the documents' metadata must satisfy it. Nothing is remembered between calls. Raises
    Unavailable when the catalog does not answer.
    """
    wanted: dict[str, set[str]] = {}
    for reference in references:
        wanted.setdefault(reference.collection, set()).add(reference.document_id)
    current = set()
    for collection, document_ids in wanted.items():
        found = await catalog.find_readable(caller.tenant, collection, sorted(document_ids), caller.principals)
        current |= {
            Reference(collection, document_id, document.version)
            for document_id, document in found.items()
            if matches(filter_, document.metadata)
        }
    return frozenset(current.intersection(references))


class Gate:
    """Decides, for one request, which chunks its caller may see. A document is looked up once."""

    def __init__(self, catalog: Catalog, caller: Caller, filter_: Filter | None) -> None:
        self._catalog = catalog
        self._caller = caller
        self._filter = filter_
        self._documents: dict[tuple[str, str], Document | None] = {}
        self._admitted: dict[ChunkKey, Document] = {}
        self._withheld: dict[str, None] = {}

    @property
    def withheld(self) -> tuple[str, ...]:
        """Ids of the documents that were found so far and that the caller may not read, or not any more."""
        return tuple(self._withheld)

    @property
    def admitted(self) -> Mapping[ChunkKey, Document]:
        """The chunks admitted so far, with their documents."""
        return self._admitted

    async def check(self, keys: Some[ChunkKey]) -> None:
        """Look up the documents of ``keys`` and admit what passes.

        A chunk passes when its document is active and readable, its version is the document's current one, and the
        document's metadata satisfy the filter.
        """
        unknown: dict[str, set[str]] = {}
        for key in keys:
            if (key.collection, key.document_id) not in self._documents:
                unknown.setdefault(key.collection, set()).add(key.document_id)
        for collection, document_ids in unknown.items():
            await self._look_up(collection, sorted(document_ids))
        for key in keys:
            document = self._documents[key.collection, key.document_id]
            if document is not None and document.version == key.version:
                self._admitted[key] = document

    async def check_again(self, keys: Some[ChunkKey]) -> bool:
        """Ask the catalog once more about admitted ``keys``; whether all of them may still be seen.

        The documents of those that may not are turned down for the rest of the request, with all their chunks.
        """
        references = {key.reference for key in keys}
        withdrawn = references - await readable_now(self._catalog, self._caller, references, self._filter)
        for reference in withdrawn:
            self._documents[reference.collection, reference.document_id] = None
            self._withheld[reference.document_id] = None
        turned_down = {reference[:2] for reference in withdrawn}
        for key in [key for key in self._admitted if key.reference[:2] in turned_down]:
            del self._admitted[key]
        return not withdrawn

    async def chunks_in_reach(self, collection: str, most: int) -> int | None:
        """How many chunks of a collection could be admitted, or None if they belong to more than ``most`` documents.

        It tells a search with a narrow filter when it has found everything there is.
        """
        caller = self._caller
        documents = await self._catalog.list_readable(
            caller.tenant, collection, caller.principals, filter_=self._filter, limit=most + 1
        )
        return sum(document.chunk_count for document in documents) if len(documents) <= most else None

    async def _look_up(self, collection: str, document_ids: list[str]) -> None:
        caller = self._caller
        readable = await self._catalog.find_readable(caller.tenant, collection, document_ids, caller.principals)
        for document_id in document_ids:
            document = readable.get(document_id)
            if document is None:
                self._withheld[document_id] = None
            passes = document is not None and matches(self._filter, document.metadata)
            self._documents[collection, document_id] = document if passes else None
