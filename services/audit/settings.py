"""The audit service's knobs."""

from __future__ import annotations

from services.runtime.settings import Settings


class AuditSettings(Settings):
    """It has none of its own yet."""
