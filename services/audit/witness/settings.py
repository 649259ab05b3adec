"""The witness's knobs."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from services.runtime.options import Options
from services.runtime.settings import Settings


class WitnessOptions(Options):
    """What the witness keeps, and whose log it watches."""

    directory: Path | None = Field(None, description="Where it remembers; unset: `witness` in the data directory.")
    signing_key: Path | None = Field(
        None, description="The file of its key; unset: `signing-key` in its own directory."
    )
    log_key: str = Field(
        "", description="The log's verifier key; empty: the one in the data directory, kept from the first time on."
    )


class WitnessSettings(Settings):
    """Section ``witness``."""

    witness: WitnessOptions = WitnessOptions()

    @property
    def directory(self) -> Path:
        """The witness's directory."""
        return self.witness.directory or self.data_dir / "witness"
