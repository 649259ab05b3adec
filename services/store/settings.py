"""The store's knobs."""

from __future__ import annotations

from pydantic import Field

from services.runtime.options import Options
from services.runtime.settings import Settings


class StoreOptions(Options):
    """Which engines keep the chunks."""

    vectors_url: str = Field(
        "chroma:",
        pattern=r"^(chroma:|chroma\+https?://[A-Za-z0-9.\-\[\]:]+:\d{1,5}/?)$",
        description="chroma: embedded in the data directory; chroma+http://HOST:PORT: a Chroma server.",
    )


class StoreSettings(Settings):
    """Section ``store``."""

    store: StoreOptions = StoreOptions()
