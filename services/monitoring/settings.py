"""The monitoring service's knobs."""

from __future__ import annotations

from services.runtime.settings import Settings


class MonitoringSettings(Settings):
    """It has none of its own yet."""
