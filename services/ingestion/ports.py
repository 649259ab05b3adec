"""What the ingestion domain needs: a parser, an embedder, a vector store and the catalog."""

from __future__ import annotations

from services.catalog.ports import Catalog, VersionPlan
from services.embedding.ports import Embedder
from services.ingestion.parsed import DocumentParser
from services.vectorstores.ports import VectorStore

__all__ = ["Catalog", "DocumentParser", "Embedder", "VectorStore", "VersionPlan"]
