"""The retrieval service's knobs."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from services.runtime.options import WORKERS_DESCRIPTION, Options
from services.runtime.settings import Settings


class VectorStoreOptions(Options):
    """One vector store that is asked."""

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9\-]{0,62}$", description="What coverage and citations call it: 1 to 63 of a-z 0-9 -"
    )
    address: str = Field("", description="Its StoreService, `host:port` or `unix:/path`; empty: the mesh's own.")


class RetrievalOptions(Options):
    """How passages are found."""

    vector_stores: tuple[VectorStoreOptions, ...] = Field(
        (VectorStoreOptions(name="store"),), min_length=1, description="The stores, all asked at the same time."
    )
    reranker_endpoint: Literal["embedded:", "none:"] = Field("embedded:", description="The cross-encoder.")
    store_timeout: float = Field(2.0, gt=0, le=60, description="Seconds that one store may take to answer.")
    rerank_budget: float = Field(1.0, gt=0, le=60, description="Seconds that reranking may take.")
    timeout: float = Field(30.0, gt=0, le=600, description="Seconds for a call whose caller sets no deadline.")
    workers: int = Field(1, ge=1, le=64, description=WORKERS_DESCRIPTION)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = [store.name for store in self.vector_stores]
        if len(set(names)) != len(names):
            raise ValueError("vector_stores need distinct names")
        return self


class RetrievalSettings(Settings):
    """Section ``retrieval``."""

    retrieval: RetrievalOptions = RetrievalOptions()
