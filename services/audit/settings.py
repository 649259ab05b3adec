"""The audit service's knobs."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from services.runtime.options import Options
from services.runtime.settings import Settings


class AuditOptions(Options):
    """The audit log."""

    directory: Path | None = Field(None, description="Where the log is kept; unset: `audit` in the data directory.")
    signing_key: Path | None = Field(
        None, description="The file of the key that signs checkpoints; unset: `signing-key` in the log's directory."
    )
    witness: bool = Field(True, description="Whether the witness at `addresses.witness` is asked to cosign.")
    witness_key: str = Field(
        "", description="The witness's verifier key; empty: the one that it wrote into the data directory."
    )
    remembered_events: int = Field(
        100_000, ge=1_000, le=10_000_000, description="How many of the last events can be repeated without a copy."
    )


class AuditSettings(Settings):
    """Section ``audit``."""

    audit: AuditOptions = AuditOptions()

    @property
    def directory(self) -> Path:
        """The log's directory."""
        return self.audit.directory or self.data_dir / "audit"
