"""The query service's knobs."""

from __future__ import annotations

from pydantic import Field

from services.runtime.options import WORKERS_DESCRIPTION, Options
from services.runtime.settings import Settings


class QueryOptions(Options):
    """How questions are handled."""

    timeout: float = Field(60.0, gt=0, le=600, description="Seconds for a question whose caller sets no deadline.")
    workers: int = Field(1, ge=1, le=64, description=WORKERS_DESCRIPTION)


class QuerySettings(Settings):
    """Section ``query``."""

    query: QueryOptions = QueryOptions()
