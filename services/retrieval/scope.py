"""Which collections a search covers, and whether its vectors can be compared with theirs."""

from __future__ import annotations

import asyncio

from services.catalog.ports import Catalog
from services.corpus.document import DEFAULT_COLLECTION, Collection
from services.corpus.errors import FailedPrecondition, NotFound
from services.embedding.ports import EmbeddingModel


async def resolve_collections(catalog: Catalog, tenant: str, names: tuple[str, ...]) -> list[Collection]:
    """The named collections, each once; the default one when none is named.

    The default collection exists from the start by contract, so until something is ingested it is empty, not unknown.

    Raises:
        NotFound: Another collection does not exist in the tenant.
    """
    wanted = list(dict.fromkeys(names)) or [DEFAULT_COLLECTION]
    found = await asyncio.gather(*(catalog.get_collection(tenant, name) for name in wanted))
    collections = []
    for name, collection in zip(wanted, found, strict=True):
        if collection is not None:
            collections.append(collection)
        elif name != DEFAULT_COLLECTION:
            raise NotFound(
                f"there is no collection {name!r}", reason="COLLECTION_NOT_FOUND", metadata={"collection": name}
            )
    return collections


def require_same_model(collections: list[Collection], model: EmbeddingModel) -> None:
    """Raise FailedPrecondition if a collection's vectors come from another model than questions will."""
    for collection in collections:
        if (collection.embedding_model, collection.dimension) != (model.name, model.dimension):
            raise FailedPrecondition(
                f"collection {collection.name!r} was built with another embedding model; run `groundwire reindex`",
                reason="EMBEDDING_MISMATCH",
                metadata={
                    "collection": collection.name,
                    "collection_model": collection.embedding_model,
                    "service_model": model.name,
                },
            )
