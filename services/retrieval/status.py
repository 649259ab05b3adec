"""How the stores are, for people and dashboards."""

from __future__ import annotations

from dataclasses import replace

from services.corpus.document import DEFAULT_COLLECTION
from services.retrieval.federation import Federation, failure, outcomes
from services.retrieval.ports import NamedStore
from services.retrieval.result import StoreStatus
from services.vectorstores.ports import Partition


async def store_statuses(federation: Federation, tenant: str) -> list[StoreStatus]:
    """Every store's status, in the configured order; all are asked at once, each within its time."""
    endings = await outcomes((_ask(store, tenant) for store in federation.stores), federation.timeout)
    statuses = []
    for store, ending in zip(federation.stores, endings, strict=True):
        # Looked at after the store was asked: that, too, has shown how it is.
        condition = store.condition()
        if isinstance(ending, Exception):
            # What it could do when it last answered is still the best knowledge of it.
            known = federation.known_capabilities(store)
            status = StoreStatus(
                store.name,
                engine=known.engine if known else "",
                dense=known is not None and known.dense,
                lexical=known is not None and known.lexical,
                error=failure(ending)[1],
            )
        else:
            status = replace(ending, error=condition.problem)
        statuses.append(replace(status, breaker=condition.breaker, in_flight=condition.in_flight))
    return statuses


async def _ask(store: NamedStore, tenant: str) -> StoreStatus:
    # Not from the federation's memory: the question is whether the store answers now.
    can = await store.store.capabilities()
    count = await store.store.count_chunks(Partition(tenant, DEFAULT_COLLECTION))
    return StoreStatus(
        store.name,
        engine=can.engine,
        dense=can.dense,
        lexical=can.lexical,
        healthy=True,
        chunk_count=count,
    )
