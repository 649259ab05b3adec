"""The retrieval service's composition root."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from functools import partial

import grpc

from groundwire.retrieval.v1 import retrieval_service_pb2 as pb
from groundwire.retrieval.v1 import retrieval_service_pb2_grpc as rpc
from services.catalog.ports import Catalog
from services.corpus.errors import GroundwireError, Unavailable
from services.embedding.threads import usable_cores
from services.resilience.breaker import WORST_FIRST
from services.resilience.brownout import Brownout
from services.resilience.pool import Pool
from services.retrieval.ports import NamedStore, StoreCondition
from services.retrieval.rerank import RerankPolicy
from services.retrieval.retrieval import RetrievalPolicy, Retriever
from services.retrieval.servicer import RetrievalServicer
from services.retrieval.settings import RetrievalSettings, VectorStoreOptions
from services.runtime.identity import current_caller
from services.runtime.process import Process
from services.runtime.server import Service


async def assemble(
    settings: RetrievalSettings,
    process: Process,
    *,
    catalog: Catalog | None = None,
    stores: Sequence[NamedStore] | None = None,
) -> Service:
    """Wire retrieval to its stores, the models and the catalog.

    Tests hand in other adapters; the service owns, and closes, whatever it is given.
    """
    options = settings.retrieval
    opened_catalog = catalog or await process.catalog(settings)
    opened_stores = stores or [await _open_store(settings, process, store) for store in options.vector_stores]
    brownout = Brownout(time.monotonic)
    reranks = options.reranker_endpoint == "embedded:"
    retriever = Retriever(
        stores=opened_stores,
        catalog=opened_catalog,
        embedder=await process.embedder(settings),
        cross_encoder=await process.cross_encoder(settings) if reranks else None,
        policy=RetrievalPolicy(
            store_timeout=options.store_timeout,
            embed_timeout=settings.embedding.query_timeout,
            rerank=RerankPolicy(budget=options.rerank_budget),
        ),
        pressure=brownout.step,
    )
    servicer = RetrievalServicer(retriever, caller_of=current_caller, digest=await process.query_digest(settings))

    def register(server: grpc.aio.Server) -> None:
        rpc.add_RetrievalServiceServicer_to_server(servicer, server)

    async def ready() -> None:
        await opened_catalog.check()
        answers = await asyncio.gather(*(store.store.capabilities() for store in opened_stores), return_exceptions=True)
        # One store that answers is enough: coverage tells callers about the others.
        if all(isinstance(answer, GroundwireError) for answer in answers):
            raise Unavailable("no vector store answers")

    async def close() -> None:
        await asyncio.gather(*(store.store.close() for store in opened_stores))
        await opened_catalog.close()

    return Service(
        name="retrieval",
        descriptors=[pb.DESCRIPTOR.services_by_name["RetrievalService"]],
        register=register,
        ready=ready,
        close=close,
        recorder=await process.recorder(settings, "retrieval", several=True),
        deadline_cap=options.timeout,
        # Its work is computing, mostly: more at once makes each call slower and none sooner.
        initial_limit=2 * usable_cores(),
        brownout=brownout,
    )


async def _open_store(settings: RetrievalSettings, process: Process, options: VectorStoreOptions) -> NamedStore:
    channel = process.store_channel(options.address, "retrieval", options.name, settings)
    store = await process.sealed_store(settings, channel)
    return NamedStore(options.name, store, partial(_condition, channel.pool))


def _condition(pool: Pool) -> StoreCondition:
    members = pool.members
    breakers = {member.breaker_state for member in members}
    return StoreCondition(
        breaker=next((state.value for state in WORST_FIRST if state in breakers), ""),
        problem=pool.problem,
        in_flight=sum(member.in_flight for member in members),
    )
