"""The ingestion service's knobs."""

from __future__ import annotations

from pydantic import Field

from services.runtime.options import Options
from services.runtime.settings import Settings


class IngestionOptions(Options):
    """How documents are taken in."""

    vector_store_url: str = Field(
        "", description="The StoreService that chunks go to, `host:port` or `unix:/path`; empty: the mesh's own."
    )
    timeout: float = Field(900.0, gt=0, le=3600, description="Seconds for a batch whose caller sets no deadline.")
    max_document_mib: int = Field(32, ge=1, le=60, description="The largest document that is read.")
    in_flight: int = Field(32, ge=1, le=256, description="Documents that are worked on at a time.")
    parser_workers: int = Field(2, ge=1, le=32, description="Processes that parse, one document each at a time.")
    parser_timeout: float = Field(60.0, gt=0, le=600, description="Seconds that one document may take to parse.")
    parser_memory_mib: int = Field(1024, ge=256, le=16384, description="Address space of a parsing process.")
    chunk_target_chars: int = Field(900, ge=16, le=20_000, description="The length that chunks aim at.")
    chunk_max_chars: int = Field(1500, ge=16, le=20_000, description="The length that no chunk exceeds.")
    chunk_overlap_chars: int = Field(120, ge=0, le=5_000, description="What the parts of a long block share.")


class IngestionSettings(Settings):
    """Section ``ingestion``."""

    ingestion: IngestionOptions = IngestionOptions()
