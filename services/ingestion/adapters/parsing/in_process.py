"""InProcessParser: parsing on a thread of this process, for tests and for content that is trusted."""

from __future__ import annotations

import asyncio

from services.corpus.document import MediaType
from services.ingestion.adapters.parsing import formats
from services.ingestion.parsed import ChunkLimits, SplitDocument


class InProcessParser:
    """A DocumentParser without isolation: a hang or a crash of a parser is one of the whole process."""

    async def split(self, content: bytes, media_type: MediaType, limits: ChunkLimits) -> SplitDocument:
        """Parse and chunk one document on a thread."""
        return await asyncio.to_thread(formats.split, content, media_type, limits)

    async def close(self) -> None:
        """Nothing is kept."""
